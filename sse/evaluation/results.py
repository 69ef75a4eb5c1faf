"""The scores of a system on collections, their mean, and the difference of two systems."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from sse.common.errors import UserError
from sse.evaluation.collection import Collection
from sse.evaluation.metrics import METRICS, bootstrap_means, interval, judge, score_run

NO_DIM = 0  # the dimension in the results of a system without dimensions (BM25)


@dataclass(frozen=True)
class Scores:
    """The scores on one collection, or their mean over collections, at one dimension."""

    values: dict[str, float]  # metric -> mean over queries
    intervals: dict[str, tuple[float, float]]  # metric -> 95% bootstrap interval
    per_query: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> (Q,)


@dataclass(frozen=True)
class Result:
    """The scores of one system: `scores[collection][dim]`, and `mean[dim]` over collections."""

    scores: dict[str, dict[int, Scores]]
    mean: dict[int, Scores]
    query_ids: dict[str, list[str]]
    sizes: dict[str, int]

    @property
    def dims(self) -> list[int]:
        """The dimensions, in the order of evaluation."""
        return list(self.mean)

    def values(self) -> dict[str, dict[str, dict[str, float]]]:
        """`{collection: {dim: {metric: value}}}`, ready for JSON."""
        return {
            name: {str(dim): dict(s.values) for dim, s in by_dim.items()}
            for name, by_dim in self.scores.items()
        }


def at_chance(result: Result, name: str) -> bool:
    """Whether a collection of pairs, one relevant document a query, scores as a random order does.

    Such an order has E[nDCG@10] = sum over ranks r = 1..10 of 1 / log2(r + 1), divided by the
    number of documents. A score below 2.5 times that is taken for chance. Below 20 documents the
    two cannot be told apart, and the answer is no.
    """
    documents = result.sizes[name]
    chance = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / documents
    best = max(scores.values["ndcg@10"] for scores in result.scores[name].values())
    return documents >= 20 and best < 2.5 * chance


def difference(
    a: Result, b: Result, metric: str, *, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """`a` minus `b`, each at its largest dimension, with a paired 95% bootstrap interval.

    The difference is taken per query, so its interval is narrower than the systems' own suggest.

    Returns:
        (difference, low, high) by collection; the key `mean` has the mean over collections.

    Raises:
        UserError: the systems were evaluated on different queries.
    """
    gains, samples, values = {}, [], []
    for name in a.scores:
        if a.query_ids[name] != b.query_ids[name]:
            raise UserError(f"{name}: the systems were evaluated on different queries")
        of_a = a.scores[name][max(a.dims)].per_query[metric]
        of_b = b.scores[name][max(b.dims)].per_query[metric]
        means = bootstrap_means((of_a - of_b)[:, None], seed=_seed(seed, name))
        low, high = interval(means)
        gains[name] = (float((of_a - of_b).mean()), float(low[0]), float(high[0]))
        samples.append(means)
        values.append(gains[name][0])
    low, high = interval(np.mean(samples, axis=0))
    return gains | {"mean": (float(np.mean(values)), float(low[0]), float(high[0]))}


def result_of(
    parts: list[tuple[Collection, dict[int, np.ndarray]]], graded: bool, seed: int
) -> Result:
    """The scores of rankings; each collection has the same weight in the mean."""
    scores: dict[str, dict[int, Scores]] = {}
    samples = []  # per collection (resamples, dims * metrics)
    for collection, rankings in parts:
        ids = collection.query_ids, collection.corpus_ids
        judgements = judge(collection.qrels, *ids, graded=graded)
        per_query = {dim: score_run(ranking, judgements) for dim, ranking in rankings.items()}
        table = np.stack([v for by_metric in per_query.values() for v in by_metric.values()], 1)
        means = bootstrap_means(table, seed=_seed(seed, collection.name))
        samples.append(means)
        rows = _rows(table.mean(axis=0), means, list(rankings))
        scores[collection.name] = {
            dim: Scores(row.values, row.intervals, per_query[dim]) for dim, row in rows.items()
        }
    dims = list(parts[0][1])
    mean_values = np.mean(
        [[s[d].values[m] for d in dims for m in METRICS] for s in scores.values()], axis=0
    )
    return Result(
        scores,
        _rows(mean_values, np.mean(samples, axis=0), dims),
        {collection.name: collection.query_ids for collection, _ in parts},
        {collection.name: len(collection.corpus) for collection, _ in parts},
    )


def _seed(seed: int, name: str) -> list[int]:
    """A seed of the collection's own, which other collections do not change."""
    return [seed, zlib.crc32(name.encode())]


def _rows(values: np.ndarray, means: np.ndarray, dims: list[int]) -> dict[int, Scores]:
    """One `Scores` per dimension from the values (dims * metrics,) and bootstrap means of all."""
    low, high = interval(means)
    rows = {}
    for i, dim in enumerate(dims):
        at = slice(i * len(METRICS), (i + 1) * len(METRICS))
        bounds = zip(low[at].tolist(), high[at].tolist(), strict=True)
        rows[dim] = Scores(
            dict(zip(METRICS, values[at].tolist(), strict=True)),
            dict(zip(METRICS, bounds, strict=True)),
        )
    return rows
