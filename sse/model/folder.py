"""Read a model folder with numpy alone; nothing in it is executed or unpickled.

| layout          | recognised by                    | table             | norm's vectors         |
|-----------------|----------------------------------|-------------------|------------------------|
| export          | sse_config.json                  | model.safetensors | one folder per module  |
| compact         | sse_config.json with `rows`      | model.safetensors | beside the table       |
| compact int4    | sse_config.json, `rows` is int4  | Q4_TABLE          | Q4_REST                |
| published 4-bit | Q4_TABLE                         | Q4_TABLE          | Q4_REST                |
| published       | tensors beside the table         | model.safetensors | beside the table       |
| of others       | `sse.model.static_tables`        |                   | none                   |

Any of them may have FREQUENCIES, how often each token occurs in the training texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.digests import CONFIG_NAME
from sse.common.errors import UserError
from sse.common.hub import model_folder
from sse.model.checked_files import ModelFiles, read_q4
from sse.model.norm_forms import NORM_FORMS
from sse.model.static_tables import read_static_table
from sse.model.table import ROW_KINDS, EmbeddingTable
from sse.text.frequencies import Frequencies

MAX_PROMPT = 4_096  # characters
FORMAT = 1  # the number of `sse_config.json`'s format
TABLE = "model.safetensors"
Q4_TABLE, Q4_REST = "embedding.q4_k_m.bin", "model_rest.safetensors"
FREQUENCIES = "frequencies.safetensors"  # `found` (V,) and `texts` (1,), int64


@dataclass(frozen=True)
class ModelFolder:
    """A model folder's content."""

    rows: EmbeddingTable  # (V, D) as stored, memory-mapped
    norm: str
    vectors: dict[str, NDArray[np.float32]]  # the norm's, each (D,), by their names in its `Form`
    tokenizer: Path  # of tokenizer.json
    digests: str  # what was compared: "verified", "sizes" (of older folders) or "none"
    max_tokens: int | None  # the most tokens per text; None for no limit
    settings: dict[str, Any]  # config_sentence_transformers.json (prompts, similarity), or {}
    tokens: int | None  # the size of the vocabulary, where `sse_config.json` has it
    frequencies: Frequencies | None = None  # of the training texts, where the folder has them
    config: dict[str, Any] = field(default_factory=dict)  # `sse_config.json`, or {}

    def check_tokenizer(self, tokens: int) -> None:
        """UserError where a vocabulary of `tokens` does not fit the table.

        A table may have rows beyond the vocabulary. So `tokens` must equal the number in
        `sse_config.json`, and elsewhere be V at most.
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
        folder: the folder, or a model's name on the hub, OWNER/NAME.
        verify: compare its files with the digests in `sse_config.json`, where it lists some.

    Raises:
        UserError: no model there, a hub that does not answer, a damaged file, one outside the
            folder, or parts that do not fit each other.
    """
    root = model_folder(folder)
    files = ModelFiles(root, verify)
    if files.has(CONFIG_NAME):
        model = _read_export(files)
    elif files.has(Q4_TABLE):
        rows = read_q4(files.path(Q4_TABLE), _vocabulary(files))
        model = _model(files, rows, "dyt", _vectors(root, files.tensors(Q4_REST), "dyt"))
    elif files.has(TABLE) and _is_published(tensors := files.tensors(TABLE)):
        model = _model(files, _rows(root, tensors), "dyt", _vectors(root, tensors, "dyt"))
    else:
        model = _read_others(files)
    _check_vectors(model, root)
    return model


def _is_published(tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the tensors are those of the published layout: DyT's beside the table."""
    return any(name.startswith("dyt.") for name in tensors)


def _read_others(files: ModelFiles) -> ModelFolder:
    """A static table of another library; RMSNorm with a gain of 1 is L2 normalisation."""
    table = read_static_table(files)
    vectors = {"gain": np.ones(table.rows.shape[1], np.float32)} if table.normalised else {}
    model = _model(files, table.rows, "rmsnorm" if vectors else "none", vectors, table.tokenizer)
    return replace(model, max_tokens=table.max_tokens)


def _vocabulary(files: ModelFiles) -> int:
    """The number of tokens in tokenizer.json; 0 where it has no vocabulary."""
    model = files.json("tokenizer.json").get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return len(vocab) if isinstance(vocab, dict | list) else 0


def _read_export(files: ModelFiles) -> ModelFolder:
    """A folder with `sse_config.json`: an export or its compact form."""
    place, config = files.root / CONFIG_NAME, files.config
    if config.get("format") != FORMAT:
        raise UserError(
            f"{place} has format {config.get('format')!r}, this version reads {FORMAT}: "
            "upgrade sse or export the model again"
        )
    norm = str(config.get("norm"))
    if norm not in NORM_FORMS:
        known = ", ".join(NORM_FORMS)
        raise UserError(f"{place} names the norm '{norm}': this version knows {known}")
    if "rows" in config:
        return _read_compact(files, norm)
    rows = _rows(files.root, files.tensors(TABLE))
    return _model(files, rows, norm, _module_vectors(files, norm))


def _module_vectors(files: ModelFiles, norm: str) -> dict[str, NDArray[np.float32]]:
    """The norm's vectors from native sentence-transformers modules, one subfolder per module."""
    modules = files.json("modules.json", list)
    paths = {str(m.get("idx")): str(m.get("path")) for m in modules if isinstance(m, dict)}
    vectors = {}
    for name, where in NORM_FORMS[norm].stored.items():
        number, tensor = where.split("/")
        subfolder = paths.get(number, "")
        if subfolder in ("", ".", "..") or "\0" in subfolder or Path(subfolder).name != subfolder:
            raise UserError(f"{files.root}/modules.json gives no folder for module {number}")
        place = f"{subfolder}/model.safetensors"
        value = files.tensors(place).get(tensor)
        if value is None:
            raise UserError(f"{files.root / place} holds no {tensor}: export the model again")
        # A diagonal Dense holds the vector on its diagonal.
        vectors[name] = np.array(value.diagonal() if value.ndim == 2 else value, np.float32)
    return vectors


def _read_compact(files: ModelFiles, norm: str) -> ModelFolder:
    """A folder of `sse.model.quantise.write_compact`."""
    root, kind, vocab = files.root, files.config["rows"], files.config.get("vocab_size")
    if str(kind) not in ROW_KINDS or type(vocab) is not int:
        raise UserError(f"{root / CONFIG_NAME} has rows {kind!r} of {vocab!r} tokens: export again")
    tensors = files.tensors(Q4_REST if kind == "int4" else TABLE)
    rows = read_q4(files.path(Q4_TABLE), vocab) if kind == "int4" else _rows(root, tensors)
    if rows.kind != kind or rows.shape[0] != vocab:
        raise UserError(
            f"{root}: the table has {rows.shape[0]} {rows.kind} rows, {CONFIG_NAME} says {vocab} "
            f"of {kind}: the files belong to different models"
        )
    return _model(files, rows, norm, _vectors(root, tensors, norm))


def _model(
    files: ModelFiles,
    rows: EmbeddingTable,
    norm: str,
    vectors: dict[str, NDArray[np.float32]],
    tokenizer: str = "tokenizer.json",
) -> ModelFolder:
    """The `ModelFolder` of a table, a norm, its vectors and the files that all layouts share."""
    config, digests = files.config, "none"
    if files.verify:
        digests = "verified" if "digests" in config else "sizes" if "files" in config else "none"
    limit = config.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        place = files.root / CONFIG_NAME
        raise UserError(f"{place} has max_tokens {limit!r}: a positive number or null")
    return ModelFolder(
        rows, norm, vectors, files.path(tokenizer), digests, limit, _settings(files),
        config.get("tokens"), _frequencies(files, rows.shape[0]), config,
    )  # fmt: skip


def _frequencies(files: ModelFiles, rows: int) -> Frequencies | None:
    """The token counts of the training texts; None where the folder has none."""
    if not files.has(FREQUENCIES):
        return None
    tensors = files.tensors(FREQUENCIES)
    found, texts = tensors.get("found"), tensors.get("texts")
    if found is None or texts is None or found.shape != (rows,) or texts.shape != (1,):
        raise UserError(
            f"{files.root / FREQUENCIES} does not count the table's {rows} tokens: "
            "the files belong to different models"
        )
    return Frequencies(found, int(texts[0]))


def save_frequencies(frequencies: Frequencies | None, folder: Path) -> None:
    """Write the token counts of the training texts, where they are known."""
    if frequencies is not None:
        from safetensors.numpy import save_file

        tensors = {"found": np.array(frequencies.found), "texts": np.array([frequencies.texts])}
        save_file(tensors, folder / FREQUENCIES)


def _rows(root: Path, tensors: Mapping[str, NDArray[Any]]) -> EmbeddingTable:
    """The table `embedding.weight`, with `embedding.scale` where there is one."""
    table, scales = tensors.get("embedding.weight"), tensors.get("embedding.scale")
    if table is None:
        raise UserError(
            f"{root}/model.safetensors holds no embedding.weight: not a static embedding model"
        )
    if table.ndim != 2 or not all(table.shape):
        raise UserError(f"{root}: the table has shape {table.shape}, expected (V, D)")
    if scales is not None and not np.isfinite(scales).all():
        raise UserError(f"{root}: the table's scales hold NaN or infinite values: export again")
    return EmbeddingTable(table, scales, f"the table of {root}")


def _vectors(
    root: Path, tensors: Mapping[str, NDArray[Any]], norm: str
) -> dict[str, NDArray[np.float32]]:
    """The norm's vectors, which the tensors hold as `NORM.NAME`."""
    names = {name: f"{norm}.{name}" for name in NORM_FORMS[norm].stored}
    if missing := [name for name in names.values() if name not in tensors]:
        raise UserError(
            f"{root} lacks {', '.join(missing)}: a damaged model, or none that this version knows"
        )
    return {name: np.array(tensors[full], np.float32) for name, full in names.items()}


def _check_vectors(model: ModelFolder, root: Path) -> None:
    """UserError unless each of the norm's vectors is finite and has the table's D."""
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
    """Prompts and similarity; UserError unless they are strings."""
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
    if (longest := max(map(len, prompts.values()), default=0)) > MAX_PROMPT:
        raise UserError(
            f"{files.root / name}: a prompt has {longest:,} characters, more than the "
            f"{MAX_PROMPT:,} that are put before each text: shorten it"
        )
    return settings


def check_target(target: Path) -> None:
    """UserError where writing a model to `target` would replace anything but a model folder."""
    if target.is_file():
        raise UserError(f"{target} is a file: give a folder to write the model to")
    model = any((target / name).exists() for name in ("modules.json", CONFIG_NAME))
    if target.is_dir() and any(target.iterdir()) and not model:
        raise UserError(f"{target} holds files that are no model: give an empty or a new folder")
