"""Parquet files, local or remote, as Arrow tables of bounded size.

- A text that cannot be used becomes a `BadValue`; a file that cannot be read raises `BadFile`.
- A column's dictionary holds a value once, however often it comes: a kilobyte may unpack to more
  than the memory. So a dictionary's longest value is looked at before rows are unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sse.common.errors import first_line
from sse.text.record_files import BadFile, BadValue, file_system, local_path

ROWS, BYTES = 4_096, 8_000_000  # of one table: the smaller limit holds
UNPACKED, RATIO = 32_000_000, 100  # bytes that any file may unpack to, and more per byte of its own
LISTED = 10_000_000  # values of a column of lists in a row group: runs of equal ones take no room


def open_parquet(source: str) -> Any:
    """A path or URL as an open `pyarrow.parquet.ParquetFile`; BadFile if it is none or damaged."""
    try:
        if (path := local_path(source)) is not None:
            opened = pa.memory_map(path)
            size = opened.size()
        else:
            system, path = file_system(source)
            opened = system.open(path, "rb")
            size = opened.size
        file: Any = pq.ParquetFile(opened)
        file.opened, file.room = opened, UNPACKED + RATIO * size  # for `tables`
        return file
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        raise BadFile(source, f"no parquet file ({first_line(error)})") from None


def text_columns(schema: Any) -> list[str]:
    """Names of the columns of an Arrow schema that hold texts."""
    return [item.name for item in schema if is_text(item.type)]


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is that of texts, also by a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def tables(
    file: Any, name: str, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, Any]]:
    """(number of its first row, table) of each table: at most `ROWS` rows, about `BYTES` bytes.

    Rows are numbered from the first of the row groups read: `groups`, by default all. A damaged
    file raises BadFile with its `name`.
    """
    row, room = 0, file.room
    batches = _batches(file, name, columns, groups)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile(name, f"damaged after row {row} ({first_line(error)})") from None
        if batch is None:
            return
        table = pa.Table.from_batches([batch])
        size = sum(map(_unpacked, batch.columns))
        room -= size
        if room < 0:
            reason = f"unpacks to more than {RATIO} times its size: split it if that is meant"
            raise BadFile(name, reason)
        step = max(1, min(len(table), len(table) * BYTES // max(1, size)))
        for start in range(0, len(table), step):
            yield row + start, table.slice(start, step)
        row += len(table)


def _batches(
    file: Any, name: str, columns: Sequence[str] | None, groups: Sequence[int] | None
) -> Iterator[Any]:
    """The record batches of the row groups, of as many rows as surely fit into memory."""
    for group in range(file.metadata.num_row_groups) if groups is None else groups:
        # Columns that contradict their own statistics end the process below (C++), but raise here.
        next(file.reader.iter_batches(0, [group]), None)
        facts, rows = file.metadata.row_group(group), ROWS
        for leaf in map(facts.column, range(facts.num_columns)):
            top, nested, _ = leaf.path_in_schema.partition(".")
            if columns is not None and top not in columns:
                continue
            if nested and leaf.num_values > LISTED:
                reason = f"{leaf.num_values:,} values in lists of '{top}' in one row group"
                raise BadFile(name, f"{reason}, more than the {LISTED:,} that are read")
            repeated = leaf.has_dictionary_page and leaf.physical_type == "BYTE_ARRAY"
            if repeated and min(ROWS, leaf.num_values) * leaf.total_uncompressed_size > BYTES:
                longest = _longest(file, group, leaf.path_in_schema)
                rows = min(rows, max(1, BYTES // max(1, longest)))
        yield from file.iter_batches(rows, [group], columns)


def _unpacked(array: Any) -> int:
    """Bytes of an array whose dictionary, if it has one, were written out."""
    if pa.types.is_dictionary(array.type) and is_text(array.type):
        sizes = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(sizes).as_py() or 0)
    return int(array.nbytes)


def _longest(file: Any, group: int, path: str) -> int:
    """Bytes of the longest value in a column's dictionary; 0 for an empty row group."""
    probe = pq.ParquetFile(file.opened, read_dictionary=[path], metadata=file.metadata)
    batch = next(probe.iter_batches(1, [group], [path]), None)
    array = None if batch is None else batch.column(0)
    while array is not None and not pa.types.is_dictionary(array.type):
        if not hasattr(array, "values"):
            return 0
        array = array.values
    if array is None or not len(array.dictionary):
        return 0
    return int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)


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
