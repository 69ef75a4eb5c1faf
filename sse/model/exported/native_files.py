"""The files of a model as sentence-transformers' own modules: safetensors and JSON, no pickle.

An SSE model equals native modules: StaticEmbedding(E), then one per step of the norm's `Form`:

    dyt, hardtanh  Dense(diag(alpha), bias, Tanh or Hardtanh) -> Dense(diag(beta))
    layernorm      LayerNorm
    rmsnorm        Normalize -> Dense(diag(weight * sqrt(D)))

The files are written here, not by sentence-transformers, since it takes seconds to import. A test
compares them with those that its modules write. Version 3.4 and all later ones load them:

- Every version knows the classes as `sentence_transformers.models.NAME`.
- Before 5.4 the path "" means a transformer, so the table's module has the path ".".
- Before 5.4 a Dense module takes no names of its input and output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sse.common.files import write_json
from sse.common.machine import versions
from sse.model.norm_forms import NORM_FORMS, Array, Diagonal, Standard, Unit, Vectors

ACTIVATION_HOMES = {"Identity": "linear", "Tanh": "activation", "Hardtanh": "activation"}
NATIVE = {Diagonal: "Dense", Standard: "LayerNorm", Unit: "Normalize"}
PACKAGES = {
    "pytorch": "torch",
    "sentence_transformers": "sentence-transformers",
    "transformers": "transformers",
}


def write_native(
    folder: Path, table: Array, norm: str, vectors: Vectors, settings: dict[str, Any]
) -> None:
    """Write the table, the norm, and the JSON files that list them; the tokenizer is not written.

    Args:
        folder: an empty folder.
        table: E (V, D).
        norm: a name of `NORM_FORMS`.
        vectors: the norm's parameters.
        settings: any of `prompts`, `default_prompt_name` and `similarity_fn_name`.
    """
    listed = [("StaticEmbedding", ".")]
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    for number, step in enumerate(NORM_FORMS[norm].steps, 1):
        name = NATIVE[type(step)]
        place = folder / f"{number}_{name}"
        place.mkdir()
        write_json(place / "config.json", _config(step, table.shape[1]))
        tensors = {tensor: vectors[vector] for vector, tensor in step.tensors.items()}
        if isinstance(step, Diagonal):
            tensors["linear.weight"] = np.diag(tensors["linear.weight"])
        if tensors:
            save_file(tensors, place / "model.safetensors")
        listed.append((name, place.name))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(listed)
    ]
    write_json(folder / "modules.json", modules)
    installed = versions(*PACKAGES.values())
    config = {
        "__version__": {key: installed[name] for key, name in PACKAGES.items() if installed[name]},
        "default_prompt_name": None,
        "model_type": "SentenceTransformer",
        "prompts": {"document": "", "query": ""},
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", config | settings)


def _config(step: Diagonal | Standard | Unit, dim: int) -> dict[str, Any]:
    """A native module's config.json."""
    if isinstance(step, Unit):
        return {}
    if isinstance(step, Standard):
        return {"dimension": dim}
    home = ACTIVATION_HOMES[step.activation]
    return {
        "in_features": dim,
        "out_features": dim,
        "bias": step.shift is not None,
        "activation_function": f"torch.nn.modules.{home}.{step.activation}",
    }
