"""Errors of one line for what a user can mend: the value, where it came from, the way out."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_FREE_SPACE = "free some space or choose another folder"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WAYS_OUT = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise the limit of a file's size (ulimit -f) or choose another folder",
    errno.EIO: "check the disk or choose another folder",
    errno.EACCES: "get the permission or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EEXIST: "choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
}


class Stopped(Exception):
    """A signal ended the program at a point from which it can go on.

    Args:
        number: the signal's number.
        way_on: how to go on, in words.
    """

    def __init__(self, number: int, way_on: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {way_on}")
        self.exit_code = 128 + number


class LostProcess(Stopped):
    """Another process of the run is gone, so this one cannot go on.

    Args:
        rank: the number of this process.
    """

    exit_code = 1

    def __init__(self, rank: int) -> None:
        Exception.__init__(
            self, f"process {rank} ends: another process of the run is gone; resume the run"
        )


class UserError(ValueError):
    """Bad input; its message is one line: the value, where it came from, the way out."""

    def _render_traceback_(self) -> list[str]:
        """The line that IPython prints in a notebook instead of a traceback."""
        return [f"error: {self}"]


def one_line(main: Callable[..., Any]) -> Callable[..., int]:
    """Turn the failures that a user can mend into one line on stderr and an exit code.

    The codes are 0 for success, 1 for a full disk or another system error, 2 for bad input, and
    128 + the signal that ended the program (130 for Ctrl-C). Any other exception is a defect of
    this project and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
            return 2
        except Stopped as stop:
            sys.stderr.write(f"error: {stop}\n")
            return stop.exit_code
        except KeyboardInterrupt:
            sys.stderr.write("error: interrupted\n")
            return 130
        except Exception as error:
            line = _system_line(error)
            if line is None:
                raise
            sys.stderr.write(f"error: {line}\n")
            return 1
        return 0

    return wrapper


def _system_line(error: Exception) -> str | None:
    """The system's message and the way out, or None where a user cannot mend the error."""
    if isinstance(error, OSError) and error.errno in _WAYS_OUT:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}: {_WAYS_OUT[error.errno]}"
    # Libraries in Rust and C++ raise the system's message in exceptions of their own types. torch's
    # file writer names only its source file.
    if "inline_container.cc" in str(error):
        return f"a file could not be written in full: {_FREE_SPACE}"
    full = (number for number in _FULL if os.strerror(number) in str(error))
    return next((f"{os.strerror(number)}: {_WAYS_OUT[number]}" for number in full), None)
