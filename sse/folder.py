"""Read a model folder with numpy alone: the table by memory map, the norm, the tokenizer.

Four layouts are known: this project's export (`sse_config.json` beside native
sentence-transformers modules), its compact form with smaller rows (`sse.quantise`), the published
SSE models (`embedding.weight`, `dyt.alpha|beta|bias`, or their 4-bit file), and any
sentence-transformers folder with a StaticEmbedding alone. Nothing is executed, nothing is
unpickled, and every declared size is checked against the file before anything is allocated.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.errors import UserError
from sse.numpy_norms import NORMS
from sse.pool import KINDS, Table

CONFIG_NAME = "sse_config.json"
FORMAT = 1
Q4_TABLE, Q4_REST = "embedding.q4_k_m.bin", "model_rest.safetensors"

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1"}
_MAX_HEADER = 10_000_000  # bytes; safetensors' own limit is 100 MB


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds.

    Attributes:
        rows: the table (V, D) as stored, memory-mapped.
        norm: the norm's name.
        vectors: the norm's parameters, each (D,) float32, by `sse.numpy_norms`' names. RMSNorm's
            `gain` is weight * sqrt(D).
        tokenizer: path of tokenizer.json.
        max_tokens: texts are cut there; None for no limit.
        settings: config_sentence_transformers.json (prompts, similarity), or {}.
    """

    rows: Table
    norm: str
    vectors: dict[str, NDArray[np.float32]]
    tokenizer: Path
    max_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None  # the tokenizer's vocabulary, where the folder says it

    def check_tokenizer(self, tokens: int) -> None:
        """UserError where a vocabulary of `tokens` does not fit the table.

        A table may be padded with rows that no token has, so equality is asked of the number
        that the export wrote down.
        """
        rows = self.rows.shape[0]
        if tokens > rows or tokens != (self.tokens or tokens):
            raise UserError(
                f"{self.tokenizer} has {tokens} tokens, the table {rows} rows: the files belong to "
                "different models"
            )

    @property
    def table(self) -> NDArray[np.float32]:
        """The rows as float32 (V, D)."""
        return self.rows.dense()


def read_folder(folder: str | os.PathLike[str]) -> ModelFolder:
    """Read any of the known layouts.

    Raises:
        UserError: no model there, a damaged file, or parts that do not fit each other.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give the folder of an exported model")
    if (root / CONFIG_NAME).exists():
        model = _read_export(root)
    elif (root / Q4_TABLE).exists():
        rest = read_safetensors(_need(root / Q4_REST))
        vocab = len(_read_json(root / "tokenizer.json").get("model", {}).get("vocab", ()))
        model = _published(root, read_q4(root / Q4_TABLE, vocab), rest)
    else:
        tensors = read_safetensors(_need(root / "model.safetensors"))
        if "embedding.weight" not in tensors:
            raise UserError(
                f"{root}/model.safetensors holds no embedding.weight: not a static embedding model"
            )
        table = _rows(root, tensors.pop("embedding.weight"))
        model = _published(root, table, tensors) if tensors else _plain(root, table)
    _check(model, root)
    return model


def _read_export(root: Path) -> ModelFolder:
    config = _read_json(root / CONFIG_NAME)
    if config.get("format") != FORMAT:
        raise UserError(
            f"{root / CONFIG_NAME} has format {config.get('format')!r}, this version reads "
            f"{FORMAT}: upgrade sse or export the model again"
        )
    norm = str(config.get("norm"))
    if norm not in NORMS:
        raise UserError(
            f"{root / CONFIG_NAME} names the norm '{norm}': this version knows {', '.join(NORMS)}"
        )
    if "rows" in config:
        return _read_compact(root, config, norm)
    paths = {str(m.get("idx")): str(m.get("path")) for m in _read_json(root / "modules.json")}
    table = read_safetensors(_need(root / "model.safetensors")).get("embedding.weight")
    if table is None:
        raise UserError(f"{root}/model.safetensors holds no embedding.weight: export again")
    vectors = {}
    for name, where in NORMS[norm].stored.items():
        number, tensor = where.split("/")
        subfolder = paths.get(number, "")
        if not subfolder or Path(subfolder).name != subfolder:
            raise UserError(f"{root}/modules.json gives no folder for module {number}")
        file = _need(root / subfolder / "model.safetensors")
        value = read_safetensors(file).get(tensor)
        if value is None:
            raise UserError(f"{file} holds no {tensor}: export the model again")
        # A diagonal Dense holds the vector on its diagonal.
        value = value.diagonal() if value.ndim == 2 else value
        vectors[name] = np.array(value, np.float32)
    return ModelFolder(
        _rows(root, table), norm, vectors, root / "tokenizer.json",
        _max_tokens(root, config), _settings(root), config.get("tokens"),
    )  # fmt: skip


def _read_compact(root: Path, config: dict[str, Any], norm: str) -> ModelFolder:
    """What `sse.quantise.write_compact` writes: rows, scales and the norm's vectors."""
    kind, vocab = config["rows"], config.get("vocab_size")
    if str(kind) not in KINDS or type(vocab) is not int:
        raise UserError(f"{root / CONFIG_NAME} has rows {kind!r} of {vocab!r} tokens: export again")
    tensors = read_safetensors(_need(root / (Q4_REST if kind == "int4" else "model.safetensors")))
    if kind == "int4":
        rows = read_q4(_need(root / Q4_TABLE), vocab)
    elif "embedding.weight" in tensors:
        rows = _rows(root, tensors["embedding.weight"], tensors.get("embedding.scale"))
    else:
        raise UserError(f"{root}/model.safetensors holds no embedding.weight: export again")
    names = {name: f"{norm}.{name}" for name in NORMS[norm].stored}
    if missing := [name for name in names.values() if name not in tensors]:
        raise UserError(f"{root} lacks {', '.join(missing)}: export the model again")
    vectors = {name: np.array(tensors[full], np.float32) for name, full in names.items()}
    return ModelFolder(
        rows, norm, vectors, root / "tokenizer.json", _max_tokens(root, config), _settings(root),
        config.get("tokens"),
    )  # fmt: skip


def _max_tokens(root: Path, config: dict[str, Any]) -> int | None:
    most = config.get("max_tokens")
    if most is None or (type(most) is int and most > 0):
        return most
    raise UserError(f"{root / CONFIG_NAME} has max_tokens {most!r}: a positive number or null")


def _rows(root: Path, table: NDArray[Any], scales: NDArray[Any] | None = None) -> Table:
    if table.ndim != 2 or not all(table.shape):
        raise UserError(f"{root}: the table has shape {table.shape}, expected (V, D)")
    if scales is not None and not np.isfinite(scales).all():
        raise UserError(f"{root}: the table's scales hold NaN or infinite values: export again")
    return Table(table, scales)


def _published(root: Path, table: Table, rest: dict[str, NDArray[Any]]) -> ModelFolder:
    """The published layout: dyt.alpha, dyt.beta, dyt.bias beside the table."""
    names = ("alpha", "beta", "bias")
    missing = [f"dyt.{name}" for name in names if f"dyt.{name}" not in rest]
    if missing:
        raise UserError(f"{root} lacks {', '.join(missing)}: not an SSE model this version knows")
    vectors = {name: np.array(rest[f"dyt.{name}"], np.float32) for name in names}
    return ModelFolder(table, "dyt", vectors, root / "tokenizer.json", None, _settings(root))


def _plain(root: Path, table: Table) -> ModelFolder:
    """A sentence-transformers folder whose only module is a StaticEmbedding."""
    modules = _read_json(root / "modules.json")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if kinds != ["StaticEmbedding"]:
        raise UserError(
            f"{root} has the modules {', '.join(kinds)}: only a StaticEmbedding alone or an export "
            "of this project can be read; SentenceTransformer(path) may load it"
        )
    return ModelFolder(table, "none", {}, root / "tokenizer.json", None, _settings(root))


def _check(model: ModelFolder, root: Path) -> None:
    """Do the parts fit each other?"""
    dim = model.rows.shape[1]
    for name, vector in model.vectors.items():
        if vector.shape != (dim,):
            raise UserError(
                f"{root}: {model.norm}'s {name} has shape {vector.shape}, the table {dim} columns: "
                "the files belong to different models"
            )
        if not np.isfinite(vector).all():
            raise UserError(f"{root}: {model.norm}'s {name} holds NaN or infinite values")
    _need(model.tokenizer)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a safetensors file as a read-only memory map; bfloat16 becomes float32.

    Format: 8 bytes little-endian header length, a JSON header, then the data. Source:
    https://github.com/huggingface/safetensors
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _tensor(path, 8 + length, size, **info) for name, info in header.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): copy or export the model again") from error


def _tensor(
    path: Path, base: int, size: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> NDArray[Any]:
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of type {dtype}")
    kind = np.dtype(_DTYPES[dtype])
    start, end = data_offsets
    if any(type(n) is not int or n < 0 for n in [*shape, start, end]):
        raise ValueError("a negative size")
    if base + end > size or end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{size} bytes do not hold a tensor of shape {shape}")
    if start == end:
        return np.zeros(shape, np.float32 if dtype == "BF16" else kind)
    data = np.memmap(path, kind, "r", base + start, tuple(shape))
    if dtype == "BF16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data


def read_q4(path: Path, vocab: int) -> Table:
    """The published 4-bit table, memory-mapped.

    The file is V x D/2 packed bytes (high nibble first), then V float32 scales;
    w = (q / 7.5 - 1) * scale. D is not written in it and follows from V and the size.

    Args:
        path: the file.
        vocab: V, which is the number of tokens where nothing else says it.
    """
    size = path.stat().st_size
    row, rest = divmod(size, vocab) if vocab > 0 else (0, 1)
    if rest or row <= 4:
        raise UserError(
            f"{path}: {size} bytes are no whole rows for {vocab} tokens: "
            "the file is damaged or belongs to another tokenizer"
        )
    half = row - 4
    packed = np.memmap(path, np.uint8, "r", 0, (vocab, half))
    return Table(packed, np.memmap(path, "<f4", "r", vocab * half, (vocab,)))


def _settings(root: Path) -> dict[str, Any]:
    path = root / "config_sentence_transformers.json"
    return dict(_read_json(path)) if path.exists() else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_need(path).read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): copy or export the model again") from error


def _need(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing: give the folder of an exported model")
    return path
