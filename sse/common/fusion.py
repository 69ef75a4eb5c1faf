"""Dense and keyword search as one: the weighted mean of their scores, each scaled per query.

Then once more with a query moved towards the best documents (pseudo-relevance feedback).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError

WEIGHT = 0.35  # of the dense scores; one constant held on every collection (docs/search.md)
FEEDBACK, BEST = 0.6, 3  # share of the best documents' mean vector, and how many of them
DEPTH = 1000  # documents to take from each search; 100 lose less than 0.001

Hits = tuple[NDArray[np.int64], NDArray[Any]]  # documents (k,) and their scores (k,)
# Of documents (n,) and the best ones among them: dense scores (n,) by the moved query.
Again = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]


def fuse(dense: Hits, keyword: Hits, weight: float = WEIGHT, again: Again | None = None) -> Hits:
    """The documents that either search found for one query, best first.

        score(d) = weight * scaled(dense)(d) + (1 - weight) * scaled(keyword)(d)
        scaled(s)(d) = max(s(d), 0) / max s

    0 stands for unrelated in both: a cosine of 0, no shared term. A document that one list lacks
    has the last score of that list, as it cannot have more. A keyword list shorter than the dense
    one was not cut, so a document that it lacks shares no term and has 0 there.

    Args:
        dense: the numbers of the k documents nearest to the query, each once, in any order, and
            their similarities.
        keyword: the best k of those that share a term with the query.
        weight: w, 0 (keyword search alone) to 1 (dense search alone).
        again: gives all documents new dense scores once the `BEST` are known; see `moved`. Without
            it the given ones stay.

    Returns:
        The documents of both lists, (n,) int64, and their scores, (n,) float64 from 0 to 1.
        Equal scores stand in ascending order of the documents' numbers.

    Examples:
        >>> dense = np.array([7, 4, 2]), np.array([0.9, 0.8, 0.45])
        >>> keyword = np.array([4, 5]), np.array([12.0, 3.0])
        >>> documents, scores = fuse(dense, keyword, weight=0.5)
        >>> documents.tolist(), scores.round(2).tolist()
        ([4, 7, 5, 2], [0.94, 0.5, 0.38, 0.25])

    Raises:
        UserError: a weight outside 0 to 1.

    Source: the convex combination of Bruch, Gai and Ingber, ACM TOIS 42 (2023), article 20.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight {weight}: give a share of the dense scores from 0 to 1")
    documents, place = np.unique(np.concatenate([dense[0], keyword[0]]), return_inverse=True)
    of_dense, of_keyword = np.split(place, [len(dense[0])])
    whole = len(keyword[0]) < len(dense[0])
    documents = documents.astype(np.int64, copy=False)
    words = (1 - weight) * _scaled(keyword[1], of_keyword, len(documents), whole)
    scores = weight * _scaled(dense[1], of_dense, len(documents), whole=False) + words
    order = np.argsort(-scores, kind="stable")
    if again is not None and len(documents):
        similar = again(documents, documents[order[:BEST]])
        scores = weight * _scaled(similar, np.arange(len(documents)), len(documents), False) + words
        order = np.argsort(-scores, kind="stable")
    return documents[order], scores[order]


def moved(
    query: NDArray[np.float32], vectors: NDArray[np.float32], best: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The query (D,) moved towards documents: q + FEEDBACK * mean(vectors[best]).

    Its length is left: `fuse` divides by the largest score. `vectors` is (N, D), of length 1.

    Source: Rocchio, in The SMART Retrieval System, Prentice-Hall 1971, without its negative term.
    """
    return query + FEEDBACK * vectors[best].mean(axis=0)  # type: ignore[no-any-return]


def _scaled(
    scores: NDArray[Any], place: NDArray[np.intp], count: int, whole: bool
) -> NDArray[np.float64]:
    """The scaled scores (k,) at their places among `count` documents."""
    out = np.zeros(count)
    if len(scores) and (high := float(scores.max())) > 0:
        scaled = np.maximum(np.asarray(scores, np.float64), 0) / high
        out[:] = 0 if whole else scaled.min()
        out[place] = scaled
    return out
