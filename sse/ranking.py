"""Exact search: which documents come first, and in what order.

Documents stand in ascending order of their ids, so that among equal scores the lower column wins:
sentence-transformers' order, deterministic also at the cut-off.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sse.metrics import DEPTH

Scorer = Callable[[slice], torch.Tensor]  # rows of queries -> (b, N) scores

BLOCK = 16_000_000  # scores held at a time (64 MB)


def rank(
    scorer: Scorer,
    n_queries: int,
    n_documents: int,
    floor: float | None = None,
) -> np.ndarray:
    """(Q, min(100, N)) best columns; -1 where a score is not above `floor`.

    Queries go in blocks, so that at most `BLOCK` scores are held.
    """
    block = max(1, BLOCK // n_documents)
    rankings = []
    for start in range(0, n_queries, block):
        scores = scorer(slice(start, start + block))
        columns = top_documents(scores, DEPTH)
        if floor is not None:
            columns[scores.gather(1, columns) <= floor] = -1
        rankings.append(columns.cpu().numpy())
    return np.concatenate(rankings)


def top_documents(scores: torch.Tensor, depth: int) -> torch.Tensor:
    """(b, N) scores -> (b, min(depth, N)) columns by descending score, ties by ascending column.

    `topk` leaves it open which of several equal scores it keeps and in what order, so what it
    keeps is sorted again, and rows with a tie across the cut-off are sorted whole.
    """
    depth = min(depth, scores.shape[1])
    best, columns = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    tied = (best[:, depth - 1 : depth] == best[:, depth:]).any(dim=1)
    columns = columns[:, :depth].sort(dim=1).values
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    if tied.any():
        whole = scores[tied].sort(dim=1, descending=True, stable=True).indices
        columns[tied] = whole[:, :depth]
    return columns


def vector_scorer(queries: torch.Tensor, documents: torch.Tensor, similarity: str) -> Scorer:
    """Scores of query vectors (Q, D) with document vectors (N, D): cosine, dot, or another of
    sentence-transformers' similarities.
    """
    if similarity in ("cosine", "dot"):
        if similarity == "cosine":
            queries = torch.nn.functional.normalize(queries)
            documents = torch.nn.functional.normalize(documents)
        return lambda rows: queries[rows] @ documents.T
    from sentence_transformers.util import SimilarityFunction

    compare = SimilarityFunction.to_similarity_fn(similarity)
    return lambda rows: compare(queries[rows], documents)
