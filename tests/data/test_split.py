"""Which pairs are held out: by their texts alone, and none of these is trained on."""

import numpy as np
import pytest

from sse.common.errors import UserError
from sse.data.split import choose, hold_out, train_rows


@pytest.fixture
def text_ids():
    """Two sets whose texts repeat."""
    generator = np.random.default_rng(0)
    texts = generator.integers(0, 2**64, 400, np.uint64)
    return [texts[generator.integers(0, 400, (count, 3))] for count in (500, 90)]


def pairs(text_ids, rows):
    return [{tuple(pair) for pair in ids[own, :2]} for ids, own in zip(text_ids, rows, strict=True)]


def test_the_order_of_the_pairs_does_not_change_which_are_held_out(text_ids):
    held = hold_out(text_ids, 40)
    assert sum(map(len, held)) >= 40, "pairs of equal texts go together"
    reverse = [ids[::-1] for ids in text_ids]
    assert pairs(reverse, hold_out(reverse, 40)) == pairs(text_ids, held)
    fewer = pairs(text_ids, hold_out(text_ids, 20))
    assert all(a <= b for a, b in zip(fewer, pairs(text_ids, held), strict=True))


def test_the_pairs_held_out_are_those_of_every_release(text_ids):
    """A run that is resumed, and every figure on record, depends on it."""
    assert [rows.tolist() for rows in hold_out(text_ids, 6)] == [[0, 27, 110, 159], [78, 80]]
    assert [rows.tolist() for rows in choose(text_ids, [np.arange(90)] * 2, 6)] == [
        [18, 35, 89], [5, 25, 56],
    ]  # fmt: skip


def test_no_pair_that_shares_a_text_with_a_held_out_one_is_trained_on(text_ids):
    for ids, held in zip(text_ids, hold_out(text_ids, 40), strict=True):
        seen = {*ids[held, 0], *ids[held, 1]}
        expected = [n for n, row in enumerate(ids) if not seen & {*row[:2]}]
        assert train_rows(ids, held).tolist() == expected
        assert train_rows(ids, held[:0]).tolist() == list(range(len(ids)))


def test_a_tenth_of_the_pairs_at_most_is_held_out(text_ids):
    assert 59 <= sum(map(len, hold_out(text_ids, 1_000))) < 70
    assert [len(rows) for rows in hold_out([ids[:4] for ids in text_ids], 5)] == [0, 0]


def test_a_smaller_choice_is_part_of_a_larger_and_too_large_a_one_is_refused(text_ids):
    rows = [
        train_rows(ids, held) for ids, held in zip(text_ids, hold_out(text_ids, 9), strict=True)
    ]
    small, large = (choose(text_ids, rows, count) for count in (30, 60))
    assert sum(map(len, small)) >= 30
    for own, more, all_rows in zip(small, large, rows, strict=True):
        assert set(own) <= set(more) <= set(all_rows)
    with pytest.raises(UserError, match="pairs is 10,000: there are"):
        choose(text_ids, rows, 10_000)
