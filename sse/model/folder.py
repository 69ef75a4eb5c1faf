"""Read a model folder with numpy alone: the table by memory map, the norm, the tokenizer.

Four layouts are known: this project's export (`sse_config.json` beside native
sentence-transformers modules), its compact form with smaller rows (`sse.model.quantise`), the
published
SSE models (`embedding.weight`, `dyt.alpha|beta|bias`, or their 4-bit file), and any
sentence-transformers folder with a StaticEmbedding alone. Nothing is executed, nothing is
unpickled; `sse.model.checked_files` checks each file before it is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.digests import CONFIG_NAME
from sse.common.errors import UserError
from sse.model.checked_files import ModelFiles, read_q4
from sse.model.norm_forms import NORM_FORMS
from sse.model.table import ROW_KINDS, EmbeddingTable

FORMAT = 1
Q4_TABLE, Q4_REST = "embedding.q4_k_m.bin", "model_rest.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds.

    Attributes:
        rows: the table (V, D) as stored, memory-mapped.
        norm: the norm's name.
        vectors: the norm's parameters, each (D,) float32, by `sse.model.norm_forms`' names.
        RMSNorm's
            `gain` is weight * sqrt(D).
        tokenizer: path of tokenizer.json.
        max_tokens: texts are cut there; None for no limit.
        settings: config_sentence_transformers.json (prompts, similarity), or {}.
    """

    rows: EmbeddingTable
    norm: str
    vectors: dict[str, NDArray[np.float32]]
    tokenizer: Path
    max_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None  # the tokenizer's vocabulary, where the folder says it
    sealed: bool = False  # whether the folder lists digests of its files

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


def read_folder(folder: str | os.PathLike[str], verify: bool = True) -> ModelFolder:
    """Read any of the known layouts.

    Args:
        folder: the folder.
        verify: compare its files with the digests in it, where it is one of ours (7 ms for 60 MiB).

    Raises:
        UserError: no model there, a damaged file, one outside the folder, or parts that do not fit
            each other.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give the folder of an exported model")
    files = ModelFiles(root, verify)
    if files.has(CONFIG_NAME):
        model = _read_export(files)
    elif files.has(Q4_TABLE):
        rest = files.tensors(Q4_REST)
        model = _published(files, read_q4(files.path(Q4_TABLE), _vocabulary(files)), rest)
    else:
        tensors = files.tensors("model.safetensors")
        if "embedding.weight" not in tensors:
            raise UserError(
                f"{root}/model.safetensors holds no embedding.weight: not a static embedding model"
            )
        table = _rows(root, tensors.pop("embedding.weight"))
        model = _published(files, table, tensors) if tensors else _plain(files, table)
    _check(model, root)
    return model


def _vocabulary(files: ModelFiles) -> int:
    """How many tokens the model in tokenizer.json has."""
    model = files.json("tokenizer.json").get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return len(vocab) if isinstance(vocab, dict | list) else 0


def _read_export(files: ModelFiles) -> ModelFolder:
    root, config = files.root, files.config
    if config.get("format") != FORMAT:
        raise UserError(
            f"{root / CONFIG_NAME} has format {config.get('format')!r}, this version reads "
            f"{FORMAT}: upgrade sse or export the model again"
        )
    norm = str(config.get("norm"))
    if norm not in NORM_FORMS:
        known = ", ".join(NORM_FORMS)
        raise UserError(f"{root / CONFIG_NAME} names the norm '{norm}': this version knows {known}")
    if "rows" in config:
        return _read_compact(files, norm)
    modules = files.json("modules.json", list)
    paths = {str(m.get("idx")): str(m.get("path")) for m in modules if isinstance(m, dict)}
    table = files.tensors("model.safetensors").get("embedding.weight")
    if table is None:
        raise UserError(f"{root}/model.safetensors holds no embedding.weight: export again")
    vectors = {}
    for name, where in NORM_FORMS[norm].stored.items():
        number, tensor = where.split("/")
        subfolder = paths.get(number, "")
        if subfolder in ("", ".", "..") or "\0" in subfolder or Path(subfolder).name != subfolder:
            raise UserError(f"{root}/modules.json gives no folder for module {number}")
        value = files.tensors(subfolder, "model.safetensors").get(tensor)
        if value is None:
            raise UserError(
                f"{root / subfolder}/model.safetensors holds no {tensor}: export the model again"
            )
        # A diagonal Dense holds the vector on its diagonal.
        value = value.diagonal() if value.ndim == 2 else value
        vectors[name] = np.array(value, np.float32)
    return _model(files, _rows(root, table), norm, vectors)


def _read_compact(files: ModelFiles, norm: str) -> ModelFolder:
    """What `sse.model.quantise.write_compact` writes: rows, scales and the norm's vectors."""
    root, kind, vocab = files.root, files.config["rows"], files.config.get("vocab_size")
    if str(kind) not in ROW_KINDS or type(vocab) is not int:
        raise UserError(f"{root / CONFIG_NAME} has rows {kind!r} of {vocab!r} tokens: export again")
    tensors = files.tensors(Q4_REST if kind == "int4" else "model.safetensors")
    if kind == "int4":
        rows = read_q4(files.path(Q4_TABLE), vocab)
    elif "embedding.weight" in tensors:
        rows = _rows(root, tensors["embedding.weight"], tensors.get("embedding.scale"))
    else:
        raise UserError(f"{root}/model.safetensors holds no embedding.weight: export again")
    if rows.kind != kind or rows.shape[0] != vocab:
        raise UserError(
            f"{root}: the table has {rows.shape[0]} {rows.kind} rows, {CONFIG_NAME} says {vocab} "
            f"of {kind}: the files belong to different models"
        )
    names = {name: f"{norm}.{name}" for name in NORM_FORMS[norm].stored}
    if missing := [name for name in names.values() if name not in tensors]:
        raise UserError(f"{root} lacks {', '.join(missing)}: export the model again")
    vectors = {name: np.array(tensors[full], np.float32) for name, full in names.items()}
    return _model(files, rows, norm, vectors)


def _model(
    files: ModelFiles, rows: EmbeddingTable, norm: str, vectors: dict[str, NDArray[np.float32]]
) -> ModelFolder:
    """What the layouts share."""
    return ModelFolder(
        rows, norm, vectors, files.tokenizer(), _max_tokens(files.root, files.config),
        _settings(files), files.config.get("tokens"), "files" in files.config,
    )  # fmt: skip


def _max_tokens(root: Path, config: dict[str, Any]) -> int | None:
    most = config.get("max_tokens")
    if most is None or (type(most) is int and most > 0):
        return most
    raise UserError(f"{root / CONFIG_NAME} has max_tokens {most!r}: a positive number or null")


def _rows(root: Path, table: NDArray[Any], scales: NDArray[Any] | None = None) -> EmbeddingTable:
    if table.ndim != 2 or not all(table.shape):
        raise UserError(f"{root}: the table has shape {table.shape}, expected (V, D)")
    if scales is not None and not np.isfinite(scales).all():
        raise UserError(f"{root}: the table's scales hold NaN or infinite values: export again")
    return EmbeddingTable(table, scales)


def _published(
    files: ModelFiles, table: EmbeddingTable, rest: dict[str, NDArray[Any]]
) -> ModelFolder:
    """The published layout: dyt.alpha, dyt.beta, dyt.bias beside the table."""
    names = ("alpha", "beta", "bias")
    missing = [f"dyt.{name}" for name in names if f"dyt.{name}" not in rest]
    if missing:
        raise UserError(
            f"{files.root} lacks {', '.join(missing)}: not an SSE model this version knows"
        )
    vectors = {name: np.array(rest[f"dyt.{name}"], np.float32) for name in names}
    return _model(files, table, "dyt", vectors)


def _plain(files: ModelFiles, table: EmbeddingTable) -> ModelFolder:
    """A sentence-transformers folder whose only module is a StaticEmbedding."""
    modules = files.json("modules.json", list)
    types = [module.get("type") if isinstance(module, dict) else None for module in modules]
    kinds = [str(kind).rsplit(".", 1)[-1] for kind in types]
    if kinds != ["StaticEmbedding"]:
        raise UserError(
            f"{files.root} has the modules {', '.join(kinds)}: only a StaticEmbedding alone or an "
            "export of this project can be read; SentenceTransformer(path) may load it"
        )
    return _model(files, table, "none", {})


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


def _settings(files: ModelFiles) -> dict[str, Any]:
    """The prompts and the similarity; texts where texts belong."""
    name = "config_sentence_transformers.json"
    settings: dict[str, Any] = files.json(name) if files.has(name) else {}
    prompts = settings.get("prompts") or {}
    default, similarity = (settings.get(k) for k in ("default_prompt_name", "similarity_fn_name"))
    if (
        not isinstance(prompts, dict)
        or not all(isinstance(prompt, str) for prompt in prompts.values())
        or not all(value is None or isinstance(value, str) for value in (default, similarity))
    ):
        raise UserError(f"{files.root / name}: prompts and names must be texts: export again")
    return settings
