"""Strings of others made harmless for a terminal, and what a terminal can show beyond text."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TextIO

# ESC and the other controls command a terminal, bidirectional controls reorder what is read, and
# half a surrogate pair cannot be written. U+2028 and U+2029 end a line as a line feed does.
_CONTROLS = (*range(9), *range(11, 32), *range(127, 160))
_REORDERING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HARMFUL = dict.fromkeys((*_CONTROLS, *_REORDERING, *range(0xD800, 0xE000), 0x2028, 0x2029), "?")
_ONE_LINE = _HARMFUL | {9: " ", 10: " "}


def clean(text: str, one_line: bool = True) -> str:
    r"""`text` with `?` in place of each character that commands a terminal or reorders its text.

    Everything that comes out of a file or a name and goes to a terminal passes through here.

    Args:
        text: what to show.
        one_line: line feeds and tabs become blanks; otherwise they stay.

    >>> clean("red\x1b[2J\u202e circle\n")
    'red?[2J? circle '
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ONE_LINE if one_line else _HARMFUL)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether `stream`, by default standard output, shows colours and links.

    NO_COLOR (https://no-color.org) and TERM=dumb say no.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and (stream or sys.stdout).isatty()


class Minutes:
    """A line a minute about long work on standard error, where that is no terminal for a bar.

    Args:
        title: what is done.
        total: its rows.
        done: rows that were done before.
        every: seconds between two lines.
    """

    def __init__(self, title: str, total: int, done: int = 0, every: float = 60.0) -> None:
        self.title, self.total, self.done, self.every = title, total, done, every
        self._first, self._began = done, time.monotonic()
        self._said = self._began

    def update(self, count: int) -> None:
        """Count rows, and print the line once its time has come."""
        self.done += count
        now = time.monotonic()
        if sys.stderr.isatty() or now - self._said < self.every:
            return
        self._said = now
        left = (now - self._began) / max(1, self.done - self._first) * (self.total - self.done)
        line = f"{self.title}: {self.done:,} of {self.total:,} rows, {clock(left)} left\n"
        sys.stderr.write(line)
        sys.stderr.flush()


def marked(text: str) -> str:
    """`text` in bold for a terminal."""
    return f"\x1b[1m{text}\x1b[0m"


def linked(text: str, path: str) -> str:
    """`text` as a link to a file, which many terminals open on a click (OSC 8)."""
    return f"\x1b]8;;{Path(path).resolve().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"


def clock(seconds: float) -> str:
    """A time in words.

    >>> clock(80), clock(600), clock(9000)
    ('80 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
