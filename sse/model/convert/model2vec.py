"""Write a folder for model2vec, whose vectors are y = mean(E'[ids]) / ||mean(E'[ids])||.

The norm's steps go into the table. Of a gate that is E' = beta * (alpha * E + bias), for a bias
outside the tanh E' = beta * alpha * E + bias:

| norm                                    | directions of the vectors                            |
|-----------------------------------------|------------------------------------------------------|
| none, gain, rmsnorm                     | equal, but for unknown words                         |
| dyt, dyt_scalar, dyt_outside, dyt_frozen | near: the table has no tanh (docs/compatibility.md) |
| hardtanh                                | equal where nothing is clipped                       |
| layernorm                               | refused: its bias is added after a division          |

model2vec leaves unknown words out of a text's mean, and knows no prompts.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.common.files import atomic_folder, write_json
from sse.model.folder import ModelFolder, check_target, read_folder
from sse.model.norm_forms import NORM_FORMS, Diagonal, Standard
from sse.model.quantise import quantise_rows, truncate
from sse.text.tokenizer import load_tokenizer

ROWS = ("float32", "float16")
MODULES = ("StaticEmbedding", "Normalize")


def write_model2vec(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: str = "float32",
    dim: int | None = None,
) -> list[str]:
    """Write the model in `source` as a folder of model2vec.

    Args:
        source: a folder of any layout that `sse.model.folder` knows.
        target: an empty or new folder; written whole or not at all.
        rows: `float32` or `float16`.
        dim: keep the first `dim` dimensions only.

    Returns:
        How the vectors differ there, one sentence each.

    Raises:
        UserError: a norm that no table can hold, other rows, or a target that holds anything but a
            model.
    """
    from safetensors.numpy import save_file

    model, target = read_folder(source), Path(target)
    check_target(target)
    if rows not in ROWS:
        raise UserError(f"rows '{rows}': a model2vec folder holds {' or '.join(ROWS)}")
    if dim is not None:
        model = truncate(model, dim)
    tokenizer = load_tokenizer(str(model.tokenizer)).tokenizer
    tokens = tokenizer.get_vocab_size()
    model.check_tokenizer(tokens)
    if max(tokenizer.get_vocab().values()) >= tokens:
        raise UserError(f"{model.tokenizer}: its ids have gaps, which model2vec cannot read")
    table, _ = quantise_rows(fold(model, source)[:tokens], rows)
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": model.rows.shape[1],
        "normalize": True,
        "max_length": model.max_tokens,
        "embedding_dtype": rows,
    }
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}" if n else ".",
         "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(MODULES)
    ]  # fmt: skip
    with atomic_folder(target) as folder:
        save_file({"embeddings": np.ascontiguousarray(table)}, folder / "model.safetensors")
        tokenizer.post_processor = None
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "config.json", config)
        write_json(folder / "modules.json", modules)
    return differences(model)


def fold(model: ModelFolder, source: str | os.PathLike[str]) -> NDArray[np.float32]:
    """E' (V, D) float32, the table with the norm's steps but without its tanh.

    A step that only changes a vector's length is left out: model2vec normalises.
    """
    table = np.array(model.table, np.float32)
    for step in NORM_FORMS[model.norm].steps:
        if isinstance(step, Standard):
            raise UserError(
                f"{source}: no model2vec table gives the vectors of {model.norm}; train with "
                "another norm, or export an ONNX file"
            )
        if isinstance(step, Diagonal):
            table *= model.vectors[step.scale]
            if step.shift is not None:
                table += model.vectors[step.shift]
    return table


def differences(model: ModelFolder) -> list[str]:
    """How the vectors of the folder differ in model2vec, one sentence each."""
    notes = ["model2vec leaves unknown words ([UNK]) out of a text's mean"]
    for step in NORM_FORMS[model.norm].steps:
        if isinstance(step, Diagonal) and step.activation != "Identity":
            notes.append(
                f"the table holds {model.norm} without its {step.activation.lower()}, so vectors "
                "are near, not equal: docs/compatibility.md has the loss"
            )
    if any((model.settings.get("prompts") or {}).values()):
        notes.append("model2vec knows no prompts: put them before the texts yourself")
    if model.max_tokens is not None:
        notes.append(f"model2vec cuts long texts by letters too, before {model.max_tokens} tokens")
    return notes
