"""The range of every number that an option takes, declared beside the option.

A library's argument has its range in its type, and `check_ranges` compares:

    def __init__(self, lr: Annotated[float, real(above=0)] = 0.1): ...

A command's option has it in place of `int` or `float`: `add("--dim", type=whole(1))`.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from sse.common.errors import UserError

LARGEST = 2**31 - 1  # of a whole number without a bound of its own


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; without an end where `above` or `below` is set.

    Attributes:
        kind: `int` or `float`.
        low: the least number; with `above` the next greater one.
        high: the greatest number; with `below` the next smaller one.
        above: whether `low` is left out.
        below: whether `high` is left out.
        besides: further numbers, with a meaning of their own.
        why: what a refusal says after the range.
    """

    kind: type[int] | type[float]
    low: float
    high: float
    above: bool = False
    below: bool = False
    besides: tuple[int, ...] = ()
    why: str = ""

    def __contains__(self, value: float) -> bool:
        """Whether `value` is one of the numbers; NaN and infinity never are."""
        if value in self.besides:
            return True
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and (isinstance(value, int) or math.isfinite(value))

    def __str__(self) -> str:
        """The range in words, such as `more than 0 to below 1`."""
        if self.low == -math.inf and self.high == math.inf:
            return "a finite number"
        bounded = self.high not in (math.inf, LARGEST)
        low = f"{'more than ' * self.above}{self.low:,}"
        if bounded:
            text = f"{low} to {'below ' * self.below}{self.high:,}"
        else:
            text = low if self.above else f"at least {low}"
        if self.besides:
            text += f", or {' or '.join(map(str, self.besides))}"
        return text + (f", {self.why}" if self.why else "")

    def __call__(self, text: str) -> float:
        """The number that a command line gives; argparse calls this."""
        try:
            value = self.kind(text)
        except ValueError:
            noun = "whole number" if self.kind is int else "number"
            raise ArgumentTypeError(f"'{text[:50]}' is no {noun}: give {self}") from None
        if value not in self:
            raise ArgumentTypeError(f"{text[:50]}: give {self}")
        return value

    def check(self, name: str, value: Any) -> None:
        """UserError unless every number in `value` is in the range; `name` is the argument."""
        for number in value if isinstance(value, list | tuple) else [value]:
            counts = isinstance(number, int | float) and not isinstance(number, bool)
            if counts and number not in self:
                raise UserError(f"{name} is {str(number)[:50]}: give {self}")


def whole(low: int, high: int = LARGEST, *, besides: tuple[int, ...] = (), why: str = "") -> Range:
    """Whole numbers from `low` to `high`, and those of `besides`."""
    return Range(int, low, high, besides=besides, why=why)


def real(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    why: str = "",
) -> Range:
    """Finite numbers from `low` (or greater than `above`) to `high` (or less than `below`)."""
    return Range(
        float,
        low if above is None else above,
        high if below is None else below,
        above is not None,
        below is not None,
        why=why,
    )


def ranges_of(function: Callable[..., Any]) -> dict[str, Range]:
    """{argument: its range} of a function or a class."""
    signature = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    return {
        name: found
        for name, kind in get_type_hints(signature, include_extras=True).items()
        if (found := _find(kind)) is not None
    }


def check_ranges(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """UserError where a value is outside the range of the argument of its name."""
    for name, numbers in ranges_of(function).items():
        numbers.check(f"`{name}`", values[name])


def _find(kind: Any) -> Range | None:
    """The first range within an annotation."""
    if isinstance(kind, Range):
        return kind
    return next((found for part in _parts(kind) if (found := _find(part)) is not None), None)


def _parts(kind: Any) -> tuple[Any, ...]:
    return (*get_args(kind), *getattr(kind, "__metadata__", ()))
