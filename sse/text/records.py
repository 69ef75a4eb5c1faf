"""The one reader of records: JSON lines, CSV, TSV, parquet and plain lines, local or remote.

- `read_records` yields texts with other columns beside them, for `sse encode` and `sse index`.
- `line_records`, `json_records` and `csv_records` apply the caller's check to each record. They
  yield its result or the record's `Fault`. Corpora, BEIR collections and the search for a bad
  row of a training file use them.
- Parquet is read as tables of bounded size (`parquet_tables.py`).

Only the record or table at hand is in memory, so a file may be larger than memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sse.common import bounded_json
from sse.common.errors import UserError, one_of
from sse.text.record_files import (
    MAX_LINE,
    RAW_CHARACTERS,
    BadFile,
    BadValue,
    Fault,
    kind_of,
    numbered,
    open_bytes,
    or_raise,
)
from sse.text.values import object_of, pick_column, text_in, value_in

FORMATS = ("lines", "jsonl", "csv", "tsv", "parquet")
csv.field_size_limit(MAX_LINE)  # its own limit of 128 KB is short for a text
MAX_RECORD = 1 << 24  # characters of a CSV record over its lines
CELL = 50  # characters that a cell counts for besides its own: it is an object

T = TypeVar("T")
Check = Callable[[dict[str, Any]], T]
Lines = Iterable[tuple[int, str] | Fault]
Checked = Iterator[tuple[int, T] | Fault]


@dataclass(frozen=True)
class Record:
    """One text and where it came from."""

    text: str
    where: str  # `file:line`, or `file#row` of a parquet file
    columns: dict[str, Any] = field(default_factory=dict)  # values of further columns, by name


def read_records(
    source: str,
    form: str | None = None,
    column: str | None = None,
    keep: Sequence[str] = (),
    may_lack: bool = False,
) -> Iterator[Record]:
    """The texts of a file, or of standard input for `-`.

    Args:
        source: a path; `.gz` is unpacked.
        form: lines, jsonl, csv, tsv or parquet; by default the ending of the name decides, and
            an unknown ending means lines.
        column: the column with the text; by default `text` or another usual name, or the only
            column of texts. Plain lines have no columns.
        keep: further columns for `Record.columns`.
        may_lack: leave a column of `keep` out where a row, or plain lines, lack it.

    Raises:
        UserError: no such file, a missing column, a broken line, bytes that are no text.
    """
    path = Path(source)
    if source != "-" and (path.is_dir() or not path.exists()):
        what = "is a folder, expected a file" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}")
    kind = None if source == "-" else kind_of(path)
    form = form or {"json": "jsonl", None: "lines"}.get(kind, kind or "lines")
    if form not in FORMATS:
        raise UserError(f"format '{form}': {one_of(form, FORMATS)}")
    if form == "lines" and (column or (keep and not may_lack)):
        raise UserError(f"{source}: plain lines have no column {column or keep[0]!r}")
    read = _parquet_records if form == "parquet" else _text_records
    return read(source, form, column, keep, may_lack)


def _text_records(
    source: str, form: str, column: str | None, keep: Sequence[str], may_lack: bool
) -> Iterator[Record]:
    """The records of a file of lines: plain text, JSON, CSV or TSV."""
    name = "standard input" if source == "-" else source

    def check(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        nonlocal column
        column = column or pick_column([c for c in values if isinstance(values[c], str)], name)
        kept = [key for key in keep if key in values] if may_lack else keep
        return text_in(values, column), {key: value_in(values, key) for key in kept}

    with open_bytes(source) as file:
        lines = numbered(file, name)
        if form == "lines":
            items = line_records(lines, name, _plain, blank=True)
        elif form == "jsonl":
            items = json_records(lines, name, check)
        else:
            items = csv_records(lines, name, check, "\t" if form == "tsv" else ",")
        for number, (text, columns) in or_raise(items):
            yield Record(text, f"{name}:{number}", columns)


def _plain(line: str) -> tuple[str, dict[str, Any]]:
    if "\0" in line:
        raise BadValue("holds a zero byte: not a text file")
    return line.rstrip("\r\n"), {}


def _parquet_records(
    source: str, form: str, column: str | None, keep: Sequence[str], may_lack: bool
) -> Iterator[Record]:
    """The records of a parquet file; the columns are checked against its schema first."""
    from sse.text import parquet_tables as parquet  # pyarrow is slow to import

    file = parquet.open_parquet(source)
    schema = file.schema_arrow
    texts = parquet.text_columns(schema)
    column = column or pick_column(texts, source)
    keep = [name for name in keep if name in schema.names or not may_lack]
    for name in (column, *keep):
        if name not in schema.names:
            raise UserError(f"{source}: no column '{name}': it has {', '.join(schema.names)}")
    if column not in texts:
        raise UserError(f"{source}: '{column}' holds {schema.field(column).type}, expected a text")
    for first, table in parquet.tables(file, source, list(dict.fromkeys([column, *keep]))):
        try:
            columns = {name: table.column(name).to_pylist() for name in keep}
        except UnicodeDecodeError as error:
            raise BadFile(source, f"damaged after row {first} ({error})") from None
        for at, text in enumerate(parquet.texts_of(table.column(column), column)):
            if isinstance(text, BadValue):
                raise Fault(source, "row", first + at, str(text)).error()
            values = {name: columns[name][at] for name in keep}
            yield Record(text, f"{source}#{first + at}", values)


def line_records(
    lines: Lines, name: str, check: Callable[[str], T], blank: bool = False
) -> Checked[T]:
    """(number, `check` of the line) of each line, or its fault; blank lines only with `blank`."""
    for item in lines:
        if isinstance(item, Fault):
            yield item
            continue
        number, line = item
        if not blank and not line.strip():
            continue
        try:
            result = check(line)
        except BadValue as reason:
            yield Fault(name, "line", number, str(reason), line.rstrip("\r\n")[:RAW_CHARACTERS])
            continue
        yield number, result


def json_records(lines: Lines, name: str, check: Check[T]) -> Checked[T]:
    """(line number, `check` of its object) of each line of JSON that is not blank, or its fault."""

    def parse(line: str) -> T:
        try:
            values = bounded_json.loads(line.rstrip("\r\n"))
        except (ValueError, RecursionError) as error:
            raise BadValue(json_reason(error)) from None
        return check(object_of(values))

    return line_records(lines, name, parse)


def json_reason(error: Exception) -> str:
    """What is wrong with a text that `json.loads` refuses."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON at column {error.colno} ({error.msg})"
    return f"no JSON ({'nested too deep' if isinstance(error, RecursionError) else error})"


def csv_records(lines: Lines, name: str, check: Check[T], separator: str) -> Checked[T]:
    """(first line's number, `check` of the record) of each record below the header, or its fault.

    Reading stops at a line that is no text, as that line may lie within a quoted text. A file
    without a header raises BadFile.
    """
    faults: list[Fault] = []

    size = 0

    def texts() -> Iterator[str]:
        nonlocal size
        for item in lines:
            if isinstance(item, Fault):
                faults.append(item)
                return
            size += len(item[1]) + CELL * item[1].count(separator)
            if size > MAX_RECORD:
                reason = f"a record of more than {MAX_RECORD:,} characters: is a quote left open?"
                faults.append(Fault(name, "line", number, reason))
                return
            yield item[1]

    reader = csv.reader(texts(), delimiter=separator)
    header: list[str] = []
    number = 1
    try:
        for cells in reader:
            size = 0
            if faults:
                break
            if header and cells:
                try:
                    yield number, check(_named(header, cells))
                except BadValue as reason:
                    raw = separator.join(cells)[:RAW_CHARACTERS]
                    yield Fault(name, "line", number, str(reason), raw)
            header = header or cells
            number = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault(name, "line", number, str(error)))
    yield from faults
    if not header and not faults:
        raise BadFile(name, "the file is empty, expected a header line")


def _named(header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        reason = f"{len(cells)} fields instead of {len(header)}"
        raise BadValue(f"{reason}; quote texts that hold a separator")
    return dict(zip(header, cells, strict=True))
