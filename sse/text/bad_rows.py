"""The bad rows of a training file, with their lines and values.

Readers of tables stop at the first broken block and name neither. So when one fails, the file is
read again here, record by record, to tell the user where to look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from sse.text import parquet_tables
from sse.text.record_files import BadFile, BadValue, Fault, kind_of, numbered, open_bytes
from sse.text.records import Check, Checked, Lines, csv_records, json_reason, json_records
from sse.text.values import object_of, shown, text_of, unicode_of, value_in


def fault(files: Sequence[Path], columns: Sequence[str] = ()) -> str | None:
    """The first fault of `files` as `line 7: 'positive' is 3`, or None when none is found.

    Of several files the faulty one is named too. Every row must have the `columns`, as text or a
    list of texts.
    """
    for path in files:
        if (reason := _first_fault(path, columns)) is not None:
            return f"{path.name}: {reason}" if len(files) > 1 else reason
    return None


def _first_fault(path: Path, columns: Sequence[str]) -> str | None:
    kind, empty = kind_of(path), True
    # Of a parquet file the reader of tables has found what is wrong with a value.
    try:
        for item in records(path, None if kind == "parquet" else texts_in(columns)):
            if isinstance(item, Fault):
                return f"{item.place}: {item.reason}"
            empty = False
    except BadFile as error:
        return error.reason
    if not empty:
        return None
    return {"json": "the file is empty", "parquet": "no rows"}.get(
        kind or "", "no rows below the header"
    )


def texts_in(columns: Sequence[str], filled: Sequence[str] = ()) -> Check[dict[str, Any]]:
    """A check that gives a row back; BadValue where one of the `columns` lacks text.

    A column may hold a list of texts; those of `filled` must not be empty lists.
    """

    def check(values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            for text in _texts(value):
                if isinstance(text, str):
                    unicode_of(text, name)
        for name in columns:
            for text in _texts(value_in(values, name)):
                text_of(text, name)
        for name in filled:
            if not isinstance(values[name], list) or not values[name]:
                raise BadValue(f"{name!r} is {shown(values[name])}, expected a list of texts")
        return values

    return check


def records(
    path: Path, check: Check[dict[str, Any]] | None
) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    """(number, row) of each row of a file, or its fault; BadFile where reading cannot go on.

    Without `check` the rows of a parquet file are not looked at.
    """
    kind, name = kind_of(path), str(path)
    if kind == "parquet":
        yield from _parquet_rows(name, check)
        return
    assert check is not None
    with open_bytes(path) as file:
        lines = Watched(numbered(file, name))
        if kind == "json":
            yield from _json_rows(lines, name, check)
            return
        last = None
        for last in csv_records(lines, name, check, "\t" if kind == "tsv" else ","):
            yield last
        if isinstance(last, Fault) and not lines.ended:
            raise BadFile(name, f"{last.place}: {last.reason}; the rest cannot be told into rows")


class Watched:
    """The lines of an iterator, and whether all have been read."""

    def __init__(self, lines: Iterator[tuple[int, str] | Fault]) -> None:
        self._lines, self.ended = lines, False

    def __iter__(self) -> Iterator[tuple[int, str] | Fault]:
        yield from self._lines
        self.ended = True


def _parquet_rows(
    name: str, check: Check[dict[str, Any]] | None
) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    for first, table in parquet_tables.tables(parquet_tables.open_parquet(name), name):
        if check is None:
            yield first, {}
            continue
        for number, row in enumerate(table.to_pylist(), first):
            try:
                yield number, check(row)
            except BadValue as reason:
                yield Fault(name, "row", number, str(reason))


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _json_rows(lines: Lines, name: str, check: Check[dict[str, Any]]) -> Checked[dict[str, Any]]:
    """The records of JSON lines, or of one JSON array."""
    rest = iter(lines)
    first = next(rest, None)
    if first is None:
        return iter(())
    array = not isinstance(first, Fault) and first[1].lstrip().startswith("[")
    return (_array if array else json_records)(chain([first], rest), name, check)


def _array(lines: Lines, name: str, check: Check[dict[str, Any]]) -> Checked[dict[str, Any]]:
    texts = []
    for item in lines:
        if isinstance(item, Fault):
            yield item
            return
        texts.append(item[1])
    try:
        rows = json.loads("".join(texts))
    except (ValueError, RecursionError) as error:
        yield Fault(name, "line", getattr(error, "lineno", 1), json_reason(error))
        return
    for number, row in enumerate(rows, 1):
        try:
            yield number, check(object_of(row))
        except BadValue as reason:
            yield Fault(name, "row", number, str(reason))
