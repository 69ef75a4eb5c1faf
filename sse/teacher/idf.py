"""How rare each token is among the training texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sse.text.token_batch import TokenBatch

Texts = tuple[TokenBatch, NDArray[np.integer]]
CHUNK = 8_192  # texts counted at once


def inverse_frequencies(texts: Sequence[Texts], vocab: int) -> NDArray[np.float64]:
    """Idf (V,) of each token: log((N + 1) / (df + 0.5)), at least 0.

    N is the number of texts, df the number of those that hold the token.

    Args:
        texts: tokens of a column, and the rows of it that count.
        vocab: V.

    >>> column = TokenBatch(np.array([0, 1, 0, 0]), np.array([0, 2, 3, 4]))
    >>> inverse_frequencies([(column, np.arange(3))], 3).round(2).tolist()
    [0.13, 0.98, 2.08]
    """
    found, count = np.zeros(vocab, np.int64), 0
    for part in _chunks(texts):
        lengths = part.lengths
        keys = np.repeat(np.arange(len(part)), lengths) * vocab + part.ids
        found += np.bincount(np.unique(keys) % vocab, minlength=vocab)
        count += len(part)
    return np.maximum(np.log((count + 1) / (found + 0.5)), 0)


def _chunks(texts: Sequence[Texts]) -> Iterator[TokenBatch]:
    for column, rows in texts:
        for start in range(0, len(rows), CHUNK):
            yield column.take(rows[start : start + CHUNK])
