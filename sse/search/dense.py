"""The nearest vectors, by an exact scan in memory.

A large index is scanned in two stages: by the first dimensions alone, which a Matryoshka model has
trained to be vectors of their own, then the best of that scan by all dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 20_000  # vectors from which on the scan has two stages
PREFIX = 128  # dimensions of the first stage
OVERSAMPLING = 8  # vectors of the first stage per one of the result

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # numbers of vectors, inner products


class Vectors:
    """Vectors (n, dim) of length 1, float32."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.all = vectors
        two_stages = len(vectors) >= LARGE and vectors.shape[1] > PREFIX
        # One dimension after the other: BLAS reads this order fastest.
        self._rough = np.ascontiguousarray(vectors[:, :PREFIX].T) if two_stages else None

    def nearest(
        self, query: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None = None
    ) -> Found:
        """The `k` vectors with the largest inner products, in no order.

        Args:
            query: (dim,), of length 1.
            k: how many at most.
            rows: the numbers of the vectors to look at; all by default.
        """
        if rows is None:
            rows = np.arange(len(self.all))
            if self._rough is not None:
                rows, _ = _best(rows, query[:PREFIX] @ self._rough, OVERSAMPLING * k)
        whole = len(rows) == len(self.all)
        return _best(rows, (self.all if whole else self.all[rows]) @ query, k)


def _best(rows: NDArray[np.int64], scores: NDArray[Any], k: int) -> Found:
    if k < len(rows):
        best = np.argpartition(-scores, k - 1)[:k]
        return rows[best], scores[best]
    return rows, scores
