"""What can be evaluated: any model folder, and the untrained twin of a static model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sse.common.digests import CONFIG_NAME
from sse.common.errors import UserError, first_line
from sse.evaluation.collection import Collection
from sse.evaluation.evaluate import (
    Encode,
    check_dims,
    encoders,
    evaluate,
    evaluate_bm25,
    evaluate_hybrid,
)
from sse.evaluation.results import Result
from sse.model.folder import read_folder
from sse.model.load import load
from sse.text.tokenizer import load_tokenizer


def load_model(folder: str | Path, device: str | None = None) -> Any:
    """A SentenceTransformer from any sentence-transformers folder or any that `sse.load` reads.

    Raises:
        UserError: no such folder, a damaged or unknown model, a device that is not there.
    """
    if device and device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: there is no CUDA device here: say cpu or leave it out")
    if not _native(Path(folder)):
        return load(folder, device=device)
    if (Path(folder) / CONFIG_NAME).exists():  # of ours: the parts are checked against each other
        files = read_folder(folder)
        files.check_tokenizer(load_tokenizer(str(files.tokenizer)).vocab_size)
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder), device=device, local_files_only=True)
    except Exception as error:  # its many readers share no family of errors
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"{folder}: sentence-transformers cannot load it ({reason}): copy or export it again"
        ) from error


def _native(folder: Path) -> bool:
    """Whether the folder lists sentence-transformers' own modules only."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        return all(m["type"].startswith("sentence_transformers.") for m in modules)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def evaluate_model(
    model: Any,
    collections: Sequence[Collection],
    dims: Sequence[int] | None = None,
    *,
    batch_size: int = 256,
    progress: bool = False,
    **options: Any,
) -> Result:
    """Evaluate a SentenceTransformer with its own prompts, similarity and device.

    The other arguments are those of `sse.evaluation.evaluate.evaluate` and `encoders`.
    """
    queries, settings = _settings(model, dims, batch_size, progress)
    return evaluate(queries, collections, dims, **settings, **options)


def evaluate_beside(
    model: Any,
    collections: Sequence[Collection],
    dims: Sequence[int] | None = None,
    baselines: bool = True,
    hybrid: bool = False,
    *,
    batch_size: int = 256,
    progress: bool = False,
    **options: Any,
) -> dict[str, Result]:
    """`model`, and what is asked for beside it.

    With `baselines` its untrained twin (where there is one) and BM25; with `hybrid` BM25, and the
    model and BM25 together.
    """
    queries, settings = _settings(model, dims, batch_size, progress)
    settings |= options
    if hybrid:
        dense, bm25, both = evaluate_hybrid(queries, collections, dims, **settings)
        results = {"model": dense, "hybrid": both, "BM25": bm25}
    else:
        results = {"model": evaluate(queries, collections, dims, **settings)}
    twin = untrained_like(model) if baselines else None
    if twin is not None:
        results["untrained"] = evaluate_model(
            twin, collections, dims, batch_size=batch_size, progress=progress, **options
        )
    if baselines and not hybrid:
        results["BM25"] = evaluate_bm25(collections, progress=progress, **options)
    return results


def _settings(
    model: Any, dims: Sequence[int] | None, batch_size: int, progress: bool
) -> tuple[Encode, dict[str, Any]]:
    """The encoder of a model's queries, and the other arguments of `evaluate`."""
    check_dims(dims, model.get_embedding_dimension())  # before the long work
    queries, documents = encoders(model, batch_size, progress)
    return queries, {
        "encode_documents": documents,
        "similarity": str(model.similarity_fn_name or "cosine"),
        "device": model.device,
        "progress": progress,
    }


def untrained_like(model: Any, seed: int = 0) -> Any:
    """A SentenceTransformer with `model`'s tokenizer and a table as drawn from N(0, 1).

    What training starts from, for a static model; None for any other, of which there is no such
    baseline. (The untrained norm is left out: with it the order of documents is nearly the same.)
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tables = [m for m in model[0].modules() if isinstance(m, torch.nn.EmbeddingBag)]
    if not tables:
        return None
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tables[0].weight.shape, generator=generator)
    return SentenceTransformer(
        modules=[StaticEmbedding(model[0].tokenizer, embedding_weights=weights)],
        prompts=dict(model.prompts),
        device=str(model.device),
    )
