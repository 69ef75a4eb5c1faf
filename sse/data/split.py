"""Which pairs are held out, and which are trained on: chosen by a hash of their text.

So the choice is the same on every machine, in whatever order the pairs come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sse.common.errors import UserError
from sse.data.batch_plan import Rows
from sse.data.tables import release

# At most this share of a set is held out, however small the set.
HOLDOUT_SHARE = 0.1
RUN = 1 << 17  # rows looked at together


def hold_out(text_ids: list[np.ndarray], count: int) -> list[Rows]:
    """Rows to hold out of each set: the pairs with the smallest hash of their text.

    The choice depends on the texts alone, so it is the same on every machine and in every order.

    Args:
        text_ids: per set, (n, columns) 64-bit hashes of the texts.
        count: pairs over all sets; at most `HOLDOUT_SHARE` of them.
    """
    count = min(count, int(sum(map(len, text_ids)) * HOLDOUT_SHARE))
    if count == 0:
        return [np.zeros(0, np.int64) for _ in text_ids]
    smallest = np.zeros(0, np.uint64)
    for ids in text_ids:
        for _, part in _runs(ids):
            smallest = np.concatenate([smallest, _mix(part[:, 0], part[:, 1])])
            if len(smallest) > count:
                smallest = np.partition(smallest, count - 1)[:count]
    limit = smallest.max()
    return [
        np.flatnonzero(_told(ids, lambda part: _mix(part[:, 0], part[:, 1]) <= limit))
        for ids in text_ids
    ]


def train_rows(text_ids: np.ndarray, heldout: Rows) -> Rows:
    """Every row that shares neither anchor nor positive with a held-out pair of its set."""
    seen = np.unique(text_ids[heldout, :2])
    return np.flatnonzero(_told(text_ids, lambda part: ~np.isin(part[:, :2], seen).any(1)))


def _told(text_ids: np.ndarray, test: Callable[[np.ndarray], Any]) -> np.ndarray:
    """(n,) bool: what `test` says of each row."""
    told = np.zeros(len(text_ids), bool)
    for first, part in _runs(text_ids):
        told[first : first + len(part)] = test(part)
    return told


def _runs(text_ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of rows with the number of their first: what is computed of them stays small."""
    files = [str(text_ids.filename)] if isinstance(text_ids, np.memmap) else []
    for first in range(0, len(text_ids), RUN):
        yield first, text_ids[first : first + RUN]
        release(files)


def choose(text_ids: list[np.ndarray], rows: list[Rows], count: int) -> list[Rows]:
    """`count` of the rows over all sets, those with the smallest hash: nested, in any order.

    Args:
        text_ids: per set, (n, columns) 64-bit hashes of the texts.
        rows: per set, the rows to choose from.
        count: rows over all sets.

    Raises:
        UserError: there are fewer.
    """
    keys = [
        _mix(ids[own, 1], ids[own, 0]) for ids, own in zip(text_ids, rows, strict=True)
    ]  # the columns' other order, so not the hash that chose the held-out pairs
    total = sum(map(len, keys))
    if count > total:
        raise UserError(
            f"--data.pairs {count:,}: there are {total:,} pairs to train on; give fewer, or null"
        )
    limit = np.partition(np.concatenate(keys), count - 1)[count - 1]
    return [own[key <= limit] for own, key in zip(rows, keys, strict=True)]


def _mix(anchor: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """One well-mixed 64-bit key of two (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        key = anchor.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ positive.astype(np.uint64)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return key ^ (key >> np.uint64(31))
