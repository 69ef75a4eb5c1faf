"""Files that are either whole or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STALE = 24 * 3600.0  # seconds without a write, after which a temporary file has no writer any more


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `path`; rename it to `path` on success, remove it on failure.

    The data are flushed to the disk before the rename, so a kill or a power cut leaves the old file
    or the new one, never a torn one. A killed process leaves its temporary file; a write of the
    same name removes it once it is a day old.
    """
    target = Path(path)
    with _temporary(target) as temporary:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # by the umask; some writers make their files private
        yield temporary
        _finish(temporary, mode)
        os.replace(temporary, target)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on failure it goes.

    A folder that exists is moved aside first, as no portable call replaces one. Between the two
    renames a reader finds no folder there. A process that is killed between them leaves the old
    folder as `.NAME.*.tmp/old`.
    """
    target = Path(path)
    with _temporary(target) as scratch:
        new, old = scratch / "new", scratch / "old"
        new.mkdir(parents=True)
        mode = new.stat().st_mode & 0o666
        yield new
        for part in new.rglob("*"):
            if part.is_file():
                _finish(part, mode)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A free name beside `target`; what stands there is removed in the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield path
        # Only now that the target is whole: a kill amid `atomic_folder` left the old one there.
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            with contextlib.suppress(OSError):  # another process was faster
                if time.time() - left.stat().st_mtime > STALE:
                    _remove(left)
    finally:
        _remove(path)


def _finish(path: Path, mode: int) -> None:
    """Make the file readable by whom the umask allows, and flush it to the disk."""
    path.chmod(mode & 0o777)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
