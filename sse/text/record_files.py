"""Files of records, local or remote: their kind, their bytes, their numbered lines, their faults.

A bad record is a `Fault`, which a reader yields in the record's place. The caller decides: raise
it (`or_raise`) or set it aside. A file that cannot be read any further raises `BadFile`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from sse.common.errors import UserError

MAX_LINE = 1 << 28  # bytes: a small gzip may unpack to a line larger than memory
KEPT = 2_000  # characters of a bad record that its fault keeps
T = TypeVar("T")


class BadFile(UserError):
    """A file that cannot be read, or not to its end.

    Args:
        name: the file.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class BadValue(ValueError):
    """Why a record cannot be used; raised by a check, and the reason of a `Fault`."""


@dataclass(frozen=True)
class Fault:
    """A record that cannot be used.

    Attributes:
        name: the file.
        unit: `line` (numbered from 1) or `row` (of a parquet file, numbered from 0).
        number: which one.
        reason: what is wrong with it.
        raw: its first characters.
    """

    name: str
    unit: str
    number: int
    reason: str
    raw: str = ""

    @property
    def place(self) -> str:
        """`line 7`."""
        return f"{self.unit} {self.number}"

    def error(self) -> UserError:
        """The fault as one line: file, place, reason."""
        return UserError(f"{self.name}, {self.place}: {self.reason}")


def or_raise(items: Iterable[T | Fault]) -> Iterator[T]:
    """The records among `items`.

    Raises:
        UserError: the first fault among them.
    """
    for item in items:
        if isinstance(item, Fault):
            raise item.error()
        yield item


def kind_of(path: Path) -> str | None:
    """`json`, `csv`, `tsv` or `parquet` by the file's name; None when it is no data file."""
    name = path.name.lower().removesuffix(".gz")
    suffix = name.rpartition(".")[2] if "." in name else ""
    kind = {"jsonl": "json", "ndjson": "json"}.get(suffix, suffix)
    if kind == "parquet" and path.name.lower().endswith(".gz"):
        return None
    return kind if kind in ("json", "csv", "tsv", "parquet") else None


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path within it.

    Raises:
        UserError: an unknown protocol, or one whose package is missing.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from None


def local_path(url: str) -> str | None:
    """The path of a local file, given as such or as `file://...`; None of a remote one."""
    if "://" not in url:
        return url
    return file_system(url)[1] if url.startswith(("file://", "local://")) else None


@contextlib.contextmanager
def open_bytes(source: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a path or URL, unpacked when it is gzip; of standard input for `-`."""
    name = str(source)
    if name == "-":
        yield sys.stdin.buffer
        return
    if (path := local_path(name)) is not None:
        raw: Any = open(path, "rb")  # noqa: SIM115  closed below
    else:
        system, path = file_system(name)
        raw = io.BufferedReader(system.open(path, "rb"), 1 << 20)
    with raw:
        yield gzip.GzipFile(fileobj=raw) if name.lower().endswith(".gz") else raw  # type: ignore[misc]


def numbered(file: IO[bytes], name: str) -> Iterator[tuple[int, str] | Fault]:
    """The lines of a file as (number from 1, text), or as the fault that makes one no text.

    Raises:
        BadFile: a gzip that is none, damaged or cut off.
    """
    number = 0
    try:
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                reason = f"longer than {MAX_LINE:,} bytes: no line of text; split it"
                yield _bad_line(name, number, reason, line)
                while line and not line.endswith(b"\n"):  # the rest of it
                    line = file.readline(MAX_LINE + 1)
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                reason = f"not UTF-8 (byte {byte:#x}): not a text file, or convert it with iconv"
                yield _bad_line(name, number, reason, line)
                continue
            yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFile(name, f"a broken gzip after line {number} ({error})") from None


def _bad_line(name: str, number: int, reason: str, line: bytes) -> Fault:
    raw = line[: 4 * KEPT].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return Fault(name, "line", number, reason, raw[:KEPT])
