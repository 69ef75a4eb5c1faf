"""Which pairs are held out, and which are trained on: chosen by a hash of their text.

So the choice is the same on every machine, in whatever order the pairs come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sse.common.errors import UserError
from sse.data.batch_plan import Rows

# At most this share of the pairs is held out, however few there are.
HOLDOUT_SHARE = 0.1


def hold_out(
    text_ids: list[np.ndarray], count: int, groups: Sequence[np.ndarray | None] = ()
) -> list[Rows]:
    """Rows to hold out of each set: the pairs with the smallest hash of their text.

    `text_ids` holds per set the (n, columns) 64-bit hashes of the texts. Over all sets `count`
    pairs are held out, at most `HOLDOUT_SHARE` of them. A set with `groups` gives whole documents,
    in proportion to its size; see `hold_out_groups`.
    """
    total = sum(map(len, text_ids))
    count = min(count, int(total * HOLDOUT_SHARE))
    grouped = {at: group for at, group in enumerate(groups) if group is not None}
    if grouped and count:
        rest = [ids for at, ids in enumerate(text_ids) if at not in grouped]
        others = iter(hold_out(rest, count * sum(map(len, rest)) // total))
        return [
            hold_out_groups(grouped[at], count * len(ids) // total)
            if at in grouped
            else next(others)
            for at, ids in enumerate(text_ids)
        ]
    if count == 0:
        return [np.zeros(0, np.int64) for _ in text_ids]
    keys = [_mix(ids[:, 0], ids[:, 1]) for ids in text_ids]
    limit = _smallest(keys, count)
    return [np.flatnonzero(key <= limit) for key in keys]


def hold_out_groups(groups: np.ndarray, count: int) -> Rows:
    """Rows of whole documents to hold out, with at most `count` passages and `HOLDOUT_SHARE`.

    Documents are taken in the order of a hash of theirs, while they fit. `groups` (n, 2) holds each
    row's 64-bit numbers of its document and its passage.
    """
    numbers, document = np.unique(groups[:, 0], return_inverse=True)
    sizes = np.bincount(document[np.unique(groups[:, 1], return_index=True)[1]])
    count = min(count, int(sizes.sum() * HOLDOUT_SHARE))
    taken = np.zeros(len(numbers), bool)
    for at in np.argsort(_mix(numbers, numbers)):
        if sizes[at] <= count:
            taken[at] = True
            count -= int(sizes[at])
    return np.flatnonzero(taken[document])


def one_of_each(groups: np.ndarray | None, rows: Rows) -> Rows:
    """Of `rows` one for each passage, chosen by a hash; all where there are no `groups`.

    The pairs of a passage have nearly the same positive. Side by side in one collection, each
    would be an answer to the others' queries that is judged wrong.
    """
    if groups is None or not len(rows):
        return rows
    passages = groups[rows, 1]
    order = np.lexsort((_mix(rows.astype(np.uint64), passages), passages))
    first = np.r_[True, np.diff(passages[order]) != 0]
    return np.sort(rows[order[first]])


def train_rows(text_ids: np.ndarray, heldout: Rows) -> Rows:
    """Every row that shares neither anchor nor positive with a held-out pair of its set."""
    seen = np.unique(text_ids[heldout, :2])
    if not len(seen):
        return np.arange(len(text_ids))
    shared = np.zeros(len(text_ids), bool)
    for column in (0, 1):
        ids = text_ids[:, column]
        # Not np.isin, which sorts all of the ids: `seen` is short.
        nearest = np.minimum(np.searchsorted(seen, ids), len(seen) - 1)
        shared |= seen[nearest] == ids
    return np.flatnonzero(~shared)


def choose(text_ids: list[np.ndarray], rows: list[Rows], count: int) -> list[Rows]:
    """`count` of the rows over all sets, those with the smallest hash of their text.

    So a smaller choice is part of a larger one. Fewer rows than `count` raise UserError.
    """
    # The columns in the other order than in `hold_out`: another hash.
    keys = [_mix(ids[own, 1], ids[own, 0]) for ids, own in zip(text_ids, rows, strict=True)]
    total = sum(map(len, keys))
    if count > total:
        raise UserError(
            f"pairs is {count:,}: there are {total:,} pairs to train on; give fewer, or null"
        )
    limit = _smallest(keys, count)
    return [own[key <= limit] for own, key in zip(rows, keys, strict=True)]


def _smallest(keys: list[np.ndarray], count: int) -> np.uint64:
    """The `count`-th smallest of all keys."""
    return np.uint64(np.partition(np.concatenate(keys), count - 1)[count - 1])


def _mix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A 64-bit hash of two (the finaliser of splitmix64), computed in place."""
    key: np.ndarray = np.multiply(first, np.uint64(0x9E3779B97F4A7C15), dtype=np.uint64)
    key ^= second
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key ^= key >> np.uint64(shift)
        key *= np.uint64(factor)
    key ^= key >> np.uint64(31)
    return key
