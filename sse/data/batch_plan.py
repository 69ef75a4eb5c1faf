"""Stateless batches: the batches of an epoch are a function of (seed, epoch), nothing else.

- One set per batch; sets take turns in proportion to their batches, or round-robin.
- No text stands twice in a batch, as anchor, positive or negative: it would be a false negative.
- Any step of any epoch can be rebuilt without those before it, so a resumed run has the batches of
  one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, one_of

Rows = NDArray[np.int64]

# Rows looked at for one batch, in batch sizes. It bounds the work where a few texts fill a set.
WINDOW = 8
ORDERS = ("proportional", "round_robin")


class Batch(NamedTuple):
    """Some rows of one set."""

    set: int
    rows: Rows


def first_fit(text_ids: NDArray[np.integer], order: Rows, batch_size: int) -> Iterator[Rows]:
    """Cut `order` into batches in which no text stands twice; the last ones may be short.

    A row waits for the next batch when one of its texts occurs earlier in the window, even in a row
    that waits itself: this keeps the choice vectorised. `text_ids` (n, columns) has equal integers
    for equal texts; `order` is a permutation of row numbers.
    """
    columns = text_ids.shape[1]
    waiting = order[:0]
    position = 0
    while position < len(order) or len(waiting):
        batch: Rows = waiting[:0]
        free = np.zeros(0, bool)
        while True:
            pull = batch_size - len(batch)
            waiting = np.concatenate([waiting, order[position : position + pull]])
            position += pull
            # A text may repeat within a row (anchor = positive), so compare row numbers, not cells.
            _, first, inverse = np.unique(text_ids[waiting], return_index=True, return_inverse=True)
            first_row = (first // columns)[inverse.reshape(-1, columns)]
            free = (first_row == np.arange(len(waiting))[:, None]).all(1)
            batch = waiting[free][:batch_size]
            full = len(batch) == batch_size or len(waiting) >= WINDOW * batch_size
            if full or position >= len(order):
                break
        free[np.flatnonzero(free)[batch_size:]] = False
        waiting = waiting[~free]
        yield batch


def plan_epoch(
    text_ids: Sequence[NDArray[np.integer]],
    rows: Sequence[Rows],
    batch_size: int,
    seed: int,
    epoch: int,
    order: str = "proportional",
    unique_texts: bool = True,
    names: Sequence[str] | None = None,
) -> list[Batch]:
    """All batches of an epoch.

    A batch under half of `batch_size` is left out: it has too few negatives for the full learning
    rate. Its rows differ from epoch to epoch.

    Args:
        text_ids: per set, (n, columns) ids of its texts.
        rows: per set, the rows to train on.
        batch_size: rows per batch, over all processes.
        seed: the run's seed.
        epoch: the epoch's number.
        order: `proportional` (each set as often as it has batches) or `round_robin` (one batch of
            each set in turn, until the smallest set is used up).
        unique_texts: False allows repeats, for use with a mask in the loss.
        names: the sets' names, for messages.

    Raises:
        UserError: a set has no batch of this size.
    """
    per_set: list[list[Rows]] = []
    for number, (ids, own) in enumerate(zip(text_ids, rows, strict=True)):
        shuffled = np.random.default_rng([seed, epoch, number]).permutation(own)
        cut = (
            list(first_fit(ids, shuffled, batch_size))
            if unique_texts
            else [shuffled[i : i + batch_size] for i in range(0, len(own), batch_size)]
        )
        kept = [batch for batch in cut if 2 * len(batch) >= batch_size and len(batch) > 1]
        if not kept:
            raise UserError(
                f"{names[number] if names else f'set {number}'}: its {len(own)} training pairs "
                f"make no batch of {batch_size}"
                f"{' without repeating a text' if unique_texts else ''}: "
                f"set `batch_size` to {max([len(batch) for batch in cut], default=2)} or less"
            )
        per_set.append(kept)
    if order == "round_robin":
        turns = min(len(batches) for batches in per_set)
        return [Batch(s, batches[t]) for t in range(turns) for s, batches in enumerate(per_set)]
    if order != "proportional":
        raise UserError(f"order is '{order}': {one_of(order, ORDERS)}")
    labels = np.repeat(np.arange(len(per_set)), [len(batches) for batches in per_set])
    np.random.default_rng([seed, epoch, len(per_set)]).shuffle(labels)
    iterators = [iter(batches) for batches in per_set]
    return [Batch(int(s), next(iterators[s])) for s in labels]
