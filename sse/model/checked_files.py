"""The files of a model folder, each checked before it is used: place, digest, declared sizes.

- A file stands in the folder, or is a link into the `blobs` of the hub's cache, whose snapshots
  consist of such links. Any other link out of the folder is refused: a stranger's folder must not
  make this machine read, or export, its own files.
- Tables are memory-mapped after their declared sizes have been compared with the file's size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sse.common import bounded_json
from sse.common.digests import CONFIG_NAME, check_folder
from sse.common.errors import UserError, first_line
from sse.model.table import EmbeddingTable
from sse.text.tokenizer_file import MAX_FILE

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1",
           "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # fmt: skip
_MAX_HEADER = 1_000_000  # bytes; a model's header has some hundred
_MAX_JSON = 1_000_000  # bytes, but of tokenizer.json
_MAX_AXES = 8
_MAX_AXIS = 1 << 31  # of an empty tensor; any other is bounded by the file


class ModelFiles:
    """The files under `root`.

    Args:
        root: the folder.
        verify: compare the files with the digests in `sse_config.json`, where it lists some.

    Attributes:
        config: the content of `sse_config.json`, or {} where there is none.

    Raises:
        UserError: a file that differs from its digest.
    """

    def __init__(self, root: Path, verify: bool = True) -> None:
        self.root, self.verify = root, verify
        self.config: dict[str, Any] = self.json(CONFIG_NAME) if self.has(CONFIG_NAME) else {}
        if verify:
            check_folder(
                root, self.config, lambda name: self.path(name) if self.has(name) else None
            )

    def has(self, name: str) -> bool:
        """Whether the name exists, also as a broken link."""
        return os.path.lexists(self.root / name)

    def path(self, name: str) -> Path:
        """The path of a file; UserError where it is missing or outside the folder."""
        path = self.root / name
        if not path.is_file():
            raise UserError(f"{path} is missing: give the folder of an exported model")
        root, real = Path(os.path.realpath(self.root)), Path(os.path.realpath(path))
        snapshots = root.parent
        is_blob = snapshots.name == "snapshots" and real.parent == snapshots.parent / "blobs"
        if not real.is_relative_to(root) and not is_blob:
            raise UserError(
                f"{path} leads out of the model's folder, to {real}: put a copy of the file there"
            )
        return path

    def json(self, name: str, expected: type = dict) -> Any:
        """The JSON value in a file; UserError unless its type is `expected`."""
        path = self.path(name)
        most = MAX_FILE if Path(name).name == "tokenizer.json" else _MAX_JSON
        if (size := path.stat().st_size) > most:
            raise UserError(f"{path} has {size:,} bytes, more than the {most:,} that are read")
        try:
            value = bounded_json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is no JSON ({error}): copy or export the model again"
            ) from error
        if not isinstance(value, expected):
            kind = type(value).__name__
            raise UserError(f"{path} holds a {kind}, expected a {expected.__name__}")
        return value

    def tensors(self, name: str) -> Tensors:
        """The tensors of a safetensors file."""
        return Tensors(self.path(name))


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of a safetensors file, each mapped read-only when it is asked for.

    The file is the header's length (8 bytes, little-endian), a JSON header, then the data.
    bfloat16 becomes float32. Source: https://github.com/huggingface/safetensors

    Raises:
        UserError: a header that is no JSON, or declares what the file cannot hold.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_MAX_HEADER, size - 8):
                    raise ValueError(f"a header of {length} bytes in a file of {size}")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            places = {name: _place(size - 8 - length, **info) for name, info in header.items()}
            self._base, self._places = 8 + length, places
            _check_apart(places)
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            reason = first_line(error)
            raise UserError(
                f"{path} is damaged ({reason}): copy or export the model again"
            ) from error

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self._places[name]
        stored = np.dtype(_DTYPES[place.dtype])
        if place.start == place.end:  # no system maps zero bytes
            return np.zeros(place.shape, np.float32 if place.dtype == "BF16" else stored)
        data = np.memmap(self._path, stored, "r", self._base + place.start, place.shape)
        if place.dtype != "BF16":
            return data
        wide = data.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)


class _Place(NamedTuple):
    """Where a tensor stands in the data."""

    start: int
    end: int
    dtype: str
    shape: tuple[int, ...]


def _place(size: int, dtype: str, shape: list[int], data_offsets: list[int]) -> _Place:
    """A tensor's place in `size` bytes; ValueError where type, place or shape is impossible."""
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of type {dtype}")
    start, end = data_offsets
    if len(shape) > _MAX_AXES:
        raise ValueError(f"a tensor of {len(shape):,} axes")
    most = _MAX_AXIS if 0 in shape else size  # an empty tensor has axes but no bytes
    bounds = [*((n, most) for n in shape), (start, size), (end, size)]
    if any(type(n) is not int or not 0 <= n <= bound for n, bound in bounds):
        raise ValueError("a negative size, or one beyond the file's")
    if end - start != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise ValueError(f"{size} bytes do not hold a tensor of shape {shape}")
    return _Place(start, end, dtype, tuple(shape))


def _check_apart(places: Mapping[str, _Place]) -> None:
    """ValueError where two tensors share bytes: a small file would fill the memory."""
    end = 0
    for place in sorted(places.values()):
        if place.start < end:
            raise ValueError(f"two tensors share byte {place.start}")
        end = place.end


def read_q4(path: Path, vocab: int) -> EmbeddingTable:
    """The published 4-bit table, memory-mapped.

    The file is (V, D / 2) bytes, two columns per byte with the first in the high nibble, then (V,)
    float32 scales; w = (q / 7.5 - 1) * scale. D follows from V and the file's size.

    Args:
        path: the file.
        vocab: V, the number of rows.

    Raises:
        UserError: a size that is no multiple of V, or scales that are not finite.
    """
    size = path.stat().st_size
    row, rest = divmod(size, vocab) if vocab > 0 else (0, 1)
    if rest or row <= 4:
        raise UserError(
            f"{path}: {size} bytes are no whole rows for {vocab} tokens: "
            "the file is damaged or belongs to another tokenizer"
        )
    packed = np.memmap(path, np.uint8, "r", 0, (vocab, row - 4))
    scales = np.memmap(path, "<f4", "r", vocab * (row - 4), (vocab,))
    if not np.isfinite(scales).all():
        raise UserError(f"{path}: the scales hold NaN or infinite values: copy the file again")
    return EmbeddingTable(packed, scales)
