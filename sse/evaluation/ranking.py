"""Exact search: the best documents of each query, in order.

- Equal scores stand in ascending order of document id, also at the cut-off, as in
  sentence-transformers.
- Queries and documents stay in their order for the matrix product. The last bit of a score depends
  on its place in the matrix, as BLAS treats edges apart. So ties are those of sentence-transformers
  (up to one block of queries).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sse.common.fusion import DEPTH as FUSED
from sse.common.fusion import fuse, moved
from sse.evaluation.metrics import DEPTH

Scorer = Callable[[slice], torch.Tensor]  # rows of queries -> (b, N) scores

BLOCK = 50_000_000  # scores in memory at a time (200 MB)


def rank(
    scorer: Scorer, n_queries: int, document_ids: Sequence[str], floor: float | None = None
) -> np.ndarray:
    """Positions (Q, min(100, N)) of the best documents; -1 where a score is not above `floor`.

    Queries are scored in blocks of about equal size, of about `BLOCK` scores at most.
    """
    by_id = torch.tensor(sorted(range(len(document_ids)), key=document_ids.__getitem__))
    blocks = max(1, math.ceil(n_queries * len(document_ids) / BLOCK))
    edges = np.linspace(0, n_queries, min(blocks, n_queries) + 1).astype(int).tolist()
    rankings = []
    for start, end in zip(edges, edges[1:], strict=False):
        scores = scorer(slice(start, end))
        columns = top_documents(scores, DEPTH, by_id.to(scores.device))
        if floor is not None:
            columns[scores.gather(1, columns) <= floor] = -1
        rankings.append(columns.cpu().numpy())
    return np.concatenate(rankings)


def top_documents(scores: torch.Tensor, depth: int, by_id: torch.Tensor) -> torch.Tensor:
    """Columns (b, min(depth, N)) of the best scores of each row, equal scores by document id.

    `topk` leaves open which of several equal scores it returns, and in what order. So its result is
    sorted again, and a row with a tie across the cut-off is sorted as a whole. `scores` is (b, N),
    `by_id` (N,) the columns in ascending order of their documents' ids.
    """
    depth = min(depth, scores.shape[1])
    best, columns = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    tied = (best[:, depth - 1 : depth] == best[:, depth:]).any(dim=1)
    rank_of = torch.empty_like(by_id).scatter_(0, by_id, torch.arange(len(by_id)).to(by_id))
    columns = by_id[rank_of[columns[:, :depth]].sort(dim=1).values]
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    if tied.any():
        whole = scores[tied][:, by_id].sort(dim=1, descending=True, stable=True).indices
        columns[tied] = by_id[whole[:, :depth]]
    return columns


@dataclass(frozen=True)
class VectorScorer:
    """From rows of `queries` (Q, D) to their inner products (b, N) with `documents` (N, D)."""

    queries: torch.Tensor
    documents: torch.Tensor

    def __call__(self, rows: slice) -> torch.Tensor:
        """The scores of these queries."""
        return self.queries[rows] @ self.documents.T

    def again(self, query: int, documents: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The scores of `documents` by a query that is moved towards the `best` of them."""
        vectors = self.documents[torch.from_numpy(documents)].cpu().numpy()
        place = np.searchsorted(documents, best)
        vector = moved(self.queries[query].cpu().numpy(), vectors, place)
        return vectors @ vector  # type: ignore[no-any-return]


def vector_scorer(queries: torch.Tensor, documents: torch.Tensor, similarity: str) -> Scorer:
    """A function from rows of `queries` (Q, D) to their scores (b, N) against `documents` (N, D).

    `similarity` is cosine, dot, or another of sentence-transformers' similarities.
    """
    queries, documents = queries.contiguous(), documents.contiguous()
    if similarity in ("cosine", "dot"):
        if similarity == "cosine":
            queries = torch.nn.functional.normalize(queries)
            documents = torch.nn.functional.normalize(documents)
        return VectorScorer(queries, documents)
    from sentence_transformers.util import SimilarityFunction

    compare = SimilarityFunction.to_similarity_fn(similarity)
    return lambda rows: compare(queries[rows], documents)


def fused_scorer(dense: Scorer, keyword: Scorer, weight: float) -> Scorer:
    """A function from rows of queries to the scores (b, N) of both searches together.

    A document that neither has among its best `FUSED` has -1. A `VectorScorer` is asked again with
    moved queries.
    """

    def best(scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        values, columns = scores.topk(min(FUSED, scores.shape[1]), dim=1)
        return columns.cpu().numpy(), values.cpu().numpy()

    def scores(rows: slice) -> torch.Tensor:
        similar, words = dense(rows), keyword(rows)
        fused = torch.full(words.shape, -1.0)
        parts = zip(fused, *best(similar), *best(words), strict=True)
        for query, (row, a, x, b, y) in enumerate(parts, rows.start or 0):
            again = partial(dense.again, query) if isinstance(dense, VectorScorer) else None
            documents, values = fuse((a, x), (b[y > 0], y[y > 0]), weight, again)
            row[torch.from_numpy(documents)] = torch.from_numpy(values).float()
        return fused

    return scores
