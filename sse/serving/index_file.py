"""The file of an index: Arrow IPC, memory-mapped, each part checked before its use.

- Columns: `where`, `text`, `check` (a CRC-32 of both) and `vector`, float32. A binary index has
  float16 vectors, their `code` (signs) and their `sum` (16-bit words weighted 1, 3, 5, ...).
- A search scans vectors or codes whole: each chunk has their CRC-32, compared at the first scan.
  Other values are read by row: each row has its `check` and `sum`. So opening reads little, and a
  flipped bit changes no result.
- Offsets are checked before rows are cut from Arrow's buffers, as a file may come from a stranger.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, first_line
from sse.text.records import Record

# Format 2 has older sums in place of the CRC-32; they are not compared.
FORMAT, FORMATS = 3, (2, 3)  # to write, to read
_WAY_OUT = "index the texts again"


def schema(kind: str, dim: int, about: dict[str, Any]) -> Any:
    """The Arrow schema of an index of `kind`, with `about` as metadata."""
    import pyarrow as pa

    binary = kind == "binary"
    fields = {"where": pa.string(), "text": pa.string(), "check": pa.uint32()}
    fields["vector"] = pa.list_(pa.float16() if binary else pa.float32(), dim)
    if binary:
        fields |= {"code": pa.binary((dim + 7) // 8), "sum": pa.uint64()}
    return pa.schema(list(fields.items()), {"sse": json.dumps(about)})


class IndexWriter:
    """A writer that appends chunks to an index of `kind`; `about` is further metadata."""

    def __init__(self, path: Path, kind: str, dim: int, about: dict[str, Any]) -> None:
        import pyarrow as pa

        self._pa, self.kind = pa, kind
        self.schema = schema(kind, dim, about | {"format": FORMAT, "kind": kind, "dim": dim})
        self.rows = 0
        self.file = pa.ipc.new_file(str(path), self.schema)

    def write(self, rows: Sequence[Record], vectors: NDArray[np.float32]) -> None:
        """Append one chunk: the texts and their vectors (n, dim)."""
        pa = self._pa
        texts = [row.text.encode("utf-8", "replace") for row in rows]
        wheres = [row.where.encode("utf-8", "replace") for row in rows]
        stored = np.ascontiguousarray(vectors, np.float32 if self.kind == "exact" else np.float16)
        scanned: NDArray[Any] = stored
        columns = [
            pa.array(wheres, pa.binary()).cast(pa.string()),
            pa.array(texts, pa.binary()).cast(pa.string()),
            pa.array(np.fromiter(map(_check, wheres, texts), np.uint32, len(rows))),
            pa.FixedSizeListArray.from_arrays(
                pa.array(stored.ravel()), type=self.schema.field("vector").type
            ),
        ]
        if self.kind == "binary":
            scanned = np.packbits(vectors > 0, axis=1)
            kind = self.schema.field("code").type
            buffers = [None, pa.py_buffer(scanned.tobytes())]
            columns.append(pa.FixedSizeBinaryArray.from_buffers(kind, len(scanned), buffers))
            columns.append(pa.array(_sums(stored)))
        self._append(columns, len(rows), zlib.crc32(scanned.data))

    def _append(self, columns: list[Any], rows: int, crc: int | None) -> None:
        batch = self._pa.record_batch(columns, schema=self.schema)
        seal = {"start": self.rows, "rows": rows, "crc": crc}
        self.file.write_batch(batch, {"sse": json.dumps(seal)})
        self.rows += rows

    def close(self) -> None:
        """Write the end: a chunk without rows, whose absence shows that the file was cut off."""
        self._append([self._pa.array([], field.type) for field in self.schema], 0, None)
        self.file.close()


@contextlib.contextmanager
def index_writer(path: Path, kind: str, dim: int, about: dict[str, Any]) -> Iterator[IndexWriter]:
    """An `IndexWriter`, which writes the end unless an error is raised meanwhile."""
    writer = IndexWriter(path, kind, dim, about)
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(Exception):
            writer.file.close()
        raise
    writer.close()


class Chunk:
    """One chunk of an index, in the file's memory map; ValueError if columns do not fit rows."""

    def __init__(self, path: Path, batch: Any, seal: dict[str, Any], kind: str, dim: int) -> None:
        self._path, self._crc = path, seal.get("crc")
        self._scanned = "digest" in seal  # format 2 has no CRC to compare
        self.start, self.rows = int(seal["start"]), int(seal["rows"])
        if len(batch) != self.rows or any(c.null_count or c.offset for c in batch.columns):
            raise ValueError("rows are missing")
        batch.validate()  # raises for a buffer that is too short for the rows
        element = np.float32 if kind == "exact" else np.float16
        self._vectors = _fixed(batch.column("vector").flatten(), element, self.rows, dim)
        self._checks = _fixed(batch.column("check"), np.uint32, self.rows, 1).ravel()
        self._texts, self._wheres = _Strings(batch.column("text")), _Strings(batch.column("where"))
        self._codes = None
        if kind == "binary":
            self._codes = _fixed(batch.column("code"), np.uint8, self.rows, (dim + 7) // 8)
            self._sums = _fixed(batch.column("sum"), np.uint64, self.rows, 1).ravel()

    def __len__(self) -> int:
        return self.rows

    def scanned(self) -> NDArray[Any]:
        """The array that a search scans, without a copy: vectors (n, dim) or codes (n, dim / 8).

        A damaged array raises UserError.
        """
        whole = self._vectors if self._codes is None else self._codes
        if not self._scanned and zlib.crc32(whole.data) != self._crc:
            raise UserError(f"{self._path}: rows from {self.start} are damaged: {_WAY_OUT}")
        self._scanned = True
        return whole

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors (n, dim) of some rows of a binary index; UserError if one is damaged."""
        vectors = self._vectors[rows]
        wrong = np.flatnonzero(_sums(vectors) != self._sums[rows])
        if len(wrong):
            raise self._damage(int(rows[wrong[0]]))
        return vectors

    def text(self, row: int) -> tuple[str, str]:
        """The text of a row and the place that it came from; UserError if one is damaged."""
        text, where = self._texts[row], self._wheres[row]
        if text is None or where is None or _check(where, text) != self._checks[row]:
            raise self._damage(row)
        return text.decode("utf-8", "replace"), where.decode("utf-8", "replace")

    def _damage(self, row: int) -> UserError:
        return UserError(f"{self._path}: row {self.start + row} is damaged: {_WAY_OUT}")


def open_chunks(path: Path) -> tuple[dict[str, Any], list[Chunk]]:
    """The metadata of an index, and its chunks; UserError if it is none, foreign or damaged."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        about = json.loads((reader.schema.metadata or {})[b"sse"])
        if about["format"] not in FORMATS:
            raise UserError(
                f"{path} has format {about['format']!r}, this version reads {FORMATS}: {_WAY_OUT}"
            )
        kind, dim = about["kind"], about["dim"]
        if not reader.schema.equals(schema(kind, dim, about)):
            raise ValueError("other columns than an index has")
        chunks: list[Chunk] = []
        rows, ended, room = 0, False, path.stat().st_size
        for number in range(reader.num_record_batches):
            batch, custom = reader.get_batch_with_custom_metadata(number)
            room -= batch.get_total_buffer_size()
            seal = json.loads(custom[b"sse"])
            if seal["start"] != rows or ended or room < 0:
                raise ValueError("chunks that do not follow each other")
            if ended := not len(batch):
                continue
            chunks.append(Chunk(path, batch, seal, kind, dim))
            rows += len(batch)
        if not ended or not chunks:
            raise ValueError("the last chunk is missing")
    except UserError:
        raise
    except (
        pa.ArrowException, OSError, LookupError, TypeError, ValueError, ArithmeticError,
        RecursionError,
    ) as error:  # fmt: skip
        reason = f"no index, or a damaged one ({first_line(error)})"
        raise UserError(f"{path}: {reason}: {_WAY_OUT}") from None
    return about, chunks


def _fixed(column: Any, dtype: Any, rows: int, width: int) -> NDArray[Any]:
    """An array (rows, width) of a column without nulls, without a copy."""
    return np.frombuffer(column.buffers()[-1], dtype, rows * width).reshape(rows, width)


class _Strings:
    """The UTF-8 of a column of strings; None where its offsets leave the column's bytes."""

    def __init__(self, column: Any) -> None:
        _, offsets, data = column.buffers()
        self._bounds = np.frombuffer(offsets, np.int32, len(column) + 1)
        self._data = memoryview(data or b"")

    def __getitem__(self, at: int) -> bytes | None:
        first, end = self._bounds[at : at + 2].tolist()
        return bytes(self._data[first:end]) if 0 <= first <= end <= len(self._data) else None


def _check(where: bytes, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(where))


def _sums(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Per row of (n, dim) the sum of its 16-bit words, weighted 1, 3, 5, ...

    The weights are odd and differ, so two flipped bits cannot cancel each other.
    """
    weights = np.arange(1, 2 * vectors.shape[1], 2, dtype=np.uint64)
    return vectors.view(np.uint16).astype(np.uint64) @ weights
