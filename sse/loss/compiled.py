"""What `sse.loss._tiled`, a small C file, does for the tiled loss on a CPU in float32.

It goes over a tile's products once, row by row: softmax, its gradient, and the sums for the norms.
Threads share chunks of rows. Each chunk has sums of its own, which are added in order. So no bit
depends on the number of threads.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    _residuals: Any = import_module("sse.loss._tiled").residuals
except (ImportError, AttributeError):  # no C compiler at installation, or older C
    _residuals = None

CHUNK = 32  # rows
# Elements of a tile, over all dims, that are worth another thread: a quarter of a millisecond.
THREAD_WORK = 1 << 18


class More(NamedTuple):
    """What document -> query and label smoothing need."""

    lse: Tensor | None  # (dims, B), log-sum-exp of the positives' columns
    row_spread: Tensor | None  # (rows,), the smoothing of each document that counts
    column_spread: Tensor | None  # (B,), the same of each query
    smoothing: float


def takes(query: Tensor) -> bool:
    """Whether C does a batch with these queries."""
    on_cpu = query.device.type == "cpu"
    return _residuals is not None and on_cpu and query.dtype == torch.float32


def residuals(
    grams: Tensor,
    inverse_q: Tensor,
    inverse_d: Tensor,
    shares: Sequence[float],
    excluded: Tensor | None,
    diagonal: int,
    more: More,
) -> tuple[Tensor, Tensor, float]:
    """Turn `grams` (dims, rows, M), the blocks' products, into dloss/dG, as `_tiled.c` says.

    Args:
        grams: overwritten.
        inverse_q: (dims, rows), the inverse norms times the scale.
        inverse_d: (dims, M), the inverse norms.
        shares: each dim's weight in the loss.
        excluded: (rows, M) bool, pairs that do not count.
        diagonal: the column of the first row's own document.
        more: for the other direction and smoothing.

    Returns:
        sum_j P S (dims, rows), sum_i P S of each chunk (chunks, dims, M), and the loss.
    """
    dims, rows, m = grams.shape
    chunks = -(-rows // CHUNK)
    threads = min(torch.get_num_threads(), 1 + grams.numel() // THREAD_WORK, chunks)
    by_q, by_d = grams.new_empty(dims, rows), grams.new_empty(chunks, dims, m)
    losses = array("d", bytes(8 * chunks))
    before = [t.numpy() for t in (grams, inverse_q, inverse_d)]
    after = [None if t is None else t.numpy() for t in (excluded, by_q, by_d)]
    rest = [None if t is None else t.numpy() for t in more[:3]]
    fixed = (*before, array("f", shares), *after, losses, *rest, more.smoothing, CHUNK, diagonal)

    def share(thread: int) -> None:
        _residuals(*fixed, chunks * thread // threads, chunks * (thread + 1) // threads)

    others = [_helpers(threads).submit(share, i) for i in range(1, threads)]
    share(0)
    for other in others:
        other.result()
    return by_q, by_d, sum(losses)


@functools.cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, since making one takes as long as 100,000 elements."""
    return ThreadPoolExecutor(max(1, threads - 1))


if hasattr(os, "register_at_fork"):  # a child has none of them
    os.register_at_fork(after_in_child=_helpers.cache_clear)
