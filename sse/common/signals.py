"""Every handler of SIGINT and SIGTERM in the library.

Python runs a handler in the main thread, between two instructions. A signal just before a blocking
call is handled when that call returns, so a second Ctrl-C may be needed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from sse.common.errors import Stopped

STOPS = (signal.SIGINT, signal.SIGTERM)


def interrupt_on_sigterm() -> Any:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, until something else handles it.

    Returns:
        The previous handler; None outside the main thread, where nothing changes.
    """
    if threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGTERM, signal.default_int_handler)
    return None


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM too, within the block."""
    before = interrupt_on_sigterm()
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class NotedSignals:
    """Record SIGINT and SIGTERM instead of raising, so that the current step ends first.

    Outside the main thread, which alone may set handlers, nothing happens. A second signal of the
    same kind ends the process.

    Attributes:
        number: the last signal's number, 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def remember(self) -> None:
        """Store the current handlers, which `give_back` restores."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in STOPS}

    def take_over(self) -> None:
        """Record signals from now on; call `remember` first."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    def give_back(self) -> None:
        """Restore the handlers that `remember` stored."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextlib.contextmanager
def stopped_with(way_on: Callable[[], str]) -> Iterator[None]:
    """Raise `Stopped` at SIGINT and SIGTERM within the block, where they have Python's handlers.

    `way_on` returns how to go on, in words. It is called when a signal comes.
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
