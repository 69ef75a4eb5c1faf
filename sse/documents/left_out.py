"""What was not read, and why: counted by ending and reason, and always told."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from sse.common.errors import UserError


class Unreadable(Exception):
    """Why a file gives no document, in a few words: `empty`, `not UTF-8`."""


class LeftOut:
    """Counts of the files and folders that were left out.

    The reader fills it while it goes through a folder, so the counts are whole at its end.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # (ending, reason) -> files
        self.first: dict[tuple[str, str], str] = {}  # (ending, reason) -> the first such path

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, path: str, reason: str) -> None:
        """Count one file or folder."""
        key = ("folder" if os.path.isdir(path) else ending(path) or "no ending", reason)
        self.counts[key] += 1
        self.first.setdefault(key, shown(path))

    def lines(self) -> list[str]:
        """One line for each ending and reason, the most frequent first; none if all was read.

        A line names the first such file: `.bin: 3 not UTF-8, as notes/a.bin`.
        """
        return [
            f"{kind}: {count:,} {reason}, as {self.first[kind, reason]}"
            for (kind, reason), count in self.counts.most_common()
        ]

    def summary(self) -> str:
        """All counts in one line: `5 left out (.bin 3 not UTF-8, .png 2 no text format)`."""
        counts = (f"{kind} {n:,} {reason}" for (kind, reason), n in self.counts.most_common())
        return f"{len(self):,} left out ({', '.join(counts)})"

    def forbid(self) -> None:
        """For `--strict`: UserError if anything was left out."""
        if self.counts:
            raise UserError(f"{self.summary()}: mend or move these files, or drop --strict")


def ending(path: str) -> str:
    """The ending that tells the format, in lower case, without `.gz`; empty if there is none.

    >>> ending("notes/Plan.MD.gz")
    '.md'
    """
    name = os.path.basename(path).lower()
    return Path(name.removesuffix(".gz")).suffix


def shown(path: str) -> str:
    """A path for a message; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
