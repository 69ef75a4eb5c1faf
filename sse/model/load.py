"""Load a model folder as our class: a SentenceTransformer whose first module is `SSE`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sse.model.export import export
from sse.model.folder import ModelFolder, read_folder
from sse.model.model import SSE
from sse.text.tokenizer import load_tokenizer


class SSEModel(SentenceTransformer):
    """What `sse.load` returns: a SentenceTransformer whose first module is `SSE`.

    Everything of SentenceTransformer works (encode, encode_query, similarity, prompts,
    truncate_dim); saving writes the portable folder of `sse.export`, which loads anywhere.
    """

    @property
    def sse(self) -> SSE:
        """The SSE module."""
        module = self[0]
        assert isinstance(module, SSE)
        return module

    def save(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the portable folder: see `sse.export`."""
        export(self, path)

    def save_pretrained(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the portable folder: see `sse.export`."""
        self.save(path)


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
