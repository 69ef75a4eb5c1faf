"""One run per folder: a lock that lives as long as the process, and says who holds it.

The lock is `flock` on DIR/.run.lock. It holds between machines on NFS 4 and on cluster file systems
that are mounted with locks; elsewhere between the processes of one machine, or not at all, which is
said. The system drops it with the process, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sse.common.errors import UserError

LOCK, HOLDER = ".run.lock", ".run.json"
_held: list[FileLock] = []  # of this process, one at most


def hold(folder: Path, say: Callable[[str], None]) -> None:
    """Take the folder's lock until this process ends, or takes another's; `say` takes a remark.

    Raises:
        UserError: a living run has it; the error names its machine, process and start.
    """
    release()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: {_holder(folder)}: wait for it, or give another --out"
        ) from None
    except NotImplementedError:
        say(f"{folder}: its file system has no locks, so start one run there at a time")
        return
    _held.append(lock)
    started = datetime.now().astimezone().isoformat(" ", "seconds")
    facts = {"host": socket.gethostname(), "process": os.getpid(), "started": started}
    (folder / HOLDER).write_text(json.dumps(facts), "utf-8")


@atexit.register
def release() -> None:
    """Give the lock back; a folder without a file goes too."""
    while _held:
        lock = _held.pop()
        folder = Path(lock.lock_file).parent
        with contextlib.suppress(OSError):
            for name in (
                HOLDER,
                LOCK,
            ):  # while it is held: a second run finds it held, or a new one
                (folder / name).unlink(missing_ok=True)
            lock.release(force=True)
            folder.rmdir()


def _holder(folder: Path) -> str:
    try:
        facts = json.loads((folder / HOLDER).read_text("utf-8"))
        return (
            f"process {facts['process']} on {facts['host']} trains there since {facts['started']}"
        )
    except (OSError, ValueError, KeyError, TypeError):  # the run has just begun
        return "another process trains there"
