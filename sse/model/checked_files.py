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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.digests import CONFIG_NAME, check_folder
from sse.common.errors import UserError
from sse.model.table import EmbeddingTable

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1",
           "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # fmt: skip
_MAX_HEADER = 10_000_000  # bytes; safetensors' own limit is 100 MB
_MAX_JSON = 200_000_000  # bytes; `sse.text.tokenizer` has the same limit


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
        if (size := path.stat().st_size) > _MAX_JSON:
            raise UserError(f"{path} has {size:,} bytes, more than the {_MAX_JSON:,} that are read")
        try:
            value = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is no JSON ({error}): copy or export the model again"
            ) from error
        if not isinstance(value, expected):
            kind = type(value).__name__
            raise UserError(f"{path} holds a {kind}, expected a {expected.__name__}")
        return value

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Every tensor of a safetensors file: see `read_safetensors`."""
        return read_safetensors(self.path(name))


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a safetensors file as a read-only memory map; bfloat16 becomes float32.

    The file is the header's length (8 bytes, little-endian), a JSON header, then the data.
    Source: https://github.com/huggingface/safetensors

    Raises:
        UserError: a header that is no JSON, or declares what the file cannot hold.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _tensor(path, 8 + length, size, **info) for name, info in header.items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error}): copy or export the model again") from error


def _tensor(
    path: Path, base: int, size: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> NDArray[Any]:
    """One tensor of the file; ValueError where its declared type, place or shape is impossible."""
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of type {dtype}")
    stored = np.dtype(_DTYPES[dtype])
    start, end = data_offsets
    if any(type(n) is not int or n < 0 for n in [*shape, start, end]):
        raise ValueError("a negative size")
    if base + end > size or end - start != math.prod(shape) * stored.itemsize:
        raise ValueError(f"{size} bytes do not hold a tensor of shape {shape}")
    if start == end:  # no system maps zero bytes
        return np.zeros(shape, np.float32 if dtype == "BF16" else stored)
    data = np.memmap(path, stored, "r", base + start, tuple(shape))
    return (data.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else data


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
