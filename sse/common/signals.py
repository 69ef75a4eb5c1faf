"""A program that Ctrl-C and SIGTERM surely end.

Python runs a signal's handler in the main thread, between two of its instructions. Two things can
keep a program alive that way, both seen in about one of a hundred tries:

- The signal comes just before the main thread blocks, in a read of a pipe that stays silent: the
  handler waits for the read to return.
- KeyboardInterrupt strikes inside of a library's locking and leaves a lock taken for ever.

So a thread of its own, which the system wakes at once, ends what has not ended by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from sse.common.errors import Stopped
from sse.common.files import remove_unfinished

GRACE = 3.0  # seconds for the orderly way: running batches end, files half-written go
STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopped_by_signals(grace: float = GRACE) -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGINT and SIGTERM; end the process if that has no effect.

    The second way leaves nothing half-written either, and has the same message and exit code.

    Args:
        grace: seconds from the signal to the second way.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not its business
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, _interrupt)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    guard = threading.Thread(target=_guard, args=(reader, ended, grace), daemon=True)
    guard.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)  # the guard reads the end and goes


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def stopped_with(way_on: Callable[[], str]) -> Iterator[None]:
    """Raise `Stopped` at SIGINT and SIGTERM, where nobody else has taken them over.

    Args:
        way_on: says, when the time has come, how to go on.
    """
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: h for n in STOPS if (h := signal.getsignal(n)) in defaults}

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise Stopped(number, way_on())

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _guard(reader: int, ended: threading.Event, grace: float) -> None:
    """Read signal numbers as they come; end the process when one of `STOPS` has not."""
    while number := os.read(reader, 1):
        if number[0] in STOPS and not ended.wait(grace):
            remove_unfinished()
            sys.stderr.write("error: interrupted\n")
            sys.stderr.flush()
            os._exit(130)
    os.close(reader)
