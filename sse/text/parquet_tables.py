"""Parquet files, local or remote, as Arrow tables of bounded size.

A text that cannot be used becomes a `BadValue`; a file that cannot be read raises `BadFile`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sse.common.errors import first_line
from sse.text.record_files import BadFile, BadValue, file_system, local_path

ROWS, BYTES = 4_096, 8_000_000  # of one table: the smaller limit holds


def open_parquet(source: str) -> Any:
    """A path or URL as an open `pyarrow.parquet.ParquetFile`; BadFile if it is none or damaged."""
    try:
        if (path := local_path(source)) is not None:
            return pq.ParquetFile(path, memory_map=True)
        system, path = file_system(source)
        return pq.ParquetFile(system.open(path, "rb"))
    except (pa.ArrowException, OSError) as error:
        raise BadFile(source, f"no parquet file ({first_line(error)})") from None


def text_columns(schema: Any) -> list[str]:
    """Names of the columns of an Arrow schema that hold texts."""

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    return [item.name for item in schema if is_text(item.type)]


def tables(
    file: Any, name: str, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, Any]]:
    """(number of its first row, table) of each table: at most `ROWS` rows, about `BYTES` bytes.

    Rows are numbered from the first of the row groups read: `groups`, by default all. A damaged
    file raises BadFile with its `name`.
    """
    row = 0
    batches = file.iter_batches(ROWS, groups, columns)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadFile(name, f"damaged after row {row} ({first_line(error)})") from None
        if batch is None:
            return
        table = pa.Table.from_batches([batch])
        step = max(1, min(len(table), len(table) * BYTES // max(1, table.nbytes)))
        for start in range(0, len(table), step):
            yield row + start, table.slice(start, step)
        row += len(table)


def texts_of(column: Any, name: str) -> list[str | BadValue]:
    """The texts of an Arrow column, with a `BadValue` in the place of a null or of bad UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        texts = [_decoded(value, name) for value in column]
    null = BadValue(f"'{name}' is null, expected a text")
    return [null if text is None else text for text in texts]


def _decoded(value: Any, name: str) -> str | BadValue | None:
    try:
        return value.as_py()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return BadValue(f"'{name}' is not UTF-8, expected a text")
