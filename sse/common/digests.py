"""Digests of written files: a flipped bit becomes an error, never another result.

- A digest is `SIZE-CRC-CRC...`, in hexadecimal: the number of bytes and the CRC-32 of each 4 MiB.
  A CRC-32 detects every change within 32 neighbouring bits, and misses any other with probability
  2^-32. It guards against accidents, not against forgery.
- A model folder lists its digests in `sse_config.json` under `digests`. `config_digest` there is
  the CRC-32 of the file's other entries. A cached file has its digest in a file beside it.
- Older folders have `files` and `check` instead. Their CRCs are of sums over a file, which this
  version does not compute. Only the sizes of their files are compared.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from sse.common.errors import UserError
from sse.common.files import write_json

CONFIG_NAME = "sse_config.json"
UNLISTED = ("README.md", CONFIG_NAME)  # the card is prose; `config_digest` covers the other
BLOCK = 4 << 20  # bytes per CRC
THREADS = 4  # the number of blocks that are mapped at once
LISTS = {"digests": "config_digest", "files": "check"}  # of this version, of older ones


def digest_file(path: str | os.PathLike[str]) -> str:
    """The digest `SIZE-CRC-CRC...` of a file; OSError where it cannot be read."""
    size = os.path.getsize(path)
    with open(path, "rb") as file, ThreadPoolExecutor(THREADS) as pool:

        def crc(start: int) -> str:
            length, read = min(BLOCK, size - start), mmap.ACCESS_READ
            # Unmapped at once, so that the bytes do not count as the process's memory.
            with mmap.mmap(file.fileno(), length, access=read, offset=start) as block:
                return f"{zlib.crc32(block):08x}"  # releases the GIL, hence the threads

        starts = range(0, size, BLOCK)
        crcs = (pool.map if len(starts) > 1 else map)(crc, starts)
        return "-".join([f"{size:x}", *crcs])


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write `sse_config.json`: `config` and the digests of the files now in `folder`."""
    digests = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNLISTED
    }
    config = config | {"digests": digests}
    write_json(folder / CONFIG_NAME, config | {"config_digest": _crc(config)})


def check_folder(root: Path, config: dict[str, Any], find: Callable[[str], Path | None]) -> None:
    """Compare `sse_config.json` and the files that it lists with their digests.

    Args:
        root: the model folder.
        config: the content of its `sse_config.json`; without digests nothing is checked.
        find: returns the path of a listed file, None where it is absent.

    Raises:
        UserError: a file that differs from its digest.
    """
    for key, own_key in LISTS.items():
        if key not in config and own_key not in config:
            continue
        rest = {name: value for name, value in config.items() if name != own_key}
        if not isinstance(config.get(key), dict) or config.get(own_key) != _crc(rest):
            raise _damage(root / CONFIG_NAME)
        for name, digest in config[key].items():
            if PurePosixPath(name).as_posix() != name or ".." in name:
                raise _damage(root / CONFIG_NAME)  # so that no file is read twice
            if (path := find(name)) and not _equal(path, digest, size_only=key == "files"):
                raise _damage(path)


def _equal(path: Path, digest: Any, size_only: bool) -> bool:
    """Whether the file has this digest, or at least its size."""
    if size_only:
        return f"{path.stat().st_size:x}" == str(digest).split("-")[0]
    return bool(digest_file(path) == digest)


def _damage(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged, or was changed since it was written: copy or export the model again "
        f"(if the change was meant, delete 'digests' and 'config_digest', in older models 'files' "
        f"and 'check', from {CONFIG_NAME})"
    )


def _crc(config: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(config, sort_keys=True).encode()):08x}"


def write_digest(path: Path) -> None:
    """Write the digest of a cached file beside it."""
    write_json(_beside(path), digest_file(path))


def is_whole(path: Path) -> bool:
    """Whether a cached file exists and equals the digest beside it."""
    try:
        return bool(json.loads(_beside(path).read_text("utf-8")) == digest_file(path))
    except (OSError, ValueError):
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.digest")
