"""Ranges: which numbers they hold, and how a refusal reads."""

import math
from argparse import ArgumentTypeError
from typing import Annotated

import pytest

from sse.common.errors import UserError
from sse.common.ranges import LARGEST, check_ranges, ranges_of, real, whole


@pytest.mark.parametrize(
    ("numbers", "within", "outside", "words"),
    [
        (whole(1), [1, LARGEST], [0, -1, LARGEST + 1, 10**400], "at least 1"),
        (whole(1, besides=(-1,)), [-1, 1], [0, -2], "at least 1, or -1"),
        (whole(2, 9, why="as it is"), [2, 9], [1, 10], "2 to 9, as it is"),
        (real(0, below=1), [0, 0.999], [1, -0.1, math.nan], "0 to below 1"),
        (real(above=0), [1e-300, 1e300], [0, math.inf, math.nan], "more than 0"),
        (real(above=0, high=1), [1], [0, 1.1], "more than 0 to 1"),
        (real(), [-5.0, 0], [math.inf, -math.inf, math.nan], "a finite number"),
    ],
)
def test_a_range_holds_its_numbers_and_says_them(numbers, within, outside, words):
    assert all(number in numbers for number in within)
    assert not any(number in numbers for number in outside)
    assert str(numbers) == words


def test_a_command_line_is_read_or_refused():
    assert whole(1)("12") == 12
    assert real(0)("0.5") == 0.5
    for text, words in [
        ("0", "0: give at least 1"),
        ("x", "'x' is no whole number"),
        ("1.5", "no"),
    ]:
        with pytest.raises(ArgumentTypeError, match=words):
            whole(1)(text)


def test_the_arguments_of_a_function_are_checked_by_their_annotations():
    def train(
        lr: Annotated[float, real(above=0)],
        dims: list[Annotated[int, whole(1)]] | None = None,
        name: str = "x",
        steps: Annotated[int, whole(1)] | bool = True,
    ) -> None: ...

    assert set(ranges_of(train)) == {"lr", "dims", "steps"}
    check_ranges(train, {"lr": 0.1, "dims": None, "steps": False})
    with pytest.raises(UserError, match=r"^`dims` is 0: give at least 1$"):
        check_ranges(train, {"lr": 0.1, "dims": [3, 0], "steps": 2})
    with pytest.raises(UserError, match=r"^`lr` is nan: give more than 0$"):
        check_ranges(train, {"lr": math.nan, "dims": [3], "steps": 2})
