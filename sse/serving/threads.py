"""Batches of texts on several threads, results in order, few batches in memory."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from numpy.typing import NDArray

LETTERS = 1_000_000  # of a batch, about: its tokens take memory for each
SMALLEST = 128  # texts per batch at least: fewer do not repay a thread's turn


def batches(texts: Iterable[str], size: int, workers: int) -> Iterator[Sequence[str]]:
    """Runs of `size` texts; shorter runs of a short list, so that each worker has two."""
    if isinstance(texts, list | tuple):
        size = min(size, max(SMALLEST, -(-len(texts) // (2 * workers))))
        for start in range(0, len(texts), size):
            yield texts[start : start + size]
        return
    iterator = iter(texts)
    while batch := _read(iterator, size):
        yield batch


def _read(texts: Iterator[str], size: int) -> list[str]:
    """The next `size` texts, or fewer once they have `LETTERS`."""
    batch: list[str] = []
    letters = 0
    while letters < LETTERS and len(batch) < size:
        some = list(islice(texts, min(SMALLEST, size - len(batch))))
        if not some:
            break
        batch += some
        with contextlib.suppress(TypeError):  # no texts: the caller says so
            letters += sum(map(len, some))
    return batch


def in_order(
    work: Callable[[Sequence[str], int], NDArray[Any]],
    parts: Iterable[Sequence[str]],
    workers: int,
) -> Iterator[NDArray[Any]]:
    """`work(part, number of its first text)` of each part on `workers` threads, in order.

    Only a few parts are read ahead, so a stream may be endless.
    """
    if workers == 1:  # no thread but the caller's
        first = 0
        for part in parts:
            yield work(part, first)
            first += len(part)
        return
    waiting: deque[Future[NDArray[Any]]] = deque()
    first = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(work, part, first))
                first += len(part)
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def counted(parts: Iterator[NDArray[Any]], bar: Any) -> Iterator[NDArray[Any]]:
    """`parts` as they are, their rows counted by a progress bar."""
    with bar:
        for part in parts:
            yield part
            bar.update(len(part))
