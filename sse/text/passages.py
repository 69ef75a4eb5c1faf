"""Passages of a folder of text files, for an index, and the snippets that show them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sse.common.errors import UserError
from sse.text.record_files import MAX_LINE
from sse.text.records import Record

TEXT_FILES = {".txt", ".md", ".rst", ".text", ".org", ".adoc", ".tex", ".log"}
PASSAGE = 1_000  # characters of a passage at most, unless one paragraph is longer


def folder_passages(folder: str) -> Iterator[Record]:
    """Passages of the text files under a folder, in the order of their names.

    A passage is one paragraph, or several short ones up to `PASSAGE` characters together. Hidden
    files are left out. Other kinds, too large files and such that are no UTF-8 give a warning.

    Raises:
        UserError: the folder holds no text file.
    """
    root, empty, others = Path(folder), True, Counter[str]()
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not path.is_file():
            continue
        if path.suffix.lower() not in TEXT_FILES:
            others[path.suffix.lower() or "no ending"] += 1
            continue
        empty = False
        if path.stat().st_size > MAX_LINE:
            sys.stderr.write(f"warning: {path}: more than {MAX_LINE:,} bytes, left out\n")
            continue
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            sys.stderr.write(f"warning: {path}: not UTF-8, left out\n")
            continue
        yield from _passages(text, str(path))
    if empty:
        kinds = ", ".join(sorted(TEXT_FILES))
        raise UserError(f"{folder}: no text file in it (looked for {kinds})")
    if others:
        endings = ", ".join(f"{ending} {count:,}" for ending, count in others.most_common())
        sys.stderr.write(f"warning: {folder}: {others.total():,} files left out ({endings})\n")


def _passages(text: str, name: str) -> Iterator[Record]:
    """The passages of one file, each with the line at which it starts."""
    start, size, number = 1, 0, 1
    parts: list[str] = []
    for paragraph in text.split("\n\n"):
        if parts and size + len(paragraph) > PASSAGE:
            yield Record("\n\n".join(parts), f"{name}:{start}")
            start, size, parts = number, 0, []
        if paragraph.strip():
            start = start if parts else number + paragraph[: -len(paragraph.lstrip())].count("\n")
            parts.append(paragraph.strip())
            size += len(paragraph)
        number += paragraph.count("\n") + 2
    if parts:
        yield Record("\n\n".join(parts), f"{name}:{start}")


def snippet(text: str, query: str, size: int = 200) -> str:
    """About `size` characters of `text`, in one line, around a word of `query`.

    The longest word of the query that occurs in the text decides; without one the text's start.

    >>> snippet("Feed the starter. Then knead the dough for ten minutes.", "knead", size=24)
    '… Then knead the dough …'
    """
    flat = " ".join(text.split())
    if len(flat) <= size:
        return flat
    low, at = flat.lower(), 0
    words = sorted({w for w in query.lower().split() if len(w) > 2}, key=len, reverse=True)
    with contextlib.suppress(StopIteration):
        at = next(place for w in words if (place := low.find(w)) >= 0)
    start = max(0, min(at - size // 3, len(flat) - size))
    if start:  # begin with a whole word
        start = flat.find(" ", start) + 1
    end = flat.rfind(" ", start, start + size)
    end = end if end > start and start + size < len(flat) else start + size
    return ("… " if start else "") + flat[start:end] + (" …" if end < len(flat) else "")
