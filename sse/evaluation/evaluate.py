"""Retrieval quality of an encoder at each Matryoshka dimension, and of its baselines.

- Texts are encoded once at the full dimension. Dimension d means the first d components, normalised
  again, as sentence-transformers' `truncate_dim` does.
- Ranking is exact, in float32 (`ranking.py`).
- Every metric has a bootstrap interval over queries. Systems evaluated with one seed are resampled
  alike, so they can be compared query by query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sse.common.errors import UserError
from sse.common.fusion import WEIGHT
from sse.evaluation.bm25 import BM25
from sse.evaluation.collection import Collection
from sse.evaluation.ranking import Scorer, fused_scorer, rank, vector_scorer
from sse.evaluation.results import NO_DIM, Result, result_of

Encode = Callable[[list[str]], np.ndarray]  # texts -> (n, D)

STANDARD_DIMS = (512, 256, 128, 64, 32)


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
        scorers = _scorers(collection, encode, encode_documents, dims, similarity, device)
        parts.append((collection, {d: _ranked(s, collection) for d, s in scorers.items()}))
    return result_of(parts, graded, seed)


def evaluate_bm25(
    collections: Sequence[Collection],
    *,
    graded: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Result:
    """The quality of BM25 on collections, as dimension `NO_DIM`; the arguments are `evaluate`'s."""
    parts = []
    for collection in _judged(collections, "BM25", progress):
        ranking = _ranked(_keyword_scorer(collection), collection, floor=0.0)
        parts.append((collection, {NO_DIM: ranking}))
    return result_of(parts, graded, seed)


def evaluate_hybrid(
    encode: Encode,
    collections: Sequence[Collection],
    dims: Sequence[int] | None = None,
    *,
    encode_documents: Encode | None = None,
    similarity: str = "cosine",
    weight: float = WEIGHT,
    graded: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[Result, Result, Result]:
    """The quality of an encoder, of BM25 and of both together, as `sse.common.fusion.fuse` has it.

    Args:
        encode: texts -> (n, D), for queries.
        collections: what to search; their names must differ.
        dims: prefixes to evaluate, as for `evaluate`.
        encode_documents: the encoder for documents; by default `encode`.
        similarity: cosine or dot.
        weight: of the encoder's scores, 0 to 1.
        graded: judged grades as nDCG's gains.
        seed: of the bootstrap.
        device: where the encoder's scores are computed.
        progress: show a bar.

    Returns:
        What `evaluate` and `evaluate_bm25` return, and the same of both together. Texts are
        encoded once.

    Raises:
        UserError: as `evaluate`, or a similarity that is a distance.
    """
    if similarity not in ("cosine", "dot"):
        raise UserError(f"similarity '{similarity}' cannot be fused with BM25: use cosine or dot")
    dense, keyword, both = [], [], []
    for collection in _judged(collections, "Evaluating", progress):
        words = _keyword_scorer(collection)
        scorers = _scorers(collection, encode, encode_documents, dims, similarity, device)
        fused = {d: fused_scorer(scorer, words, weight) for d, scorer in scorers.items()}
        dense.append((collection, {d: _ranked(s, collection) for d, s in scorers.items()}))
        keyword.append((collection, {NO_DIM: _ranked(words, collection, floor=0.0)}))
        both.append((collection, {d: _ranked(s, collection, floor=-1) for d, s in fused.items()}))
    systems = (dense, keyword, both)
    a, b, c = (result_of(parts, graded, seed) for parts in systems)
    return a, b, c


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


def _scorers(
    collection: Collection,
    encode: Encode,
    encode_documents: Encode | None,
    dims: Sequence[int] | None,
    similarity: str,
    device: str | torch.device,
) -> dict[int, Scorer]:
    """The scorer of each prefix of an encoder's dimensions."""
    queries = _vectors(encode, collection.queries, collection.name, device)
    documents = _vectors(encode_documents or encode, collection.corpus, collection.name, device)
    if queries.shape[1] != documents.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} dimensions and documents {documents.shape[1]}: "
            "both encoders must share one space"
        )
    return {
        dim: vector_scorer(queries[:, :dim], documents[:, :dim], similarity)
        for dim in check_dims(dims, queries.shape[1])
    }


def _keyword_scorer(collection: Collection) -> Scorer:
    """The scorer of BM25."""
    index = BM25(collection.corpus)
    return lambda rows: torch.from_numpy(index.scores(collection.queries[rows]))


def _ranked(scorer: Scorer, collection: Collection, floor: float | None = None) -> np.ndarray:
    """The ranking of a collection.

    BM25's floor is 0: a document that shares no term with the query counts as not retrieved.
    Otherwise its id would decide its rank among all scores of 0.
    """
    return rank(scorer, len(collection.queries), collection.corpus_ids, floor=floor)
