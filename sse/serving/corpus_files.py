"""The pieces of a corpus: which files it has, where they are cut, and the rows of one piece.

- Files are found and read through fsspec, so a path may be local or a URL such as `s3://...`.
- A piece is a run of rows of one file; what is cut depends on the files and the piece size alone.
  A parquet file is cut by its footer's row count; JSON lines are read once to find the cuts, which
  also gives every piece its first line number. A .gz cannot be entered midway: it is one piece.
- A row that cannot be encoded is set aside with its place and the reason; a file that cannot be
  read is an error.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from sse.common.errors import UserError
from sse.text.record_files import kind_of

ROWS, BYTES = 4_096, 8_000_000  # of a chunk, whichever is reached first
BLOCK = 8 << 20  # bytes read at a time where lines are counted
PLACES = (("file", pa.string()), ("row", pa.int64()))
READERS = 8  # files opened at a time to find the cuts


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus: its full name, `json` or `parquet`, and its size in bytes."""

    url: str
    kind: str
    size: int

    @property
    def packed(self) -> bool:
        """Whether it is gzip."""
        return self.url.lower().endswith(".gz")


@dataclass(frozen=True)
class Piece:
    """Rows of one file.

    Attributes:
        number: of the piece, and so of its shard.
        url: the file.
        kind: `json` or `parquet`.
        start: its first row (parquet), or the byte at which its first line begins.
        stop: the row or byte after its last; None for the end of the file.
        first: number of its first row, from 0 (parquet), or of its first line, from 1.
    """

    number: int
    url: str
    kind: str
    start: int
    stop: int | None
    first: int


@dataclass(frozen=True)
class Chunk:
    """Some rows of a piece: texts, the columns kept beside them, and what was set aside."""

    texts: list[str]
    kept: pa.Table
    rejected: list[dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Which column holds the text, and name and type of what is passed on beside the vector.

    With `places`, for want of ids, the first two passed on are `file` and `row`.
    """

    text: str
    kept: pa.Schema
    places: bool

    def carried(self) -> list[pa.Field]:
        """The columns that come from the file."""
        return list(self.kept)[len(PLACES) if self.places else 0 :]

    def with_places(self, arrays: list[Any], url: str, numbers: Sequence[int]) -> pa.Table:
        """The table of what is passed on, `arrays` being the columns carried."""
        if self.places:
            files = pa.array([url] * len(numbers), pa.string())
            arrays = [files, pa.array(numbers, pa.int64()), *arrays]
        return pa.table(arrays, schema=self.kept)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path within it.

    Raises:
        UserError: an unknown protocol, or one whose package is missing.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{url}: {error}") from None


def find_files(source: str) -> list[InputFile]:
    """The data files that a path, a folder or a glob names, by name.

    Raises:
        UserError: nothing there, an unknown kind, two kinds, only empty files.
    """
    kinds = "jsonl, jsonl.gz or parquet"
    system, path = file_system(source)
    if any(mark in source for mark in "*?["):
        names = [name for name in system.glob(path) if not system.isdir(name)]
    elif system.isdir(path):
        names = [n for n in system.find(path) if not _hidden(n[len(path.rstrip("/")) :])]
    elif system.exists(path):
        if _kind(path) is None:
            raise UserError(f"{source}: unknown kind of file; give {kinds}")
        names = [path]
    else:
        raise UserError(f"{source}: no such file or folder")
    found = [
        InputFile(str(system.unstrip_protocol(name)), kind, int(system.size(name) or 0))
        for name in sorted(names)
        if (kind := _kind(name))
    ]
    if not found:
        raise UserError(f"{source}: holds no {kinds} file")
    if len({file.kind for file in found}) > 1:
        raise UserError(f"{source}: holds parquet and JSON lines: encode them one after the other")
    if not any(file.size for file in found):
        raise UserError(f"{source}: empty, expected texts")
    return [file for file in found if file.size]


def _kind(name: str) -> str | None:
    kind = kind_of(Path(name))
    return kind if kind in ("json", "parquet") and not name.endswith(".json") else None


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def cut(files: Sequence[InputFile], rows: int) -> list[Piece]:
    """All pieces, in order, of at most `rows` rows each (a .gz is one piece)."""
    with ThreadPoolExecutor(READERS) as pool:
        cuts = list(pool.map(lambda file: _cuts(file, rows), files))
    pieces: list[Piece] = []
    for file, bounds in zip(files, cuts, strict=True):
        for (start, first), (stop, _) in zip(bounds, bounds[1:], strict=False):
            pieces.append(Piece(len(pieces), file.url, file.kind, start, stop, first))
    return pieces


def _cuts(file: InputFile, rows: int) -> list[tuple[Any, int]]:
    """(start, number of the first row or line) of each piece, and the end."""
    if file.kind == "parquet":
        with parquet_file(file.url) as table:
            total = table.metadata.num_rows
        return [(row, row) for row in [*range(0, total, rows), total]]
    if file.packed:
        return [(0, 1), (None, 0)]
    bounds, lines, position = [(0, 1)], 0, 0
    with open_file(file.url) as stream:
        while block := stream.read(BLOCK):
            count = block.count(b"\n")
            if lines + count >= len(bounds) * rows:
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            while lines + count >= (target := len(bounds) * rows):
                start = position + int(ends[target - lines - 1]) + 1
                if start >= file.size:
                    break
                bounds.append((start, target + 1))
            lines, position = lines + count, position + len(block)
    return [*bounds, (position, 0)]


def parquet_file(url: str) -> Any:
    """An open `ParquetFile`.

    Raises:
        UserError: not a parquet file, or a damaged one.
    """
    system, path = file_system(url)
    try:
        if isinstance(system, LocalFileSystem):
            return pq.ParquetFile(path)
        return pq.ParquetFile(system.open(path, "rb"))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url}: no parquet file ({str(error).splitlines()[0]})") from None


def open_file(url: str) -> Any:
    """The file's bytes, buffered; unpacked when it is gzip."""
    system, path = file_system(url)
    if isinstance(system, LocalFileSystem):
        file: Any = open(path, "rb")  # noqa: SIM115  the caller's `with` closes it
    else:
        file = io.BufferedReader(system.open(path, "rb"), 1 << 20)
    return gzip.GzipFile(fileobj=file) if url.lower().endswith(".gz") else file


def parquet_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    """Name and type of a file's columns, and which of them hold text."""
    with parquet_file(url) as file:
        types = {field.name: field.type for field in file.schema_arrow}
    return types, [name for name, kind in types.items() if _is_text(kind)]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def read_piece(piece: Piece, columns: Columns) -> Iterator[Chunk]:
    """The rows of a piece, chunk by chunk.

    Raises:
        UserError: the file cannot be read.
    """
    reader = _read_parquet if piece.kind == "parquet" else _read_lines
    try:
        yield from reader(piece, columns)
    except (pa.ArrowException, EOFError, zlib.error, gzip.BadGzipFile) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{piece.url}: cannot be read ({lines[0][:160]})") from None


def _read_parquet(piece: Piece, columns: Columns) -> Iterator[Chunk]:
    assert piece.stop is not None
    with parquet_file(piece.url) as file:
        names = list(dict.fromkeys([columns.text, *(f.name for f in columns.carried())]))
        groups: list[int] = []
        before = row = 0
        for group in range(file.num_row_groups):
            end = before + file.metadata.row_group(group).num_rows
            if end > piece.start and before < piece.stop:
                row = row if groups else before
                groups.append(group)
            before = end
        for batch in file.iter_batches(ROWS, groups, names):
            first = max(row, piece.start)
            part = batch.slice(first - row, max(0, min(row + len(batch), piece.stop) - first))
            row += len(batch)
            if len(part):
                yield from _bounded(piece, columns, pa.Table.from_batches([part]), first)
            if row >= piece.stop:
                return


def _bounded(piece: Piece, columns: Columns, table: pa.Table, first: int) -> Iterator[Chunk]:
    """A chunk, or several where its rows are long."""
    step = max(1, min(len(table), len(table) * BYTES // max(1, table.nbytes)))
    for start in range(0, len(table), step):
        yield _table_chunk(piece, columns, table.slice(start, step), first + start)


def _table_chunk(piece: Piece, columns: Columns, table: pa.Table, first: int) -> Chunk:
    column = table.column(columns.text)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        texts = [_decoded(value) for value in column]
    bad = [at for at, text in enumerate(texts) if not isinstance(text, str)]
    carried = [table.column(f.name).cast(f.type) for f in columns.carried()]
    kept = columns.with_places(carried, piece.url, range(first, first + len(texts)))
    if not bad:
        return Chunk(texts, kept, [])
    rejected = [
        {
            "file": piece.url,
            "row": first + at,
            "reason": f"'{columns.text}' is {'no UTF-8' if texts[at] else 'null'}",
            "kept": kept.slice(at, 1).to_pylist()[0],
        }
        for at in bad
    ]
    good = pc.invert(pc.is_in(pa.array(range(len(texts))), pa.array(bad)))
    return Chunk([text for text in texts if isinstance(text, str)], kept.filter(good), rejected)


def _decoded(value: Any) -> Any:
    """The text of an Arrow scalar, its bytes where they are no UTF-8, or None."""
    data = value.as_buffer().to_pybytes() if value.is_valid else None
    try:
        return data if data is None else data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _read_lines(piece: Piece, columns: Columns) -> Iterator[Chunk]:
    from sse.serving.json_rows import JsonRows  # it needs the classes above

    with open_file(piece.url) as file:
        file.seek(piece.start)
        rows = JsonRows(piece.url, columns)
        position, number = piece.start, piece.first
        while piece.stop is None or position < piece.stop:
            line = file.readline()
            if not line:
                break
            rows.add(number, line)
            position, number = position + len(line), number + 1
            if rows.full(ROWS, BYTES):
                yield rows.take()
        yield rows.take()
