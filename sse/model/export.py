"""Write a model folder that sentence-transformers 3.4 or newer loads without this package.

An SSE model equals native modules: StaticEmbedding(E), then one per step of the norm's `Form`:

    dyt, hardtanh  Dense(diag(alpha), bias, Tanh or Hardtanh) -> Dense(diag(beta))
    layernorm      LayerNorm
    rmsnorm        Normalize -> Dense(diag(weight * sqrt(D)))

So the folder holds safetensors, JSON and a card: no pickle, no `trust_remote_code`. Its
`sse_config.json` names the norm, for `sse.load` and `sse.Encoder`.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import Tensor, nn

from sse.common.digests import write_config
from sse.common.files import atomic_folder, write_json
from sse.common.version import __version__
from sse.model.card import write_card
from sse.model.folder import FORMAT, check_target, save_frequencies
from sse.model.library_files import write_library_files
from sse.model.model import SSE
from sse.model.norm_forms import NORM_FORMS, Diagonal, Standard
from sse.model.table import check_finite

# Settings of the native modules that name the vector they map; ours map the text's.
DEFAULT_NAMES = ("module_input_name", "module_output_name")


def export(
    model: SSE | SentenceTransformer,
    folder: str | os.PathLike[str],
    card: dict[str, Any] | None = None,
) -> Path:
    """Write `model` to `folder`, whole or not at all.

    Args:
        model: the module, or what `sse.load` returns, with its prompts and similarity.
        folder: a new or empty folder, or one that holds a model, which is replaced.
        card: the `facts` of `sse.model.card.write_card`.

    Returns:
        The folder.

    Raises:
        UserError: a folder that holds anything else, or a file of that name.
    """
    target = Path(folder)
    check_target(target)
    module = model if isinstance(model, SSE) else model[0]
    native = SentenceTransformer(modules=native_modules(module), device="cpu")
    native.similarity_fn_name = "cosine"
    if isinstance(model, SentenceTransformer):
        native.prompts = dict(model.prompts)
        native.default_prompt_name = model.default_prompt_name
        native.similarity_fn_name = model.similarity_fn_name
    with atomic_folder(target) as temporary:
        native.save(str(temporary), create_model_card=False)
        _for_every_version(temporary)
        tokens = module.text_tokenizer
        write_library_files(temporary, tokens.tokenizer, module.dim, tokens.max_tokens)
        save_frequencies(module.frequencies, temporary)
        write_config(
            temporary,
            {
                "format": FORMAT,
                "norm": module.norm_name,
                "dim": module.dim,
                "vocab_size": module.embedding.num_embeddings,
                "tokens": tokens.vocab_size,
                "max_tokens": tokens.max_tokens,
                "version": __version__,
            },
        )
        write_card(temporary / "README.md", module, card or {})
    return target


def _for_every_version(folder: Path) -> None:
    """Rewrite what sentence-transformers 6 saved so that 3.4 and later load it.

    Every version knows the classes as `sentence_transformers.models.NAME`. Before 5.4 the path ""
    means a transformer, and a Dense module takes no names of its input and output.
    """
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rsplit('.', 1)[-1]}"
        module["path"] = module["path"] or "."
        place = folder / module["path"] / "config.json"
        if place.exists():
            settings = json.loads(place.read_text("utf-8"))
            write_json(place, {k: v for k, v in settings.items() if k not in DEFAULT_NAMES})
    write_json(folder / "modules.json", modules)


def native_modules(module: SSE) -> list[nn.Module]:
    """The sentence-transformers modules that compute the same as `module`."""
    vectors = {name: v.float().cpu() for name, v in module.norm.vectors().items()}
    natives: list[nn.Module] = [_table(module)]
    for step in NORM_FORMS[module.norm_name].steps:
        if isinstance(step, Diagonal):
            shift = None if step.shift is None else vectors[step.shift]
            natives.append(_diagonal(vectors[step.scale], shift, getattr(nn, step.activation)()))
        elif isinstance(step, Standard):
            layer = modules.LayerNorm(module.dim)
            layer.norm.load_state_dict(vectors)
            natives.append(layer)
        else:
            natives.append(modules.Normalize())
    return natives


def _table(module: SSE) -> modules.StaticEmbedding:
    """The native module of table and tokenizer, which cuts texts at `max_tokens`."""
    table = module.embedding.weight.detach().float().cpu().contiguous()
    check_finite(table.numpy())
    tokenizer = copy.deepcopy(module.tokenizer)
    tokenizer.post_processor = None
    if module.text_tokenizer.max_tokens:
        tokenizer.enable_truncation(module.text_tokenizer.max_tokens)
    return modules.StaticEmbedding(tokenizer, embedding_weights=table)


def _diagonal(scale: Tensor, bias: Tensor | None, activation: nn.Module) -> modules.Dense:
    """The map activation(scale * x + bias) as a Dense module; scale and bias are (D,)."""
    dim = len(scale)
    dense = modules.Dense(dim, dim, bias=bias is not None, activation_function=activation)
    with torch.no_grad():
        dense.linear.weight.copy_(torch.diag(scale.detach()))
        if bias is not None:
            dense.linear.bias.copy_(bias)
    return dense
