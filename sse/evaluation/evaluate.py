"""Retrieval quality of an encoder at each Matryoshka dimension, and of its baselines.

- Texts are encoded once at the full dimension. Dimension d means the first d components, normalised
  again, as sentence-transformers' `truncate_dim` does.
- Ranking is exact, in float32 (`ranking.py`).
- Every metric has a bootstrap interval over queries. Systems evaluated with one seed are resampled
  alike, so they can be compared query by query.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sse.common.errors import UserError
from sse.evaluation.bm25 import BM25
from sse.evaluation.collection import Collection
from sse.evaluation.metrics import METRICS, bootstrap_means, interval, judge, score_run
from sse.evaluation.ranking import rank, vector_scorer

Encode = Callable[[list[str]], np.ndarray]  # texts -> (n, D)

STANDARD_DIMS = (512, 256, 128, 64, 32)
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


def default_dims(dim: int) -> list[int]:
    """The full dimension and the standard ones below it, largest first."""
    return sorted({dim, *(d for d in STANDARD_DIMS if d < dim)}, reverse=True)


def check_dims(dims: Sequence[int] | None, dim: int) -> list[int]:
    """`dims` without repeats, by default `default_dims(dim)`; UserError if one is no prefix."""
    if dims is None:
        return default_dims(dim)
    for d in dims:
        if not 1 <= d <= dim:
            raise UserError(
                f"dimension {d} is no prefix of the model's {dim}: choose from 1 to {dim}"
            )
    return list(dict.fromkeys(dims))


def evaluate(
    encode: Encode,
    collections: Sequence[Collection],
    dims: Sequence[int] | None = None,
    *,
    encode_documents: Encode | None = None,
    similarity: str = "cosine",
    graded: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Result:
    """The quality of an encoder on collections, at prefixes of its dimensions.

    Args:
        encode: texts -> (n, D), for queries.
        collections: what to search; their names must differ.
        dims: prefixes to evaluate; by default D and those of 512, 256, 128, 64, 32 below D.
        encode_documents: the encoder for documents; by default `encode`.
        similarity: cosine, dot, euclidean or manhattan.
        graded: judged grades as nDCG's gains (see `sse.evaluation.metrics`).
        seed: of the bootstrap.
        device: where scores are computed.
        progress: show a bar.

    Raises:
        UserError: a dimension that is no prefix, no queries, vectors that are not finite.
    """
    parts = []
    for collection in _judged(collections, "Evaluating", progress):
        query_vectors = _vectors(encode, collection.queries, collection.name, device)
        document_vectors = _vectors(
            encode_documents or encode, collection.corpus, collection.name, device
        )
        if query_vectors.shape[1] != document_vectors.shape[1]:
            raise UserError(
                f"queries have {query_vectors.shape[1]} dimensions and documents "
                f"{document_vectors.shape[1]}: both encoders must share one space"
            )
        rankings = {}
        for dim in check_dims(dims, query_vectors.shape[1]):
            scorer = vector_scorer(query_vectors[:, :dim], document_vectors[:, :dim], similarity)
            rankings[dim] = rank(scorer, len(collection.queries), collection.corpus_ids)
        parts.append((collection, rankings))
    return _result(parts, graded, seed)


def evaluate_bm25(
    collections: Sequence[Collection],
    *,
    graded: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Result:
    """The quality of BM25 on collections, as dimension `NO_DIM`; the arguments are `evaluate`'s.

    A document that shares no term with the query counts as not retrieved. Otherwise its id would
    decide its rank among all scores of 0.
    """
    parts = []
    for collection in _judged(collections, "BM25", progress):
        index = BM25(collection.corpus)

        def scorer(
            rows: slice, index: BM25 = index, queries: list[str] = collection.queries
        ) -> torch.Tensor:
            return torch.from_numpy(index.scores(queries[rows]))

        ranking = rank(scorer, len(collection.queries), collection.corpus_ids, floor=0.0)
        parts.append((collection, {NO_DIM: ranking}))
    return _result(parts, graded, seed)


def encoders(model: Any, batch_size: int = 256, progress: bool = False) -> tuple[Encode, Encode]:
    """The query and the document encoder of a SentenceTransformer, each with its prompt.

    The longest texts come first, as in sentence-transformers' own batches. One call encodes one
    batch, so that the bar moves with each batch.
    """

    def of(method: Callable[..., Any], what: str) -> Encode:
        def encode(texts: list[str]) -> np.ndarray:
            order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
            vectors = np.empty((len(texts), 0), dtype=np.float32)
            bar = tqdm(total=len(texts), desc=what, disable=None if progress else True, leave=False)
            for start in range(0, len(texts), batch_size):
                rows = order[start : start + batch_size]
                batch = method(
                    [texts[i] for i in rows],
                    batch_size=batch_size,
                    show_progress_bar=False,
                    convert_to_tensor=True,
                ).float()
                if start == 0:
                    vectors = np.empty((len(texts), batch.shape[1]), dtype=np.float32)
                vectors[rows] = batch.cpu().numpy()
                bar.update(len(rows))
            bar.close()
            return vectors

        return encode

    return of(model.encode_query, "queries"), of(model.encode_document, "documents")


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


def _judged(collections: Sequence[Collection], title: str, progress: bool) -> Iterator[Collection]:
    """The collections without queries that have no relevant document, under a progress bar.

    No collection, or two of one name, raise UserError.
    """
    names = [collection.name for collection in collections]
    if not names:
        raise UserError("no collection to evaluate on: give at least one")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two collections are named {name!r}: rename one, results go by name")
    hide = None if progress else True  # None: where standard error is no terminal
    with tqdm(collections, desc=title, unit="collection", disable=hide, leave=False) as bar:
        for collection in collections:
            bar.set_postfix_str(collection.name)
            yield collection.judged()
            bar.update()


def _result(
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


def _vectors(
    encode: Encode, texts: list[str], name: str, device: str | torch.device
) -> torch.Tensor:
    """Vectors (n, D) of a collection's texts, float32, checked for shape and finite values."""
    if not texts:
        raise UserError(f"{name}: no documents, or no query with a relevant document")
    vectors = torch.from_numpy(np.asarray(encode(texts), dtype=np.float32))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise UserError(
            f"{name}: the encoder made shape {tuple(vectors.shape)} of {len(texts)} texts"
        )
    finite = vectors.isfinite().all(dim=1)
    if not finite.all():
        worst = texts[int((~finite).nonzero()[0])]
        raise UserError(
            f"{name}: the vector of {worst[:60]!r} is not finite: is the model trained?"
        )
    return vectors.to(device)
