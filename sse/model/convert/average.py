"""The mean of several models' tables and norm vectors, known as a weight soup."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.model.convert.rewrite import rewrite
from sse.model.folder import ModelFolder, check_target, read_folder
from sse.model.table import EmbeddingTable
from sse.text.frequencies import Frequencies
from sse.text.tokenizer import load_tokenizer

BLOCK = 4_096  # rows at a time


def average(
    models: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
) -> Path:
    """Write the weighted mean of models: E = sum_i w_i E_i / sum_i w_i, and so the norm's vectors.

    It suits models of one start, such as several seeds of the data or epochs of one run. The mean
    of tables from different starts lay between them.

    Args:
        models: two folders or more, with equal tokenizers, dimensions and norms.
        out: a new or empty folder, or one that holds a model, which is replaced. It has the
            layout, the prompts and the kind of rows of the first model.
        weights: one positive number for each model; by default equal ones.

    Returns:
        The folder.

    Raises:
        UserError: fewer than two models, models that differ, weights that do not suit them.
    """
    if len(models) < 2:
        raise UserError(f"{len(models)} model: give two or more to average")
    shares = _shares(weights, len(models))
    check_target(Path(out))
    sources = [read_folder(model) for model in models]
    _check_alike(sources, models)
    first = sources[0]
    table = np.empty(first.rows.shape, np.float32)
    for start in range(0, len(table), BLOCK):
        at = slice(start, start + BLOCK)
        table[at] = _mean((source.rows.dense(at) for source in sources), shares)
    vectors = {
        name: _mean((source.vectors[name] for source in sources), shares) for name in first.vectors
    }
    mean = replace(
        first, rows=EmbeddingTable(table), vectors=vectors, frequencies=_together(sources)
    )
    parts = [f"{Path(m).resolve().name}: {w:.3g}" for m, w in zip(models, shares, strict=True)]
    note = (
        f"## Averaged\n\nThe table is the mean of {len(models)} models (`sse average`; "
        f"{', '.join(parts)}). Scores above are those of the first.\n"
    )
    return rewrite(models[0], out, mean, {"averaged": parts}, note, first.rows.kind)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """The models' shares, whose sum is 1."""
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise UserError(f"{len(weights)} `weights` for {count} models: give one for each")
    if wrong := [w for w in weights if not 0 < w < np.inf]:
        raise UserError(f"a weight of {wrong[0]}: `weights` must be positive")
    return [w / sum(weights) for w in weights]


def _check_alike(sources: list[ModelFolder], models: Sequence[str | os.PathLike[str]]) -> None:
    """UserError unless all models have the first one's tokenizer, table shape and norm."""

    def facts(source: ModelFolder) -> dict[str, object]:
        tokenizer = load_tokenizer(str(source.tokenizer), max_tokens=source.max_tokens)
        source.check_tokenizer(tokenizer.vocab_size)
        (rows, dim), text = source.rows.shape, tokenizer.fingerprint
        return {"norm": source.norm, "dimensions": dim, "rows": rows, "tokenizer": text}

    first = facts(sources[0])
    for source, model in zip(sources[1:], models[1:], strict=True):
        for name, value in facts(source).items():
            if value != first[name]:
                values = "" if name == "tokenizer" else f" ({first[name]} and {value})"
                raise UserError(
                    f"{models[0]} and {model} differ in their {name}{values}: "
                    "average models of one kind"
                )


def _mean(parts: Iterator[NDArray[np.float32]], shares: list[float]) -> NDArray[np.float32]:
    """The weighted sum, added up in float64."""
    total = sum(part.astype(np.float64) * share for part, share in zip(parts, shares, strict=True))
    return np.asarray(total, np.float32)


def _together(sources: list[ModelFolder]) -> Frequencies | None:
    """The frequencies in all models' training texts; None where one model lacks them."""
    known = [source.frequencies for source in sources if source.frequencies is not None]
    if len(known) < len(sources):
        return None
    return Frequencies(np.sum([f.found for f in known], axis=0), sum(f.texts for f in known))
