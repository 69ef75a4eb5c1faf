"""The engines of the search benchmark: the 10 best of normalised vectors, by the cosine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.serving.index import threads_for

K = 10
Find = Callable[[NDArray[np.float32]], Any]


def engines(vectors: NDArray[np.float32], say: Callable[[str], None]) -> dict[str, Find]:
    """Each installed engine over `vectors` (n, d); those missing are named to `say`."""
    made: dict[str, Find] = {}
    for name, make in (
        ("numpy", _numpy),
        ("torch", _torch),
        ("faiss exact", _faiss_exact),
        ("faiss binary, 100 rescored", _faiss_binary),
        ("usearch exact", _usearch),
    ):
        try:
            made[name] = make(vectors)
        except ImportError as error:
            say(f"left out: {name} ({error})")
    return made


def _numpy(vectors: NDArray[np.float32]) -> Find:
    def find(queries: NDArray[np.float32]) -> Any:
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        return np.take_along_axis(best, order, 1)

    return find


def _torch(vectors: NDArray[np.float32]) -> Find:
    import torch

    table = torch.from_numpy(vectors)
    return lambda queries: (torch.from_numpy(queries) @ table.T).topk(K)


def _faiss_exact(vectors: NDArray[np.float32]) -> Find:
    """As `sse.serving.index` does it."""
    import faiss

    def find(queries: NDArray[np.float32]) -> Any:
        with threads_for(faiss, len(queries)):
            return faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)

    return find


def _faiss_binary(vectors: NDArray[np.float32]) -> Find:
    """As `sse.serving.index` does it."""
    import faiss

    codes = np.packbits(vectors > 0, axis=1)
    small = vectors.astype(np.float16)

    def find(queries: NDArray[np.float32]) -> Any:
        with threads_for(faiss, len(queries)):
            _, rows = faiss.knn_hamming(np.packbits(queries > 0, axis=1), codes, 10 * K)
        scores = np.einsum("qkd,qd->qk", small[rows].astype(np.float32), queries)
        return np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], 1)

    return find


def _usearch(vectors: NDArray[np.float32]) -> Find:
    from usearch.index import MetricKind, search

    return lambda queries: search(vectors, queries, K, MetricKind.IP, exact=True)
