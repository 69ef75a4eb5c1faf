"""In how many texts each token occurs, and how rare that makes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sse.text.token_batch import TokenBatch

CHUNK = 8_192  # texts to count at once


@dataclass(frozen=True)
class Frequencies:
    """Document frequencies of a vocabulary.

    Attributes:
        found: df, in how many texts each token occurs, (V,) int64.
        texts: N, the number of texts.
    """

    found: NDArray[np.int64]
    texts: int

    def idf(self) -> NDArray[np.float64]:
        """log((N + 1) / (df + 0.5)), at least 0; (V,).

        >>> Frequencies(np.array([3, 1, 0]), 3).idf().round(2).tolist()
        [0.13, 0.98, 2.08]
        """
        return np.maximum(np.log((self.texts + 1) / (self.found + 0.5)), 0)


def count_tokens(batches: Iterable[TokenBatch], vocab: int) -> Frequencies:
    """The document frequencies of all texts of `batches`, for a vocabulary of `vocab` tokens.

    >>> batch = TokenBatch(np.array([0, 1, 0, 0]), np.array([0, 2, 3, 4]))
    >>> count_tokens([batch], 3)
    Frequencies(found=array([3, 1, 0]), texts=3)
    """
    found, texts = np.zeros(vocab, np.int64), 0
    for batch in batches:
        keys = np.repeat(np.arange(len(batch)) * vocab, batch.lengths) + batch.ids
        keys.sort()  # np.unique takes 30 times as long
        first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
        found += np.bincount(keys[first] % vocab, minlength=vocab)
        texts += len(batch)
    return Frequencies(found, texts)
