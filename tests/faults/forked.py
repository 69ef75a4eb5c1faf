"""Run the real command in a forked child that may be killed, or be short of disk or memory.

Importing torch takes seconds; a fork takes milliseconds. So one process imports everything, does no
work of its own (no threads, no locks held), and forks a child for each run.
"""

import contextlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit code (minus the signal), its stderr, its seconds."""

    code: int
    errors: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def one_line(self) -> bool:
        """Whether it refused in one clear line."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        return self.code in (1, 2) and len(lines) == 1 and "Traceback" not in self.errors

    @property
    def last(self) -> str:
        return (self.errors.strip().splitlines() or [""])[-1]


def forked(
    work: Callable[[], int | None],
    kill_after: float | None = None,
    file_size: int | None = None,
    memory: int | None = None,
    deadline: float = 900.0,
) -> Outcome:
    """Run `work` in a child.

    Args:
        work: gives the exit code; None is 0.
        kill_after: SIGKILL it after so many seconds, if it still runs.
        file_size: no file may grow beyond so many bytes (RLIMIT_FSIZE).
        memory: nor its address space beyond so many more bytes than now (RLIMIT_AS).
        deadline: seconds after which it counts as hanging.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _be_child(work, errors.fileno(), file_size, memory)
        limit = start + (deadline if kill_after is None else kill_after)
        code = _wait(child, limit)
        if code is None:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        errors.seek(0)
        text = errors.read().decode("utf-8", "replace")
    if kill_after is None and code == -signal.SIGKILL:
        text += f"\nTraceback: no end within {deadline} s"
    return Outcome(code, text, seconds)


def _be_child(
    work: Callable[[], int | None], errors: int, file_size: int | None, memory: int | None
) -> None:
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(errors, 2)
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = memory + pages * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        code = work() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, limit: float) -> int | None:
    """The child's exit code, or None at the limit."""
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def moments(generator: random.Random, seconds: float) -> float:
    """When to kill what takes so many seconds: any time, and a little after."""
    return generator.uniform(0.0, 1.05 * seconds)
