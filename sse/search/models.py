"""The model of an index: its digest, its copy in the index, and whether another one fits."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.digests import digest_file
from sse.common.errors import UserError
from sse.common.files import atomic_folder
from sse.common.hub import model_folder
from sse.search.store import Settings, Store
from sse.serving.encoder import Encoder

PROBE = "The quick brown fox jumps over the lazy dog, 1234567890 times."
SAME = 0.98  # cosine of two vectors of the probe by one model
_LEFT_OUT = ("README.md", ".*", "*.onnx")  # of a copy: what no vector depends on


def probe(model: Encoder) -> list[float]:
    """The first components of a fixed text's vector, which tell models apart."""
    return model.encode(PROBE)[:32].tolist()  # type: ignore[no-any-return]


def model_digest(model: Path) -> str:
    """A hash of the files that a copy of the model holds."""
    folder = model_folder(model)
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    whole = hashlib.blake2b(digest_size=8)
    for place, folders, names in os.walk(folder):
        out = ignored(place, [*folders, *names])
        folders[:] = sorted(set(folders) - out)
        for name in sorted(set(names) - out):
            path = Path(place, name)
            whole.update(f"{path.relative_to(folder).as_posix()} {digest_file(path)}\n".encode())
    return whole.hexdigest()


def keep_model(store: Store, model: Encoder, settings: Settings) -> None:
    """Copy the model into the index, unless it is there."""
    target = store.model_folder(settings)
    if not store.local or target.is_dir():
        return
    with atomic_folder(target) as folder:
        ignore = shutil.ignore_patterns(*_LEFT_OUT)
        shutil.copytree(model_folder(model.folder), folder, ignore=ignore, dirs_exist_ok=True)


def open_model(
    store: Store,
    settings: Settings,
    folder: str | os.PathLike[str] | None = None,
    fast: bool = True,
) -> Encoder:
    """The model of an index: `folder`, else the index's own copy, else where it came from.

    Raises:
        UserError: no model there, or one that gives other vectors.
    """
    own = store.model_folder(settings)
    if folder is None:
        folder = own if store.local and own.is_dir() else settings.model
        if not Path(folder).is_dir():
            way_out = "give its new folder as `model`"
            raise UserError(f"{store.name} was made with {folder}, which is gone: {way_out}")
    model = Encoder(folder, fast=fast)
    if settings.dim > model.full_dim:
        raise _other(store, folder)
    model.dim = settings.dim
    if not _agree(np.array(probe(model)), settings.probe):
        raise _other(store, folder)
    return model


def _other(store: Store, folder: str | os.PathLike[str]) -> UserError:
    return UserError(f"{store.name} was made with another model than {folder}: index again")


def _agree(ours: NDArray[Any], theirs: list[float]) -> bool:
    """Whether the probe's vector is the recorded one, but for the rounding of int8 or int4 rows."""
    try:
        recorded = np.array(theirs, np.float64)
        lengths = np.linalg.norm(ours) * np.linalg.norm(recorded)
        return bool(ours @ recorded > SAME * lengths)
    except (TypeError, ValueError):
        return False
