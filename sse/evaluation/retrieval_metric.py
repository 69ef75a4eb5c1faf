"""Retrieval metrics as `torchmetrics.Metric`, for validation during training.

The values are those of `sse.evaluation.metrics.score_run`. Each process sums over its own queries,
and torchmetrics adds the sums of all processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from sse.evaluation.metrics import DEPTH, METRICS, Judgements, score_run


class RetrievalMetric(Metric):
    """The mean of one of `METRICS` over all queries of all processes; 0 without queries.

    >>> metric = RetrievalMetric("mrr@10")
    >>> queries, documents = torch.eye(3), torch.tensor([[2.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    >>> metric.update(*rank_own(queries, documents))  # ranks 2, 3 and 1
    >>> round(float(metric.compute()), 4)  # (1/2 + 1/3 + 1) / 3
    0.6111
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    queries: Tensor

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        if name not in METRICS:
            raise ValueError(f"name: '{name}' is none of {', '.join(METRICS)}")
        self.name = name
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("queries", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, ranking: np.ndarray, judgements: Judgements) -> None:
        """Add the metric of these queries to the sum; the arguments are `score_run`'s."""
        self.total += float(score_run(ranking, judgements)[self.name].sum())
        self.queries += len(ranking)

    def compute(self) -> Tensor:
        """The mean over the queries."""
        return self.total / self.queries.clamp(min=1)


def rank_own(queries: Tensor, documents: Tensor, first: int = 0) -> tuple[np.ndarray, Judgements]:
    """The rank of each query's one relevant document by cosine; among equal scores it is last.

    Args:
        queries: (Q, d).
        documents: (N, d), N >= first + Q; document first + i is the one relevant to query i.
        first: the document of the first query; not 0 if these are the queries of one process.

    Returns:
        (Q, 100) ranking and its judgements, as `score_run` takes them. All documents but the
        relevant ones are -1 in it, since the metrics ignore them.
    """
    count, total = len(queries), len(documents)
    own = torch.arange(first, first + count)
    normalize = torch.nn.functional.normalize
    scores = normalize(queries) @ normalize(documents).T
    place = (scores >= scores.diagonal(first)[:, None]).sum(1).numpy() - 1
    ranking = np.full((count, DEPTH), -1)
    near = np.flatnonzero(place < DEPTH)
    ranking[near, place[near]] = own.numpy()[near]
    keys = np.arange(count) * total + own.numpy()
    ones = np.ones(count)
    return ranking, Judgements(total, keys, ones, ones, ones)
