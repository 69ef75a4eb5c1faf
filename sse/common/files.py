"""Files that are either whole or absent: write to a temporary name, then rename.

A killed process leaves its temporary file behind. So each is locked while it is written, and the
next write of the same name removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process leaves stays
    fcntl = None  # type: ignore[assignment]

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
_HERE = -100  # AT_FDCWD
_unfinished: set[Path] = set()  # what this process is writing


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The data are flushed to the disk before the rename, so a power cut leaves the old file or the
    new one, never a torn one.
    """
    target = Path(path)
    with _temporary(target, _new_file) as temporary:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on failure it goes."""
    target = Path(path)
    with _temporary(target, tempfile.mkdtemp) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for path in temporary.rglob("*"):
            # Some writers make their files private; a model folder is for whoever may read it.
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
            if path.is_file():
                _flush(path)
        if not target.exists():
            os.replace(temporary, target)
        elif not _exchange(temporary, target):
            # Not in one call here: move the old one aside first.
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.replace(target, old / target.name)
            os.replace(temporary, target)
            shutil.rmtree(old, ignore_errors=True)


def remove_unfinished() -> None:
    """Remove what this process is writing; for one that is about to end without unwinding."""
    for path in list(_unfinished):
        _remove(path)


def remove_abandoned(target: Path) -> None:
    """Remove what killed writers of `target` left, as its next writer would."""
    with _lock(target.parent, "LOCK_EX", "LOCK_NB") as alone:
        left = target.parent.glob(f".{glob.escape(target.name)}.*.tmp") if alone else ()
        for path in left:
            with _lock(path, "LOCK_EX", "LOCK_NB") as free:
                if free:
                    _remove(path)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextlib.contextmanager
def _temporary(target: Path, make: Callable[..., str]) -> Iterator[Path]:
    """A new file or folder beside `target`, locked, and gone in the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    held = contextlib.ExitStack()
    with _lock(target.parent, "LOCK_SH"):  # nobody sweeps until the new one is locked
        path = Path(make(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        # Shared, as what is written into a new folder takes the same lock of its parent.
        held.enter_context(_lock(path, "LOCK_SH"))
    _unfinished.add(path)
    with held:
        try:
            yield path
        finally:
            _remove(path)
            _unfinished.discard(path)


@contextlib.contextmanager
def _lock(path: Path, *how: str) -> Iterator[bool]:
    """Hold a lock on a file or a folder itself; whether that went well."""
    if fcntl is None:
        yield False
        return
    handle, held = -1, False
    with contextlib.suppress(OSError):  # held by another, gone, or a file system without locks
        handle = os.open(path, os.O_RDONLY)
        fcntl.flock(handle, sum(getattr(fcntl, name) for name in how))
        held = True
    try:
        yield held
    finally:
        if handle >= 0:
            os.close(handle)


def _new_file(**kwargs: Any) -> str:
    handle, name = tempfile.mkstemp(**kwargs)
    os.close(handle)
    return name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one call, where the system can: neither is ever absent."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(call(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
