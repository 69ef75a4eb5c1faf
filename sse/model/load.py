"""Load a model folder as a SentenceTransformer that can be trained and exported."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sse.model.export import export
from sse.model.folder import ModelFolder, read_folder
from sse.model.model import SSE
from sse.model.table import check_finite
from sse.text.tokenizer import load_tokenizer


class SSEModel(SentenceTransformer):
    """A SentenceTransformer whose only module is `SSE`; `sse.load` returns it.

    Its methods work as usual (encode, encode_query, similarity, prompts, truncate_dim). Saving
    writes the folder of `sse.export`, which sentence-transformers loads without this package.
    """

    @property
    def sse(self) -> SSE:
        """The SSE module."""
        module = self[0]
        assert isinstance(module, SSE)
        return module

    def save(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the folder of `sse.export`; further arguments have no effect."""
        export(self, path)

    save_pretrained = save


def load(path: str | os.PathLike[str], **kwargs: Any) -> SSEModel:
    """The model in a folder of any layout that `sse.model.folder` knows.

    Args:
        path: the folder, or a model's name on the hub, OWNER/NAME.
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
    """The SSE module of a model folder; UserError where its tokenizer does not fit its table."""
    tokenizer = load_tokenizer(str(folder.tokenizer), max_tokens=folder.max_tokens)
    rows, dim = folder.table.shape
    folder.check_tokenizer(tokenizer.vocab_size)
    table = np.array(folder.table, np.float32)
    check_finite(table, folder.rows.name)
    module = SSE(tokenizer, dim, folder.norm, table=torch.from_numpy(table))
    module.norm.load_vectors({name: torch.from_numpy(v) for name, v in folder.vectors.items()})
    module.frequencies = folder.frequencies
    return module
