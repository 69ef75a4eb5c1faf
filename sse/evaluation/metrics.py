"""Retrieval metrics of rankings, and bootstrap intervals over queries.

The definitions are TREC's and those of sentence-transformers' evaluator. h_r is 1 if the document
at rank r is relevant. R is the number of relevant documents, also those that the corpus lacks.

    accuracy@k   max_{r<=k} h_r                    precision@k  sum_{r<=k} h_r / k
    recall@k     sum_{r<=k} h_r / R                mrr@10       max_{r<=10} h_r / r
    ndcg@10      sum_{r<=10} g_r / log2(r+1), over the same sum for the best possible ranking
    map@100      sum_{r<=100} h_r (sum_{s<=r} h_s) / r, over min(100, R)

The gain g_r is h_r, as in sentence-transformers. With `graded` it is the judged grade, as in the
BEIR and mteb leaderboards. map@100 is pytrec_eval's `map_cut_100` up to R = 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Not torchmetrics.retrieval: it loops over queries in Python, and its MAP@k is not TREC's.
CUTOFFS = (1, 3, 5, 10)
METRICS = ["ndcg@10", "mrr@10", "map@100"] + [
    f"{name}@{k}" for name in ("accuracy", "precision", "recall") for k in CUTOFFS
]
_LABELS = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
DEPTH = 100  # ranks that the deepest metric needs
_DISCOUNT = 1 / np.log2(np.arange(2, 12))  # (10,)


def metric_label(metric: str) -> str:
    """A metric as papers write it.

    >>> metric_label("ndcg@10")
    'nDCG@10'
    """
    name, k = metric.split("@")
    return f"{_LABELS.get(name, name)}@{k}"


@dataclass(frozen=True)
class Judgements:
    """The judgements of Q queries on N documents, as arrays by position."""

    n_documents: int
    keys: np.ndarray  # (J,) ascending, query * N + document, of the relevant documents
    gains: np.ndarray  # (J,) the gain of each
    n_relevant: np.ndarray  # (Q,) relevant documents, also those that the corpus lacks
    ideal: np.ndarray  # (Q,) DCG@10 of the best possible ranking


def judge(
    qrels: dict[str, dict[str, int]],
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    *,
    graded: bool = False,
) -> Judgements:
    """The judgements of these queries as arrays.

    Args:
        qrels: query id -> document id -> grade; each query needs a grade above 0.
        query_ids: the queries, in the order of the ranking.
        document_ids: the documents, in the order of their positions.
        graded: gains are the grades, otherwise 1.
    """
    position = {document_id: i for i, document_id in enumerate(document_ids)}
    keys, gains = [], []
    n_relevant = np.zeros(len(query_ids))
    ideal = np.zeros(len(query_ids))
    for i, query_id in enumerate(query_ids):
        relevant = {d: (s if graded else 1) for d, s in qrels[query_id].items() if s > 0}
        best = sorted(relevant.values(), reverse=True)[:10]
        n_relevant[i] = len(relevant)
        ideal[i] = np.dot(best, _DISCOUNT[: len(best)])
        for document_id, gain in relevant.items():
            if document_id in position:
                keys.append(i * len(document_ids) + position[document_id])
                gains.append(gain)
    order = np.argsort(np.array(keys, dtype=np.int64))
    return Judgements(
        len(document_ids),
        np.array(keys, dtype=np.int64)[order],
        np.array(gains, dtype=np.float64)[order],
        n_relevant,
        ideal,
    )


def score_run(ranking: np.ndarray, judgements: Judgements) -> dict[str, np.ndarray]:
    """Every metric of every query.

    Args:
        ranking: (Q, K) positions of documents, best first, -1 where nothing was retrieved; K is
            below 100 if the corpus is smaller.
        judgements: of the same queries in the same order, by `judge`.

    Returns:
        metric name -> (Q,) float64, in the order of `METRICS`.

    Examples:
        Two documents of three are relevant, and stand first and third: nDCG@10 is
        (1 + 1/2) / (1 + 1/log2(3)).

        >>> judgements = judge({"q": {"a": 1, "c": 1}}, ["q"], ["a", "b", "c"])
        >>> scores = score_run(np.array([[0, 1, 2]]), judgements)
        >>> [round(float(scores[name][0]), 4) for name in ("ndcg@10", "mrr@10", "recall@1")]
        [0.9197, 1.0, 0.5]
    """
    gains = _gains(ranking[:, :DEPTH], judgements)  # (Q, <= 100)
    hits = (gains > 0).astype(np.float64)
    ranks = np.arange(1, hits.shape[1] + 1)
    hits_up_to = hits.cumsum(axis=1)  # (Q, <= 100) relevant documents up to each rank
    n_relevant = judgements.n_relevant
    scores = {
        "ndcg@10": gains[:, :10] @ _DISCOUNT[: min(10, hits.shape[1])] / judgements.ideal,
        "mrr@10": (hits / ranks)[:, :10].max(axis=1, initial=0),
        "map@100": (hits * hits_up_to / ranks).sum(axis=1) / np.minimum(DEPTH, n_relevant),
    }
    for k in CUTOFFS:
        within = hits[:, :k].sum(axis=1)
        scores[f"accuracy@{k}"] = (within > 0).astype(np.float64)
        scores[f"precision@{k}"] = within / k
        scores[f"recall@{k}"] = within / n_relevant
    return {name: scores[name] for name in METRICS}


def _gains(ranking: np.ndarray, judgements: Judgements) -> np.ndarray:
    """Gains (Q, K) of the ranked documents; 0 for documents that are not relevant."""
    if not len(judgements.keys):
        return np.zeros(ranking.shape)
    keys = np.arange(len(ranking))[:, None] * judgements.n_documents + ranking
    place = np.searchsorted(judgements.keys, keys).clip(max=len(judgements.keys) - 1)
    relevant = (judgements.keys[place] == keys) & (ranking >= 0)
    return np.where(relevant, judgements.gains[place], 0.0)


def bootstrap_means(
    values: np.ndarray, *, seed: int | list[int] = 0, resamples: int = 1000
) -> np.ndarray:
    """Means (resamples, C) of `values` (Q, C) over queries drawn with replacement.

    The same seed and Q draw the same queries, so systems can be compared query by query.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    block = max(1, 4_000_000 // n)  # resamples at a time: 32 MB of draws
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        draws = rng.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = counts.astype(np.float64) @ values / n
    return means


def interval(means: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (C,) of the percentile interval of bootstrap means (resamples, C)."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
