"""The records of a corpus in batches: texts, columns carried through, and what is set aside.

A record that cannot be encoded is set aside with its place and the reason; a file that cannot be
read is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from sse.common.errors import UserError
from sse.serving.corpus_files import InputFile, Shard
from sse.text.parquet_tables import BYTES, ROWS, open_parquet, tables, text_columns, texts_of
from sse.text.record_files import BadValue, Fault, numbered, open_bytes
from sse.text.records import json_records, pick_column, shown, text_in, unicode_of

VECTOR = "vector"  # name of the shards' column of vectors
PLACES = (("file", pa.string()), ("row", pa.int64()))
SNIFFED = 1_000  # lines that decide the types of JSON's columns


@dataclass(frozen=True)
class Batch:
    """Texts encoded at once, the columns kept beside them, and what was set aside on the way."""

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


def find_columns(
    files: Sequence[InputFile], text: str | None, identity: str | None, keep: Sequence[str]
) -> Columns:
    """What to read and what to carry through, by the first file.

    Args:
        files: the corpus.
        text: column of the texts; by default `text` or another usual name, or the only one.
        identity: column of the ids; by default `id` or `_id`, or else file and row.
        keep: further columns to carry through.

    Raises:
        UserError: a column that is missing or holds no text, or names of columns that clash.
    """
    url = files[0].url
    types, texts = _json_types(url) if files[0].kind == "json" else _parquet_types(url)
    for name in (text, identity, *keep):
        if name is not None and name not in types:
            raise UserError(f"{url}: no column '{name}': it has {', '.join(types)}")
    text = text or pick_column(texts, url, "text")
    if text not in texts:
        raise UserError(f"{url}: '{text}' holds {types[text]}, expected texts")
    identity = identity or next((name for name in ("id", "_id") if name in types), None)
    names = dict.fromkeys([*([identity] if identity else []), *keep])
    fields = [*([] if identity else PLACES), *((name, types[name]) for name in names)]
    written = [*(name for name, _ in fields), VECTOR]
    if len(set(written)) < len(written):
        raise UserError(f"{url}: columns {', '.join(written)} of a shard must differ")
    return Columns(text, pa.schema(fields), identity is None)


def _parquet_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    with open_parquet(url) as file:
        schema = file.schema_arrow
    return {field.name: field.type for field in schema}, text_columns(schema)


def _json_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    """Name and type of the columns in the first lines, and which of them hold texts.

    A line's types may differ from its neighbours', a shard's may not: integers, numbers, booleans,
    else text, which holds whatever else comes as JSON.
    """
    kinds: dict[str, set[type]] = {}

    def look(values: dict[str, Any]) -> None:
        for name, value in values.items():
            kinds.setdefault(name, set()).add(type(value))

    with open_bytes(url) as file:
        for _ in json_records(islice(numbered(file, url), SNIFFED), url, look):
            pass
    if not kinds:
        raise UserError(f"{url}: no JSON object in its first {SNIFFED:,} lines")
    types = {name: _type(seen - {type(None)}) for name, seen in kinds.items()}
    return types, [name for name, seen in kinds.items() if str in seen]


def _type(kinds: set[type]) -> pa.DataType:
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.bool_() if kinds == {bool} else pa.string()


def read_shard(shard: Shard, columns: Columns) -> Iterator[Batch]:
    """The records of a shard, batch by batch: at most `ROWS`, about `BYTES` bytes.

    Raises:
        UserError: the file cannot be read.
    """
    return (_parquet_batches if shard.kind == "parquet" else _json_batches)(shard, columns)


def _parquet_batches(shard: Shard, columns: Columns) -> Iterator[Batch]:
    names = list(dict.fromkeys([columns.text, *(field.name for field in columns.carried())]))
    with open_parquet(shard.url) as file:
        for at, table in tables(file, shard.url, names, range(shard.start, shard.stop)):
            yield _table_batch(shard.url, columns, table, shard.first + at)


def _table_batch(url: str, columns: Columns, table: pa.Table, first: int) -> Batch:
    texts = texts_of(table.column(columns.text), columns.text)
    carried = [table.column(field.name).cast(field.type) for field in columns.carried()]
    kept = columns.with_places(carried, url, range(first, first + len(texts)))
    good = [text for text in texts if isinstance(text, str)]
    if len(good) == len(texts):
        return Batch(good, kept, [])
    rejected = [
        {
            "file": url,
            "row": first + at,
            "reason": str(text),
            "kept": kept.slice(at, 1).to_pylist()[0],
        }
        for at, text in enumerate(texts)
        if isinstance(text, BadValue)
    ]
    return Batch(good, kept.filter(pa.array([isinstance(t, str) for t in texts])), rejected)


def _json_batches(shard: Shard, columns: Columns) -> Iterator[Batch]:
    fields = columns.carried()

    def check(values: dict[str, Any]) -> tuple[str, list[Any]]:
        text = unicode_of(text_in(values, columns.text), columns.text)
        return text, [_fitting(values.get(field.name), field) for field in fields]

    held: list[Any] = []
    size = 0
    with open_bytes(shard.url) as file:
        for item in json_records(numbered(file, shard.url), shard.url, check):
            held.append(item)
            if isinstance(item, Fault):
                size += len(item.raw)
            else:
                text, kept = item[1]
                size += len(text) + sum(len(value) for value in kept if isinstance(value, str))
            if len(held) >= ROWS or size >= BYTES:
                yield _line_batch(shard.url, columns, held)
                held, size = [], 0
    yield _line_batch(shard.url, columns, held)


def _line_batch(url: str, columns: Columns, items: Sequence[Any]) -> Batch:
    good = [item for item in items if not isinstance(item, Fault)]
    numbers = [number for number, _ in good]
    values = [kept for _, (_, kept) in good]
    arrays = [
        pa.array([kept[at] for kept in values], field.type)
        for at, field in enumerate(columns.carried())
    ]
    rejected = [
        {"file": url, "line": fault.number, "reason": fault.reason, "raw": fault.raw}
        for fault in items
        if isinstance(fault, Fault)
    ]
    texts = [text for _, (text, _) in good]
    return Batch(texts, columns.with_places(arrays, url, numbers), rejected)


def _fitting(value: Any, field: pa.Field) -> Any:
    """A value carried through, fit for its column's type; BadValue if it is not."""
    if value is None:
        return None
    if pa.types.is_string(field.type):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return unicode_of(text, field.name)
    kinds = {"int64": (int,), "double": (int, float), "bool": (bool,)}[str(field.type)]
    fits = type(value) in kinds and (type(value) is not int or -(2**63) <= value < 2**63)
    if not fits:
        expected = f"expected {field.type} as in the first lines"
        raise BadValue(f"'{field.name}' is {shown(value)}, {expected}")
    return value
