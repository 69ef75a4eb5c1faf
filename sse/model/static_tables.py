"""Read static tables of other libraries: sentence-transformers' StaticEmbedding, and model2vec.

| layout          | recognised by                            | row of token t                      |
|-----------------|------------------------------------------|-------------------------------------|
| model2vec       | config.json and the tensor `embeddings`  | weights[t] * embeddings[mapping[t]] |
| StaticEmbedding | modules.json names it, maybe a Normalize | `embedding.weight`, or as above     |

- `weights` and `mapping`, one entry per token t, stand in folders of quantised vocabularies.
- model2vec leaves unknown tokens out of the mean. Their row is 0 here, which gives the same
  direction. So vectors of length 1 are equal, and only those that are not normalised differ.
- model2vec also cuts long texts by letters before it cuts them at `max_length` tokens. That first
  cut is not made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sse.common.errors import UserError
from sse.model.checked_files import ModelFiles, Tensors
from sse.model.table import EmbeddingTable

# Bytes of the rows that a mapping makes: times those of the table and the mapping, and more.
MAPPED, SPARE = 8, 100_000_000
MODEL2VEC_LENGTH = 512  # tokens, where its config.json has no `max_length`


class StaticTable(NamedTuple):
    """A table without a norm of ours."""

    rows: EmbeddingTable
    normalised: bool  # whether the model ends with vectors of length 1
    tokenizer: str  # of tokenizer.json, in the folder
    max_tokens: int | None


def read_static_table(files: ModelFiles) -> StaticTable:
    """The table of a folder that is neither an export nor a published SSE model.

    Raises:
        UserError: other modules, no table, or parts that do not fit each other.
    """
    if files.has("config.json") and files.has("model.safetensors"):
        tensors = files.tensors("model.safetensors")
        if "embeddings" in tensors:
            return _model2vec(files, tensors)
    place, normalised = _modules(files)
    tensors = files.tensors(f"{place}model.safetensors")
    tokenizer = files.json(f"{place}tokenizer.json")
    rows = _rows(files.root, tensors)
    return StaticTable(rows, normalised, f"{place}tokenizer.json", _truncation(files, tokenizer))


def _model2vec(files: ModelFiles, tensors: Tensors) -> StaticTable:
    """A folder of model2vec's `save_pretrained`."""
    config, tokenizer = files.json("config.json"), files.json("tokenizer.json")
    rows = _rows(files.root, tensors, _unknown(tokenizer))
    length = config.get("max_length", MODEL2VEC_LENGTH)
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"{files.root}/config.json has max_length {length!r}: a number or null")
    return StaticTable(rows, bool(config.get("normalize", False)), "tokenizer.json", length)


def _modules(files: ModelFiles) -> tuple[str, bool]:
    """The subfolder of the StaticEmbedding as a prefix, and whether a Normalize follows it."""
    modules = [m if isinstance(m, dict) else {} for m in files.json("modules.json", list)]
    kinds = [str(module.get("type")).rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"]):
        raise UserError(
            f"{files.root} has the modules {', '.join(kinds)}: only a StaticEmbedding, maybe with "
            "a Normalize, or an export of this project can be read; "
            "SentenceTransformer(path) may load it"
        )
    path = str(modules[0].get("path") or ".")
    if "\0" in path or path != "." and (path == ".." or Path(path).name != path):
        raise UserError(f"{files.root}/modules.json gives no folder for module 0")
    return "" if path == "." else f"{path}/", len(kinds) > 1


def _rows(root: Path, tensors: Tensors, unknown: int | None = None) -> EmbeddingTable:
    """One row per token, as stored where there is neither mapping nor weights; 0 for `unknown`.

    int8 rows of these libraries have one scale, which is not stored: cosines need none.
    """
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None:
        raise UserError(
            f"{root}: model.safetensors holds no embedding.weight: not a static embedding model"
        )
    if table.ndim != 2 or not all(table.shape):
        raise UserError(f"{root}: the table has shape {table.shape}, expected (V, D)")
    mapping, weights = tensors.get("mapping"), tensors.get("weights")
    if mapping is not None:
        whole = mapping.ndim == 1 and mapping.dtype.kind in "iu" and mapping.size
        if not whole or mapping.min() < 0 or mapping.max() >= len(table):
            raise UserError(f"{root}: the mapping leads out of the table's {len(table)} rows")
        size = mapping.size * table.shape[1] * table.itemsize
        if size > MAPPED * (table.nbytes + mapping.nbytes) + SPARE:
            raise UserError(f"{root}: the mapping makes a table of {size:,} bytes: it is too large")
        table = table[mapping]
    if weights is not None:
        if weights.shape != (len(table),) or not np.isfinite(weights).all():
            raise UserError(
                f"{root}: weights of shape {weights.shape} do not fit {len(table)} rows, or are "
                "not finite"
            )
        table = np.asarray(table, np.float32) * weights.astype(np.float32)[:, None]
    if unknown is not None and unknown < len(table):
        table = np.array(table)
        table[unknown] = 0
    scales = np.ones(len(table), np.float32) if table.dtype == np.int8 else None
    return EmbeddingTable(table, scales, f"the table of {root}")


def _truncation(files: ModelFiles, tokenizer: dict[str, Any]) -> int | None:
    """The most tokens by tokenizer.json itself, which sentence-transformers obeys."""
    truncation = tokenizer.get("truncation")
    if not isinstance(truncation, dict):
        return None
    length = truncation.get("max_length")
    if type(length) is not int or length < 1 or truncation.get("direction") not in (None, "Right"):
        raise UserError(f"{files.root}: a truncation that is not read here: {truncation}")
    return length


def _unknown(tokenizer: dict[str, Any]) -> int | None:
    """The id of the token that stands for unknown words, None where there is none."""
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        return None
    token = model.get("unk_token")
    if token is None:
        number = model.get("unk_id")
    else:
        added = tokenizer.get("added_tokens") or []
        ids = {t.get("content"): t.get("id") for t in added if isinstance(t, dict)}
        vocab = model.get("vocab")
        number = ids.get(token, vocab.get(token) if isinstance(vocab, dict) else None)
    return number if type(number) is int and number >= 0 else None
