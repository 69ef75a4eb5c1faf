"""The first bad row of a training file, with its line and value.

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
from sse.text.values import object_of, text_of, unicode_of, value_in


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
    try:
        for item in _records(path, kind, columns):
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


def _records(path: Path, kind: str | None, columns: Sequence[str]) -> Iterator[Any]:
    """Something for each good record, and the faults."""
    if kind == "parquet":
        yield from parquet_tables.tables(parquet_tables.open_parquet(str(path)), str(path))
        return

    def check(values: dict[str, Any]) -> None:
        for name, value in values.items():
            for text in _texts(value):
                if isinstance(text, str):
                    unicode_of(text, name)
        for name in columns:
            for text in _texts(value_in(values, name)):
                text_of(text, name)

    with open_bytes(path) as file:
        lines = numbered(file, str(path))
        if kind == "json":
            yield from _json_rows(lines, str(path), check)
        else:
            yield from csv_records(lines, str(path), check, "\t" if kind == "tsv" else ",")


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _json_rows(
    lines: Iterator[tuple[int, str] | Fault], name: str, check: Check[None]
) -> Checked[None]:
    """The records of JSON lines, or of one JSON array."""
    first = next(lines, None)
    if first is None:
        return iter(())
    array = not isinstance(first, Fault) and first[1].lstrip().startswith("[")
    return (_array if array else json_records)(chain([first], lines), name, check)


def _array(lines: Lines, name: str, check: Check[None]) -> Checked[None]:
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
            check(object_of(row))
        except BadValue as reason:
            yield Fault(name, "row", number, str(reason))
        else:
            yield number, None
