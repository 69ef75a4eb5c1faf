"""Files of records, local or remote: their kind, bytes, numbered lines and faults.

A record is one row of data. A check raises `BadValue`, and the reader yields a `Fault` in the
record's place. The caller raises the fault (`or_raise`) or sets it aside. A file that cannot be
read any further raises `BadFile`.
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

MAX_LINE = 1 << 28  # bytes
# A small gzip may unpack to a line larger than memory, so its lines are bounded by its own size.
GZIP_LINE, GZIP_RATIO = 1 << 20, 10
RAW_CHARACTERS = 2_000  # of a bad record, held in its fault
_KINDS = dict(json="json", jsonl="json", ndjson="json", csv="csv", tsv="tsv", parquet="parquet")
T = TypeVar("T")


class BadFile(UserError):
    """A file that cannot be read to its end, as `name: reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class BadValue(ValueError):
    """Why a record cannot be used; raised by a check, and the reason of a `Fault`."""


@dataclass(frozen=True)
class Fault:
    """A record that cannot be used, and the reason."""

    name: str  # of the file
    unit: str  # `line` (numbered from 1) or `row` (of a parquet file, numbered from 0)
    number: int
    reason: str
    raw: str = ""  # its first `RAW_CHARACTERS` characters

    @property
    def place(self) -> str:
        """Unit and number, such as `line 7`."""
        return f"{self.unit} {self.number}"

    def error(self) -> UserError:
        """The error `file, place: reason`, for a caller to raise."""
        return UserError(f"{self.name}, {self.place}: {self.reason}")


def or_raise(items: Iterable[T | Fault]) -> Iterator[T]:
    """The records among `items`; UserError at the first fault."""
    for item in items:
        if isinstance(item, Fault):
            raise item.error()
        yield item


def kind_of(path: Path) -> str | None:
    """`json`, `csv`, `tsv` or `parquet` by the file's name; None when it is no data file."""
    name = path.name.lower()
    _, dot, suffix = name.removesuffix(".gz").rpartition(".")
    kind = _KINDS.get(suffix) if dot else None
    # Parquet compresses its own pages and is read from its end.
    return None if kind == "parquet" and name.endswith(".gz") else kind


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path within it.

    An unknown protocol, or one whose package is missing, raises UserError.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        return found
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from None


def local_path(url: str) -> str | None:
    """The path of a local file, named by its path or by `file://...`; None for a remote file."""
    if "://" not in url:
        return url
    return file_system(url)[1] if url.startswith(("file://", "local://")) else None


@contextlib.contextmanager
def open_bytes(source: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a path or URL, unpacked where it ends in .gz; `-` is standard input."""
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
    """(number from 1, text) of each line, or the `Fault` of a line that is no UTF-8 text.

    A gzip that is damaged, cut off, or none raises BadFile.
    """
    number, most = 0, _longest_line(file)
    try:
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most:
                reason = f"longer than {most:,} bytes: no line of text; split it"
                yield _bad_line(name, number, reason, line)
                while line and not line.endswith(b"\n"):  # skip its rest
                    line = file.readline(most + 1)
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


def _longest_line(file: IO[bytes]) -> int:
    """The most bytes of a line."""
    if not isinstance(file, gzip.GzipFile):
        return MAX_LINE
    packed: Any = file.fileobj
    place = packed.tell()
    size = packed.seek(0, io.SEEK_END)
    packed.seek(place)
    return min(MAX_LINE, GZIP_LINE + GZIP_RATIO * int(size))


def _bad_line(name: str, number: int, reason: str, line: bytes) -> Fault:
    raw = line[: 4 * RAW_CHARACTERS].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return Fault(name, "line", number, reason, raw[:RAW_CHARACTERS])
