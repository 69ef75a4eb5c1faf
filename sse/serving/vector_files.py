"""Files of vectors: parquet with fixed-size lists, npy, JSON lines; each is whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, first_line
from sse.common.files import atomic_file
from sse.text.records import Record

OUTPUTS = ("parquet", "npy", "jsonl")
GROUP = 32_768  # rows of a parquet row group


class Writer(Protocol):
    """A writer of vectors, batch by batch."""

    def write(self, rows: Sequence[Record], vectors: NDArray[Any]) -> None:
        """Append vectors (n, d) of the texts `rows`."""

    def close(self) -> None:
        """Write what is still in memory."""


def output_format(target: str, form: str | None = None) -> str:
    """The format of `target`: `form`, by default the ending of its name.

    Raises:
        UserError: a folder, or an unknown ending.
    """
    suffix = "jsonl" if target == "-" else Path(target).suffix.lower().lstrip(".")
    form = form or {"ndjson": "jsonl", "json": "jsonl", "pq": "parquet"}.get(suffix, suffix)
    if target != "-" and Path(target).is_dir():
        raise UserError(f"{target} is a folder: name a file in it")
    if form not in OUTPUTS:
        raise UserError(f"{target}: end it in .{', .'.join(OUTPUTS)}, or name its `form`")
    return form


@contextlib.contextmanager
def vector_file(
    target: str, form: str, dim: int, dtype: Any, with_text: bool = True, force: bool = False
) -> Iterator[Writer]:
    """A writer to `target`, which appears under its name only when it is whole.

    Args:
        target: the path, or `-` for standard output (JSON lines).
        form: parquet, npy or jsonl.
        dim: columns of the vectors.
        dtype: their type.
        with_text: write the texts beside their vectors; npy holds vectors only.
        force: replace an existing file.

    Raises:
        UserError: a target that exists, or is a folder.
    """
    if target == "-":
        if form != "jsonl":
            raise UserError(f"{form} cannot go to standard output: use jsonl or name a file")
        yield _JsonLines(sys.stdout, with_text)
        sys.stdout.flush()
        return
    check_target(target, force)
    with atomic_file(target) as path, contextlib.ExitStack() as stack:
        writer: Writer
        if form == "jsonl":
            file = stack.enter_context(open(path, "w", encoding="utf-8", errors="replace"))
            writer = _JsonLines(file, with_text)
        elif form == "npy":
            writer = _Npy(stack.enter_context(open(path, "wb")), dim, np.dtype(dtype))
        else:
            writer = _Parquet(path, dim, np.dtype(dtype), with_text)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(Exception):  # the file is removed anyway
                writer.close()
            raise
        writer.close()


def check_target(target: str | os.PathLike[str], force: bool) -> None:
    """Raise UserError if `target` is a folder, or a file that must not be replaced."""
    path = Path(target)
    if path.is_dir():
        raise UserError(f"{target} is a folder: name a file in it")
    if path.exists() and not force:
        raise UserError(f"{target} exists: give another name, or `force` to replace it")


def check_kept(names: Sequence[str], with_text: bool) -> None:
    """Raise UserError for a kept column whose name the output needs for itself."""
    own = ("text", "vector") if with_text else ("vector",)
    for name in names:
        if name in own:
            raise UserError(f"`keep` {name}: the output has its own column of that name")


class _JsonLines:
    def __init__(self, file: IO[str], with_text: bool) -> None:
        self.file, self.with_text = file, with_text

    def write(self, rows: Sequence[Record], vectors: NDArray[Any]) -> None:
        for row, vector in zip(rows, vectors.tolist(), strict=True):
            record = dict(row.columns)
            if self.with_text:
                record["text"] = row.text
            record["vector"] = vector
            self.file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self.file.flush()


class _Npy:
    def __init__(self, file: IO[bytes], dim: int, dtype: np.dtype) -> None:
        self.file, self.rows, self.dim, self.dtype = file, 0, dim, dtype
        self._header()

    def _header(self) -> None:
        # numpy leaves room in the header for the number of rows to grow.
        descr = np.lib.format.dtype_to_descr(self.dtype)
        shape = {"descr": descr, "fortran_order": False, "shape": (self.rows, self.dim)}
        np.lib.format.write_array_header_1_0(self.file, shape)

    def write(self, rows: Sequence[Record], vectors: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(vectors).data)
        self.rows += len(vectors)

    def close(self) -> None:
        self.file.seek(0)
        self._header()


class _Parquet:
    def __init__(self, path: Path, dim: int, dtype: np.dtype, with_text: bool) -> None:
        import pyarrow as pa

        self.pa, self.path, self.with_text = pa, path, with_text
        self.type = pa.list_(pa.from_numpy_dtype(dtype), dim)
        self.tables: list[Any] = []
        self.count = 0
        self.file: Any = None

    def write(self, rows: Sequence[Record], vectors: NDArray[Any]) -> None:
        pa = self.pa
        columns: dict[str, Any] = {}
        if rows:
            names = rows[0].columns
            columns = {name: self._column(name, rows) for name in names}
        if self.with_text:
            columns["text"] = pa.array([_storable(row.text) for row in rows], pa.large_string())
        flat = pa.array(np.ascontiguousarray(vectors).ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, type=self.type)
        self.tables.append(pa.table(columns))
        self.count += len(vectors)
        if self.count >= GROUP:
            self._flush()

    def _column(self, name: str, rows: Sequence[Record]) -> Any:
        """The kept values of one name; UserError where parquet holds no such mixture."""
        values = [_storable(row.columns[name]) for row in rows]
        with self._mixtures_named(f"{rows[0].where} and the rows after it: `keep` {name}"):
            return self.pa.array(values)

    @contextlib.contextmanager
    def _mixtures_named(self, place: str) -> Iterator[None]:
        """Raise UserError for values of several kinds, or of none that parquet knows."""
        try:
            yield
        except (self.pa.ArrowException, OverflowError) as error:
            reason = f"holds values that fit no column of parquet ({first_line(error)})"
            raise UserError(f"{place} {reason}: write jsonl instead") from None

    def _flush(self) -> None:
        with self._mixtures_named(f"{self.path.name}: a column of `keep`"):
            table = self.pa.concat_tables(self.tables, promote_options="permissive")
            if self.file is None:
                self.file = parquet_writer(self.path, table.schema)
            table = table.cast(self.file.schema)
        self.file.write_table(table)
        self.tables, self.count = [], 0

    def close(self) -> None:
        if self.file is None and not self.tables:
            self.write(
                [], np.empty((0, self.type.list_size), self.type.value_type.to_pandas_dtype())
            )
        if self.tables:
            self._flush()
        self.file.close()


def parquet_writer(path: Path, schema: Any, vector: str = "vector") -> Any:
    """A `ParquetWriter` for tables with a column of vectors.

    Vectors hardly repeat, so they get no dictionaries, statistics or compression.
    """
    import pyarrow.parquet as pq

    names = [name for name in schema.names if name != vector]
    packed = {name: "zstd" for name in names} | {f"{vector}.list.element": "none"}
    return pq.ParquetWriter(
        path, schema, compression=packed, use_dictionary=names, write_statistics=names
    )


def _storable(value: Any) -> Any:
    """`value`, with half a surrogate pair in a text, which UTF-8 cannot hold, replaced by `?`."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
