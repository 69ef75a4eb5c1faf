"""Digests of what was written: a flipped bit becomes an error, never another result.

- A digest is the file's size and a CRC-32 over sums: each MiB is a (256, 512) matrix of 64-bit
  words whose row sums and column sums enter. One to three flipped bits of a MiB always change a
  sum; what changes a sum goes unnoticed once in 2^32. It guards against accidents, not forgers.
- Why not CRC-32 of the bytes: opening a model must stay cheap. A 60 MiB table takes 7 ms, with zlib
  19 ms and more, BLAKE2 73 ms. The bytes are read, not mapped, so they do not count as the
  process's memory.
- A model folder lists the digests in `sse_config.json`, which also holds one of itself. A cached
  file has its digest in a file beside it.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.common.files import write_json

CONFIG_NAME = "sse_config.json"
UNSEALED = ("README.md", CONFIG_NAME)  # the card is prose; the configuration has its own check
WORDS = 512  # 64-bit words a row of the matrix: a page
BLOCK = 1 << 20


def digest_file(path: str | os.PathLike[str]) -> str:
    """`SIZE-CRC` of a file, in hexadecimal; OSError where it cannot be read."""
    crc = size = 0
    block = np.empty(BLOCK // 8, "<u8")
    with open(path, "rb", buffering=0) as file:
        while read := _fill(file, block.view(np.uint8)):
            size += read
            crc = _add(block, read, crc)
    return f"{size:x}-{crc:08x}"


def digest_bytes(data: NDArray[Any] | memoryview | bytes) -> str:
    """The same of bytes in memory."""
    whole = np.frombuffer(data, np.uint8)
    crc = 0
    block = np.empty(BLOCK // 8, "<u8")
    for start in range(0, len(whole), BLOCK):
        part = whole[start : start + BLOCK]
        block.view(np.uint8)[: len(part)] = part
        crc = _add(block, len(part), crc)
    return f"{len(whole):x}-{crc:08x}"


def _fill(file: Any, target: NDArray[np.uint8]) -> int:
    """Read until `target` is full or the file ends: a raw read may give less."""
    done = 0
    while read := file.readinto(target[done:]):
        done += read
    return done


def _add(block: NDArray[Any], size: int, crc: int) -> int:
    """CRC-32 going on with the sums of the first `size` bytes, padded with zeros to whole rows."""
    rows = -(-size // (8 * WORDS))
    block.view(np.uint8)[size : rows * 8 * WORDS] = 0
    words = block[: rows * WORDS].reshape(rows, WORDS)
    crc = zlib.crc32(words.sum(1, dtype="<u8"), crc)
    return zlib.crc32(words.sum(0, dtype="<u8"), crc)


def seal_folder(folder: Path, config: dict[str, Any]) -> None:
    """Write `sse_config.json` with the digests of the files that are in `folder` now."""
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNSEALED
    }
    config = config | {"files": files}
    write_json(folder / CONFIG_NAME, config | {"check": _check_of(config)})


def check_config(path: Path, config: dict[str, Any]) -> None:
    """UserError unless `config` is as it was written; one without a check passes."""
    if "check" not in config and "files" not in config:
        return
    rest = {key: value for key, value in config.items() if key != "check"}
    if config.get("check") != _check_of(rest) or not isinstance(config.get("files"), dict):
        raise UserError(_changed(path))


def check_file(root: Path, name: str, path: Path, config: dict[str, Any]) -> None:
    """UserError unless the file is the one that the configuration tells of, where it tells."""
    files = config.get("files")
    if files is not None and files.get(name) != digest_file(path):
        raise UserError(_changed(root / name))


def _changed(path: Path) -> str:
    return (
        f"{path} is damaged, or was changed since it was written: copy or export the model again "
        f"(if the change was meant, delete 'files' and 'check' from {CONFIG_NAME})"
    )


def _check_of(config: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(config, sort_keys=True).encode()):08x}"


def seal_file(path: Path) -> None:
    """Write the digest of a cached file beside it."""
    write_json(_beside(path), digest_file(path))


def is_sealed(path: Path) -> bool:
    """Whether the cached file is there and as it was when it was sealed."""
    try:
        return bool(json.loads(_beside(path).read_text("utf-8")) == digest_file(path))
    except (OSError, ValueError):
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.digest")
