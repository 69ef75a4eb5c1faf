"""Load a model folder as our class: a SentenceTransformer whose first module is `SSE`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from sse.model.folder import ModelFolder, read_folder
from sse.model.model import SSE, SSEModel
from sse.text.tokenizer import load_tokenizer


def load(path: str | os.PathLike[str], **kwargs: Any) -> SSEModel:
    """Load an exported folder, a published SSE folder (also its 4-bit file) or a StaticEmbedding.

    Args:
        path: the folder.
        kwargs: further arguments of SentenceTransformer, such as `device` or `truncate_dim`.

    Raises:
        UserError: no model there, a damaged file, or parts that do not fit each other.
    """
    folder = read_folder(path)
    settings = folder.settings
    kwargs.setdefault("prompts", settings.get("prompts"))
    kwargs.setdefault("default_prompt_name", settings.get("default_prompt_name"))
    kwargs.setdefault("similarity_fn_name", settings.get("similarity_fn_name") or "cosine")
    return SSEModel(modules=[build(folder)], **kwargs)


def build(folder: ModelFolder) -> SSE:
    """The SSE module of what a folder holds."""
    tokenizer = load_tokenizer(str(folder.tokenizer), max_tokens=folder.max_tokens)
    rows, dim = folder.table.shape
    folder.check_tokenizer(tokenizer.vocab_size)
    table = torch.from_numpy(np.array(folder.table, np.float32))
    module = SSE(tokenizer, dim, folder.norm, table=table)
    module.norm.load_vectors({name: torch.from_numpy(v) for name, v in folder.vectors.items()})
    return module
