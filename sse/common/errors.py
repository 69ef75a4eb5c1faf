"""Errors of one line for what a user can mend: the value, where it came from, the way out."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from sse.common.terminal import clean

# Libraries that the core does without, by the name to import: the extra that brings each.
EXTRAS = {
    "fastapi": "serve",
    "fsspec": "cluster",
    "lance": "search",
    "kreuzberg": "documents",
    "nanotoken": "fast",
    "onnx": "onnx",
    "prometheus_client": "serve",
    "ray": "cluster",
    "uvicorn": "serve",
    **dict.fromkeys(
        ("Stemmer", "bm25s", "datasets", "jsonargparse", "lightning", "matplotlib", "pandas",
         "scipy", "sentence_transformers", "shtab", "tensorboard", "torch", "torchmetrics", "yaml"),
        "train",
    ),
}  # fmt: skip
LONGEST_LINE = 2_000  # characters of an error
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
    """Another process of the run is gone, so this one, number `rank`, cannot go on."""

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


class MissingExtra(UserError, ImportError):
    """A library of `EXTRAS` is not installed; the message names the extra that brings it."""

    def __init__(self, library: str) -> None:
        extra = EXTRAS[library]
        super().__init__(
            f"this needs the extra `{extra}` ({library} is not installed): "
            f"pip install 'stable-static-embedding[{extra}]'"
        )


@contextlib.contextmanager
def extras_named() -> Iterator[None]:
    """Raise `MissingExtra` for a missing library of an extra; other missing modules pass."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A missing part of an installed library (`torch.x`) is a defect and has another name.
        if error.name not in EXTRAS:
            raise
        raise MissingExtra(error.name) from None


@contextlib.contextmanager
def script_imports() -> Iterator[None]:
    """Around a script's imports: a missing extra, or Ctrl-C, ends the script in one line.

    The garbage collector is off meanwhile: it walks through ever more modules and finds nothing,
    which costs a sixth of the time.
    """

    def end(number: int, frame: Any) -> None:
        sys.stderr.write("error: interrupted\n")
        sys.stderr.flush()
        os._exit(128 + number)  # an exception amid an import leaves libraries half made

    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, end)
    gc.disable()
    try:
        with extras_named():
            yield
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    finally:
        gc.enable()
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def import_extra(module: str) -> Any:
    """The module of that name; `MissingExtra` where it needs an extra that is not installed."""
    with extras_named():
        return import_module(module)


def one_line(main: Callable[..., Any]) -> Callable[..., int]:
    """Turn the failures that a user can mend into one line on stderr and an exit code.

    The codes are 0 for success, 1 for a full disk or another system error, 2 for bad input, and
    128 + the signal that ended the program (130 for Ctrl-C). Any other exception is a defect of
    this project and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        try:
            with extras_named():
                main(*args, **kwargs)
        except UserError as error:
            write_error(error)
            return 2
        except Stopped as stop:
            write_error(stop)
            return stop.exit_code
        except KeyboardInterrupt:
            write_error("interrupted")
            return 130
        except Exception as error:
            line = _system_line(error)
            if line is None:
                raise
            write_error(line)
            return 1
        return 0

    return wrapper


def write_error(error: object) -> None:
    """Write one line to stderr; nothing of a file's text in it commands the terminal.

    On a terminal it begins below an open bar, and below the ^C of Ctrl-C.
    """
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    below = str(error) == "interrupted" or isinstance(error, Stopped)
    below |= any(not bar.disable for bar in bars)
    if below and sys.stderr.isatty():
        sys.stderr.write("\n")
    line = clean(" ".join(str(error)[:LONGEST_LINE].split()))
    sys.stderr.write(f"error: {line}{' ...' * (len(str(error)) > LONGEST_LINE)}\n")


def meant(word: str, known: Iterable[str]) -> str:
    """A question for the nearest of `known`, to end a message with; nothing where none is near.

    >>> meant("dty", ["none", "dyt"]), meant("relu", ["none", "dyt"])
    (" (did you mean 'dyt'?)", '')
    """
    from difflib import get_close_matches  # only for a failure

    near = get_close_matches(word, list(known), 1, 0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def one_of(value: object, choices: Iterable[str]) -> str:
    """How to go on after a `value` that is none of the `choices`.

    >>> one_of("mena", ["mean", "sum"])
    "choose one of mean, sum (did you mean 'mean'?)"
    """
    known = list(choices)
    return f"choose one of {', '.join(known)}{meant(str(value), known)}"


def first_line(error: BaseException) -> str:
    """The first line of the error's text, at most 200 characters; its class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _system_line(error: Exception) -> str | None:
    """The system's message and the way out, or None where a user cannot mend the error."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "the memory does not suffice: give smaller files, batches or dimensions"
    if isinstance(error, OSError) and error.errno in _WAYS_OUT:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}: {_WAYS_OUT[error.errno]}"
    # Libraries in Rust and C++ raise the system's message in exceptions of their own types. torch's
    # file writer names only its source file.
    if "inline_container.cc" in str(error):
        return f"a file could not be written in full: {_FREE_SPACE}"
    full = (number for number in _FULL if os.strerror(number) in str(error))
    return next((f"{os.strerror(number)}: {_WAYS_OUT[number]}" for number in full), None)
