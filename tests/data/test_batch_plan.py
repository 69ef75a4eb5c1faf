"""Batches are a function of (seed, epoch), hold no text twice and one set each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse.common.errors import UserError
from sse.data.batch_plan import first_fit, plan_epoch


def distinct(n, start=0):
    """Text ids of n pairs that share nothing."""
    return np.arange(start, start + 2 * n, dtype=np.uint64).reshape(n, 2)


def rows_of(plan, number):
    return np.concatenate([batch.rows for batch in plan if batch.set == number])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=80),
    st.integers(2, 9),
)
def test_no_text_stands_twice_and_every_row_comes_once(pairs, batch_size):
    ids = np.array(pairs, np.uint64)
    batches = list(first_fit(ids, np.arange(len(ids)), batch_size))
    assert sorted(np.concatenate(batches)) == list(range(len(ids)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        seen = set()
        for row in ids[batch]:
            assert not seen & set(row.tolist())
            seen |= set(row.tolist())


def test_without_repeats_batches_are_full_and_in_order():
    order = np.random.default_rng(0).permutation(100)
    batches = list(first_fit(distinct(100), order, 30))
    assert [len(b) for b in batches] == [30, 30, 30, 10]
    assert np.array_equal(np.concatenate(batches), order)


def test_an_anchor_equal_to_its_positive_is_no_conflict():
    ids = np.array([[1, 1], [2, 3], [4, 4]], np.uint64)
    assert [len(b) for b in first_fit(ids, np.arange(3), 3)] == [3]


def test_plans_repeat_for_the_same_epoch_and_differ_between_epochs_and_seeds():
    ids, rows = [distinct(200), distinct(90)], [np.arange(200), np.arange(90)]

    def flat(seed, epoch):
        plan = plan_epoch(ids, rows, 16, seed, epoch)
        return [(b.set, b.rows.tolist()) for b in plan]

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)


def test_proportional_gives_each_set_its_share_and_every_row():
    ids, rows = [distinct(320), distinct(96)], [np.arange(320), np.arange(96)]
    plan = plan_epoch(ids, rows, 16, 0, 0)
    assert [sum(b.set == s for b in plan) for s in (0, 1)] == [20, 6]
    assert sorted(rows_of(plan, 0)) == list(range(320))
    labels = [b.set for b in plan]
    assert labels != sorted(labels), "sets take turns"


def test_round_robin_ends_with_the_smallest_set():
    ids, rows = [distinct(320), distinct(96)], [np.arange(320), np.arange(96)]
    plan = plan_epoch(ids, rows, 16, 0, 0, "round_robin")
    assert [b.set for b in plan] == [0, 1] * 6


def test_only_the_given_rows_are_used():
    plan = plan_epoch([distinct(100)], [np.arange(40, 100)], 20, 0, 0)
    assert rows_of(plan, 0).min() == 40


def test_a_set_smaller_than_the_batch_says_so():
    with pytest.raises(UserError, match="tiny.*`batch_size` to 10 or less"):
        plan_epoch([distinct(10)], [np.arange(10)], 512, 0, 0, names=["tiny"])


def test_a_set_of_one_repeated_text_ends_in_a_clear_line():
    ids = np.column_stack([np.zeros(5000, np.uint64), np.arange(1, 5001, dtype=np.uint64)])
    with pytest.raises(UserError, match="without repeating a text"):
        plan_epoch([ids], [np.arange(5000)], 64, 0, 0)
    masked = plan_epoch([ids], [np.arange(5000)], 64, 0, 0, unique_texts=False)
    assert len(masked) == 78, "8 rows are too few for a batch"
