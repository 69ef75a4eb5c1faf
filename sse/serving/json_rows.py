"""JSON lines to texts and typed columns; a line that cannot be used is set aside with the reason.

A line's types may differ from its neighbours', a shard's may not. So the type of a kept column is
taken from the first lines: integers, numbers, booleans, else text, which holds whatever else comes
as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pyarrow as pa

from sse.common.errors import UserError
from sse.serving.corpus_files import Chunk, Columns, open_file

SNIFFED = 1_000  # lines that decide the types
KEPT = 2_000  # characters of a line that is set aside


class _Bad(Exception):
    """Why a line cannot be used."""


class JsonRows:
    """Lines on their way to a `Chunk`."""

    def __init__(self, url: str, columns: Columns) -> None:
        self.url, self.columns = url, columns
        self.fields = columns.carried()
        self._clear()

    def _clear(self) -> None:
        self.texts: list[str] = []
        self.numbers: list[int] = []
        self.values: list[list[Any]] = [[] for _ in self.fields]
        self.rejected: list[dict[str, Any]] = []
        self.size = 0

    def full(self, rows: int, size: int) -> bool:
        """Whether there are `rows` lines, or about `size` bytes of them."""
        return len(self.texts) + len(self.rejected) >= rows or self.size >= size

    def add(self, number: int, line: bytes) -> None:
        """Take a line, or set it aside; an empty one is passed over."""
        self.size += len(line)
        try:
            record = parse(line, number)
            if record is None:
                return
            text = _text(record, self.columns.text)
            kept = [_value(record, field) for field in self.fields]
        except _Bad as reason:
            raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
            entry = {"file": self.url, "line": number, "reason": str(reason), "raw": raw[:KEPT]}
            self.rejected.append(entry)
            return
        self.texts.append(text)
        self.numbers.append(number)
        for values, value in zip(self.values, kept, strict=True):
            values.append(value)

    def take(self) -> Chunk:
        """What has been added since the last time."""
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(self.values, self.fields, strict=True)
        ]
        kept = self.columns.with_places(arrays, self.url, self.numbers)
        chunk = Chunk(self.texts, kept, self.rejected)
        self._clear()
        return chunk


def parse(line: bytes, number: int) -> dict[str, Any] | None:
    """The object of a line; None of an empty one.

    Raises:
        _Bad: no UTF-8, no JSON, no object.
    """
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _Bad(f"not UTF-8 (byte {error.object[error.start]:#x})") from None
    if not text.strip():
        return None
    try:
        record = json.loads(text.rstrip("\r\n"))
    except RecursionError:
        raise _Bad("JSON nested too deep") from None
    except json.JSONDecodeError as error:
        raise _Bad(f"no JSON at column {error.colno} ({error.msg})") from None
    if not isinstance(record, dict):
        raise _Bad(f"a {type(record).__name__}, expected an object")
    # Only an escape can bring half a surrogate pair, which is no Unicode text.
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Bad("half a surrogate pair, which is no Unicode text") from None
    return record


def _text(record: dict[str, Any], column: str) -> str:
    if column not in record:
        raise _Bad(f"no column '{column}'")
    text = record[column]
    if not isinstance(text, str):
        shown = json.dumps(text, ensure_ascii=False)[:40]
        raise _Bad(f"'{column}' is {shown}, expected a text")
    return text


def _value(record: dict[str, Any], field: pa.Field) -> Any:
    """A kept value, fit for its column's type."""
    value = record.get(field.name)
    if value is None:
        return None
    if pa.types.is_string(field.type):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    kinds = {"int64": (int,), "double": (int, float), "bool": (bool,)}[str(field.type)]
    fits = type(value) in kinds and (type(value) is not int or -(2**63) <= value < 2**63)
    if not fits:
        shown = json.dumps(value, ensure_ascii=False)[:40]
        raise _Bad(f"'{field.name}' is {shown}, expected {field.type} as in the first lines")
    return value


def json_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    """Name and type of the columns in the first lines, and which of them hold texts.

    Raises:
        UserError: no usable line among them.
    """
    kinds: dict[str, set[type]] = {}
    with open_file(url) as file:
        for record in _usable(islice(file, SNIFFED)):
            for name, value in record.items():
                kinds.setdefault(name, set()).add(type(value))
    if not kinds:
        raise UserError(f"{url}: no JSON object in its first {SNIFFED:,} lines")
    types = {name: _type(found - {type(None)}) for name, found in kinds.items()}
    return types, [name for name, found in kinds.items() if str in found]


def _usable(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            record = parse(line, number)
        except _Bad:
            continue
        if record is not None:
            yield record


def _type(kinds: set[type]) -> pa.DataType:
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.bool_() if kinds == {bool} else pa.string()
