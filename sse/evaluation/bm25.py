"""BM25 as a baseline: bm25s with mteb's settings (English stopwords and Snowball stemmer)."""

from __future__ import annotations

import numpy as np


class BM25:
    """An index of `documents` with bm25s' defaults.

    These are Lucene's variant, k1 = 1.5, b = 0.75 and words of two letters or more.
    """

    def __init__(self, documents: list[str]) -> None:
        import bm25s
        import Stemmer

        self._stemmer = Stemmer.Stemmer("english")
        self._n = len(documents)
        tokens = self._tokens(documents)
        self._index = bm25s.BM25() if any(tokens) else None  # bm25s takes no empty vocabulary
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        import bm25s

        words: list[list[str]] = bm25s.tokenize(
            texts, stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return words

    def scores(self, queries: list[str]) -> np.ndarray:
        """Scores (n, N), float32, of N documents for n queries; 0 where no term is shared."""
        scores = np.zeros((len(queries), self._n), dtype=np.float32)
        if self._index is not None:
            for row, tokens in zip(scores, self._tokens(queries), strict=True):
                if tokens:
                    row[:] = self._index.get_scores(tokens)
        return scores
