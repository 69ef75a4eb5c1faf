"""Smaller numbers: table rows as float16, int8 or int4; vectors as int8 or bits.

One row w (D,) has one scale s, float32; m is its largest |w|. The error is per component, besides
float32's own rounding (of float16 below 2^-14 it is 2^-25):

| rows    | stored q                 | s       | decoded         | error at most | bytes per row |
|---------|--------------------------|---------|-----------------|---------------|---------------|
| float16 | w, rounded               | none    | q               | |w| / 2^11    | 2 D           |
| int8    | round(w / s)             | m / 127 | q * s           | m / 254       | D + 4         |
| int4    | round((w / s + 1) * 7.5) | m       | (q / 7.5 - 1) s | m / 15        | D / 2 + 4     |
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.digests import write_config
from sse.common.errors import UserError, one_of
from sse.common.files import atomic_folder, write_json
from sse.model.exported.library_files import write_library_files
from sse.model.folder import (
    FORMAT,
    Q4_REST,
    Q4_TABLE,
    ModelFolder,
    check_target,
    read_folder,
    save_frequencies,
)
from sse.model.norm_forms import NORM_FORMS
from sse.model.table import ROW_KINDS, EmbeddingTable, check_finite
from sse.text.tokenizer import load_tokenizer

PRECISIONS = ("float32", "int8", "binary")  # of vectors


def quantise_rows(
    table: NDArray[Any], kind: str
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """A table (V, D) as it is stored: its rows, and their scales (V,) float32 or None.

    Args:
        table: (V, D).
        kind: `float32`, `float16`, `int8` or `int4`; int4 packs two columns per uint8, the first in
            the high nibble: (V, D / 2).

    Raises:
        UserError: an unknown kind, NaN or infinity, values beyond float16, an odd D for int4.
    """
    table = np.asarray(table, np.float32)
    if kind not in ROW_KINDS:
        raise UserError(f"rows '{kind}': {one_of(kind, ROW_KINDS)}")
    check_finite(table)
    if kind == "float32":
        return table, None
    largest = np.abs(table).max(axis=1)
    if kind == "float16":
        if largest.max(initial=0) > np.finfo(np.float16).max:
            raise UserError(f"float16 cannot hold {largest.max()}: use int8")
        return table.astype(np.float16), None
    scales = (largest / 127 if kind == "int8" else largest).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    if kind == "int8":
        return np.rint(table / divisors).clip(-127, 127).astype(np.int8), scales
    if table.shape[1] % 2:
        raise UserError(f"4-bit rows go in pairs of columns, the table has {table.shape[1]}")
    q = np.rint((table / divisors + 1) * np.float32(7.5)).clip(0, 15).astype(np.uint8)
    return (q[:, 0::2] << 4) | q[:, 1::2], scales


def write_compact(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: str = "int8",
    dim: int | None = None,
) -> Path:
    """Write the model in `source` with smaller rows, for `sse.Encoder` and `sse.load`.

    Args:
        source: a folder of any layout that `sse.model.folder` knows.
        target: an empty or new folder; written whole or not at all.
        rows: a kind of `quantise_rows`; int4 writes the published 4-bit file.
        dim: keep the first `dim` dimensions only.

    Returns:
        The target.

    Raises:
        UserError: a target that holds anything but a model, or rows or a dim that the model
            cannot have.
    """
    model, target = read_folder(source), Path(target)
    check_target(target)
    if dim is not None:
        model = truncate(model, dim)
    with atomic_folder(target) as folder:
        save_compact(model, rows, folder)
    return target


def save_compact(
    model: ModelFolder, rows: str, folder: Path, more: dict[str, Any] | None = None
) -> None:
    """Write `model` with rows of that kind into an empty folder, and `more` into its config."""
    from safetensors.numpy import save_file

    tokenizer = load_tokenizer(str(model.tokenizer)).tokenizer
    table, scales = quantise_rows(model.table, rows)
    tensors = {f"{model.norm}.{name}": vector for name, vector in model.vectors.items()}
    if rows == "int4":
        assert scales is not None
        with open(folder / Q4_TABLE, "wb") as file:
            file.write(np.ascontiguousarray(table).data)
            file.write(scales.astype("<f4").data)
        save_file(tensors, folder / Q4_REST)
    else:
        tensors["embedding.weight"] = np.ascontiguousarray(table)
        if scales is not None:
            tensors["embedding.scale"] = scales
        save_file(tensors, folder / "model.safetensors")
    tokenizer.post_processor = None
    tokenizer.save(str(folder / "tokenizer.json"))
    write_library_files(folder, tokenizer, model.rows.shape[1], model.max_tokens)
    if model.settings:
        write_json(folder / "config_sentence_transformers.json", model.settings)
    save_frequencies(model.frequencies, folder)
    config = {
        "format": FORMAT,
        "norm": model.norm,
        "dim": model.rows.shape[1],
        "vocab_size": model.rows.shape[0],
        "max_tokens": model.max_tokens,
        "rows": rows,
    }
    write_config(folder, config | (more or {}))


def truncate(model: ModelFolder, dim: int) -> ModelFolder:
    """The model of the first `dim` dimensions.

    Raises:
        UserError: `dim` is no prefix of D, or the norm's dimensions depend on each other.
    """
    full = model.rows.shape[1]
    if not 1 <= dim <= full:
        raise UserError(f"dim {dim} is no prefix of the model's {full}: give 1 to {full}")
    if not NORM_FORMS[model.norm].by_dimension and dim != full:
        raise UserError(
            f"a model with {model.norm} needs all its {full} dimensions before the norm: "
            "cut its vectors instead (encode's dim)"
        )
    vectors = {name: vector[:dim].copy() for name, vector in model.vectors.items()}
    return replace(model, rows=EmbeddingTable(model.table[:, :dim]), vectors=vectors)


def width(dim: int, precision: str) -> tuple[int, Any]:
    """The columns and the type of quantised vectors of `dim` dimensions."""
    if precision == "binary":
        return (dim + 7) // 8, np.uint8
    return dim, np.int8 if precision == "int8" else np.float32


def quantise_vectors(x: NDArray[np.float32], precision: str) -> NDArray[Any]:
    """Vectors x (n, d) at a precision: float32 or int8 (n, d), or bits (n, ceil(d / 8)) uint8.

    int8 is q = round(127 x / m), with m the vector's largest |x|. It changes the length, but not
    the cosine beyond rounding: the error per component is m / 254 at most. A bit is 1 where x > 0;
    eight stand in a byte, the first highest, as in sentence-transformers' `ubinary`.

    >>> x = np.array([[0.5, -1.0, 0.25]], np.float32)
    >>> quantise_vectors(x, "int8").tolist(), quantise_vectors(x, "binary").tolist()
    ([[64, -127, 32]], [[160]])
    """
    if precision == "float32":
        return x
    if precision == "binary":
        return np.packbits(x > 0, axis=1)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    return np.rint(x / np.where(largest > 0, largest, 1) * 127).astype(np.int8)
