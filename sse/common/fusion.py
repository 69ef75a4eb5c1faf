"""Dense and keyword search as one: the weighted mean of their scores, each scaled per query."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError

WEIGHT = 0.5  # of the dense scores; one constant held on every collection (docs/serve.md)
DEPTH = 1000  # documents to take from each search

Hits = tuple[NDArray[np.int64], NDArray[Any]]  # documents (k,) and their scores (k,)


def fuse(dense: Hits, keyword: Hits, weight: float = WEIGHT) -> Hits:
    """The documents that either search found for one query, best first.

        score(d) = weight * scaled(dense)(d) + (1 - weight) * scaled(keyword)(d)
        scaled(s)(d) = (s(d) - min s) / (max s - min s)

    The minimum and the maximum are those of the list. A document that a list lacks has 0 there, as
    its last document has. A list whose scores are all equal has 1 for each of its documents. A side
    that found nothing leaves the order to the other.

    Args:
        dense: the numbers of the documents that are nearest to the query, each once, in any order,
            and their similarities.
        keyword: the same from the keyword search, only documents that share a term with the query.
        weight: w, 0 (keyword search alone) to 1 (dense search alone).

    Returns:
        The documents of both lists, (n,) int64, and their scores, (n,) float64 from 0 to 1.
        Equal scores stand in ascending order of the documents' numbers.

    Examples:
        >>> dense = np.array([7, 4, 2]), np.array([0.9, 0.8, 0.4])
        >>> keyword = np.array([4, 5]), np.array([12.0, 3.0])
        >>> documents, scores = fuse(dense, keyword)
        >>> documents.tolist(), scores.round(2).tolist()
        ([4, 7, 2, 5], [0.9, 0.5, 0.0, 0.0])

    Raises:
        UserError: a weight outside 0 to 1.

    Source: the convex combination of Bruch, Gai and Ingber, ACM TOIS 42 (2023), article 20.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight {weight}: give a share of the dense scores from 0 to 1")
    documents, place = np.unique(np.concatenate([dense[0], keyword[0]]), return_inverse=True)
    scores = np.zeros(len(documents))
    of_dense, of_keyword = np.split(place, [len(dense[0])])
    scores[of_dense] += weight * _scaled(dense[1])
    scores[of_keyword] += (1 - weight) * _scaled(keyword[1])
    order = np.argsort(-scores, kind="stable")
    return documents[order].astype(np.int64, copy=False), scores[order]


def _scaled(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (k,) brought to 0 to 1."""
    if not len(scores):
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    return (scores - low) / (high - low) if high > low else np.ones(len(scores))
