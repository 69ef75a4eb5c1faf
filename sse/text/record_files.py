"""Opening a file of rows: its kind by its name, gzip unpacked, lines of bounded length."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_LINE = 1 << 28  # bytes: a small gzip may unpack to a line larger than memory


class LongLine(ValueError):
    """A line of more than MAX_LINE bytes."""

    def __init__(self) -> None:
        super().__init__(f"longer than {MAX_LINE:,} bytes: no line of text; split it")


def kind_of(path: Path) -> str | None:
    """`json`, `csv`, `tsv` or `parquet` by the file's name; None when it is no data file."""
    name = path.name.lower().removesuffix(".gz")
    suffix = name.rpartition(".")[2] if "." in name else ""
    kind = {"jsonl": "json", "ndjson": "json"}.get(suffix, suffix)
    if kind == "parquet" and path.name.lower().endswith(".gz"):
        return None
    return kind if kind in ("json", "csv", "tsv", "parquet") else None


def open_bytes(path: Path) -> Any:
    """The file's bytes (a binary file object), unpacked when it is gzip."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def lines_of(file: Any) -> Iterator[bytes]:
    """The lines of a file; LongLine before one of them fills the memory."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise LongLine
        yield line
