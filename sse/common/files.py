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

from sse.common.errors import UserError

STALE = 24 * 3600.0  # seconds without a write after which a temporary file counts as abandoned


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~NAME` replaced by a home folder; UserError for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a shell leaves such a name as it is
        raise UserError(f"{path}: no such user, so no home folder: give the whole path") from None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `path`; rename it to `path` on success, remove it on failure.

    The data are flushed to the disk before the rename. So a kill or a power cut leaves the old file
    or the new one, never a part of one. A killed process leaves its temporary file. A later write
    of the same name removes it once it is a day old.
    """
    target = Path(path)
    with _temporary(target) as temporary:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # as the umask has it; some writers make private files
        yield temporary
        _finish(temporary, mode)
        os.replace(temporary, target)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` on success, else it is removed.

    An existing folder is moved aside first, as no portable call replaces a folder. Between the two
    renames `path` does not exist. A process that is killed there leaves the old folder as
    `.NAME.*.tmp/old`.
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
    """Yield an unused name beside `target`, and remove what stands there at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield path
        # Only once the target is whole: a kill within `atomic_folder` leaves the old folder here.
        for other in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            with contextlib.suppress(OSError):  # another process has removed it
                if time.time() - other.stat().st_mtime > STALE:
                    _remove(other)
    finally:
        _remove(path)


def _finish(path: Path, mode: int) -> None:
    """Set the file's permission bits and flush it to the disk."""
    path.chmod(mode & 0o777)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
