"""Retrieval quality of an encoder at each Matryoshka dimension, and of its baselines.

- Texts are encoded once at the full dimension; a dimension d is the first d components, normalised
  again, which is what sentence-transformers' `truncate_dim` does.
- Ranking is exact: scores in float32, documents by descending score, equal scores by ascending
  document id, also at the cut-off. That is sentence-transformers' order, so the figures agree.
- Queries are scored in blocks, so memory stays at one block of scores besides the vectors.
- Every metric comes with a bootstrap interval over queries. Systems evaluated with one seed are
  resampled alike, so their differences can be compared query by query.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sse.beir import Collection
from sse.bm25 import BM25
from sse.errors import UserError
from sse.metrics import DEPTH, METRICS, bootstrap_means, interval, judge, score_run

Encode = Callable[[list[str]], np.ndarray]  # texts -> (n, D)
Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (b, D), (N, D) -> (b, N)

STANDARD_DIMS = (512, 256, 128, 64, 32)
NO_DIM = 0  # the dimension under which a system without one (BM25) stands
BLOCK = 16_000_000  # scores held at a time (64 MB)


@dataclass(frozen=True)
class Scores:
    """One collection (or the mean over all) at one dimension."""

    values: dict[str, float]  # metric -> mean over queries
    intervals: dict[str, tuple[float, float]]  # metric -> 95% bootstrap interval
    per_query: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> (Q,); none in a mean


@dataclass(frozen=True)
class Result:
    """What one system scored: `scores[collection][dim]`, and `mean[dim]` over collections."""

    scores: dict[str, dict[int, Scores]]
    mean: dict[int, Scores]
    query_ids: dict[str, list[str]]  # collection -> ids, in the order of `per_query`
    sizes: dict[str, int]  # collection -> number of documents

    @property
    def dims(self) -> list[int]:
        """The dimensions, in the order evaluated."""
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
    """`dims` where each is a prefix of `dim` dimensions, the default ones where None."""
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
    """Evaluate an encoder on collections, at each prefix of its dimensions.

    Args:
        encode: texts -> (n, D), for queries, and for documents where those have no encoder.
        collections: what to search; their names must differ.
        dims: prefixes to evaluate; by default D and 512, 256, 128, 64, 32 where below D.
        encode_documents: the encoder for documents.
        similarity: cosine, dot, euclidean or manhattan.
        graded: judged grades as nDCG's gains (see `sse.metrics`).
        seed: of the bootstrap.
        device: where scores are computed.
        progress: show a bar.

    Raises:
        UserError: a dimension that is no prefix, no queries, vectors that are not finite.
    """
    parts = []
    bar = tqdm(collections, desc="Evaluating", unit="collection", disable=not progress, leave=False)
    for collection in map(Collection.judged, _distinct(collections)):
        bar.set_postfix_str(collection.name)
        order = _by_id(collection)
        documents = [collection.corpus[i] for i in order]
        query_vectors = _vectors(encode, collection.queries, collection.name, device)
        document_vectors = _vectors(encode_documents or encode, documents, collection.name, device)
        if query_vectors.shape[1] != document_vectors.shape[1]:
            raise UserError(
                f"queries have {query_vectors.shape[1]} dimensions and documents "
                f"{document_vectors.shape[1]}: both encoders must share one space"
            )
        rankings = {}
        for dim in check_dims(dims, query_vectors.shape[1]):
            scorer = _scorer(query_vectors[:, :dim], document_vectors[:, :dim], similarity)
            rankings[dim] = _rank(scorer, len(collection.queries), len(documents))
        parts.append((collection, rankings))
        bar.update()
    bar.close()
    return _result(parts, graded, seed)


def evaluate_bm25(
    collections: Sequence[Collection],
    *,
    graded: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Result:
    """Evaluate BM25 on the same candidates; its one row stands under the dimension `NO_DIM`.

    A document that shares no term with the query counts as not retrieved: at equal scores of 0 its
    place would be that of its id.
    """
    parts = []
    bar = tqdm(collections, desc="BM25", unit="collection", disable=not progress, leave=False)
    for collection in map(Collection.judged, _distinct(collections)):
        bar.set_postfix_str(collection.name)
        index = BM25([collection.corpus[i] for i in _by_id(collection)])

        def scorer(
            rows: slice, index: BM25 = index, queries: list[str] = collection.queries
        ) -> torch.Tensor:
            return torch.from_numpy(index.scores(queries[rows]))

        ranking = _rank(scorer, len(collection.queries), len(collection.corpus), floor=0.0)
        parts.append((collection, {NO_DIM: ranking}))
        bar.update()
    bar.close()
    return _result(parts, graded, seed)


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


def encoders(model: Any, batch_size: int = 256, progress: bool = False) -> tuple[Encode, Encode]:
    """The query and the document encoder of a SentenceTransformer, each with its prompt."""

    def of(method: Callable[..., Any]) -> Encode:
        return lambda texts: method(
            texts, batch_size=batch_size, show_progress_bar=progress, convert_to_tensor=True
        ).float().cpu().numpy()  # fmt: skip

    return of(model.encode_query), of(model.encode_document)


def untrained_like(model: Any, seed: int = 0) -> Any:
    """A SentenceTransformer with `model`'s tokenizer and a table as drawn from N(0, 1).

    What training starts from, for a static model; None for any other, of which there is no such
    baseline. (The untrained norm is left out: with it the order of documents is nearly the same.)
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if not any(isinstance(m, torch.nn.EmbeddingBag) for m in model[0].modules()):
        return None
    dim = model.get_embedding_dimension()
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tokenizer.get_vocab_size(), dim, generator=generator)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights)],
        prompts=dict(model.prompts),
        device=str(model.device),
    )


def _distinct(collections: Sequence[Collection]) -> Sequence[Collection]:
    names = [collection.name for collection in collections]
    if not names:
        raise UserError("no collection to evaluate on: give at least one")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two collections are named {name!r}: rename one, results go by name")
    return collections


def _by_id(collection: Collection) -> list[int]:
    """Positions of the documents in ascending order of id, so that a column breaks ties."""
    return sorted(range(len(collection.corpus_ids)), key=collection.corpus_ids.__getitem__)


def _vectors(
    encode: Encode, texts: list[str], name: str, device: str | torch.device
) -> torch.Tensor:
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


def _scorer(
    queries: torch.Tensor, documents: torch.Tensor, similarity: str
) -> Callable[[slice], torch.Tensor]:
    if similarity in ("cosine", "dot"):
        if similarity == "cosine":
            queries = torch.nn.functional.normalize(queries)
            documents = torch.nn.functional.normalize(documents)
        return lambda rows: queries[rows] @ documents.T
    from sentence_transformers.util import SimilarityFunction

    compare: Similarity = SimilarityFunction.to_similarity_fn(similarity)
    return lambda rows: compare(queries[rows], documents)


def _rank(
    scorer: Callable[[slice], torch.Tensor],
    n_queries: int,
    n_documents: int,
    floor: float | None = None,
) -> np.ndarray:
    """(Q, min(100, N)) best columns; -1 where a score is not above `floor`."""
    block = max(1, BLOCK // n_documents)
    rankings = []
    for start in range(0, n_queries, block):
        scores = scorer(slice(start, start + block))
        columns = top_documents(scores, DEPTH)
        if floor is not None:
            columns[scores.gather(1, columns) <= floor] = -1
        rankings.append(columns.cpu().numpy())
    return np.concatenate(rankings)


def _result(
    parts: list[tuple[Collection, dict[int, np.ndarray]]], graded: bool, seed: int
) -> Result:
    """Score the rankings; the mean over collections weighs each alike."""
    scores: dict[str, dict[int, Scores]] = {}
    samples = []  # per collection (resamples, dims * metrics)
    for collection, rankings in parts:
        document_ids = sorted(collection.corpus_ids)
        judgements = judge(collection.qrels, collection.query_ids, document_ids, graded=graded)
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
    """One stream per collection, whatever stands beside it."""
    return [seed, zlib.crc32(name.encode())]


def _rows(values: np.ndarray, means: np.ndarray, dims: list[int]) -> dict[int, Scores]:
    """Split dims * metrics columns into one `Scores` per dimension."""
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
