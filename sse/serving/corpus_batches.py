"""The records of a corpus in batches: texts, further columns, and rejected records.

A record that cannot be encoded is rejected: it is set aside with its place and the reason. A file
that cannot be read is an error.
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
from sse.text.records import json_records
from sse.text.values import pick_column, shown, text_in, unicode_of

VECTOR = "vector"  # the shards' column of vectors
PLACES = [("file", pa.string()), ("row", pa.int64())]  # columns in the place of ids
FIRST_LINES = 1_000  # they decide the types of JSON's columns


@dataclass(frozen=True)
class Batch:
    """Texts to encode at once, the columns beside them, and the records rejected meanwhile."""

    texts: list[str]
    columns: pa.Table
    rejected: list[dict[str, Any]]


@dataclass(frozen=True)
class CorpusColumns:
    """The columns of a corpus and of its shards."""

    text: str  # the input's column of texts
    schema: pa.Schema  # the shards' columns beside the vector
    places: bool  # whether these begin with `PLACES`, as the input has no ids

    def from_file(self) -> list[pa.Field]:
        """The columns of `schema` that come from the input file."""
        return list(self.schema)[len(PLACES) if self.places else 0 :]

    def table(self, arrays: list[Any], url: str, numbers: Sequence[int]) -> pa.Table:
        """The table of `schema`: the columns `from_file` as `arrays`, for rows with `numbers`."""
        if self.places:
            files = pa.array([url] * len(numbers), pa.string())
            arrays = [files, pa.array(numbers, pa.int64()), *arrays]
        return pa.table(arrays, schema=self.schema)


def find_columns(
    files: Sequence[InputFile], text: str | None, identity: str | None, keep: Sequence[str]
) -> CorpusColumns:
    """The columns of a corpus, by its first file.

    Args:
        files: the corpus.
        text: column of the texts; by default `text` or another usual name, or the only one.
        identity: column of the ids; by default `id` or `_id`, otherwise `PLACES`.
        keep: further columns for the shards.

    Raises:
        UserError: a column that is missing or holds no text, or two columns of one name.
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
    names = dict.fromkeys([identity, *keep] if identity else keep)
    fields = ([] if identity else PLACES) + [(name, types[name]) for name in names]
    shard = [*(name for name, _ in fields), VECTOR]
    if len(set(shard)) < len(shard):
        raise UserError(f"{url}: columns {', '.join(shard)} of a shard must differ")
    return CorpusColumns(text, pa.schema(fields), identity is None)


def _parquet_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    with open_parquet(url) as file:
        schema = file.schema_arrow
    return {field.name: field.type for field in schema}, text_columns(schema)


def _json_types(url: str) -> tuple[dict[str, pa.DataType], list[str]]:
    """Names and types of the columns in the first lines, and which of them hold texts.

    Values of one column may differ in type from line to line, but a shard's column has one type:
    integer, number or boolean if all values fit, otherwise text. Other values are written as JSON.
    """
    kinds: dict[str, set[type]] = {}

    def look(values: dict[str, Any]) -> None:
        for name, value in values.items():
            kinds.setdefault(name, set()).add(type(value))

    with open_bytes(url) as file:
        for _ in json_records(islice(numbered(file, url), FIRST_LINES), url, look):
            pass
    if not kinds:
        raise UserError(f"{url}: no JSON object in its first {FIRST_LINES:,} lines")
    types = {name: _type(kinds[name] - {type(None)}) for name in kinds}
    return types, [name for name in kinds if str in kinds[name]]


def _type(kinds: set[type]) -> pa.DataType:
    """The Arrow type that holds values of all these Python types."""
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.bool_() if kinds == {bool} else pa.string()


def read_shard(shard: Shard, columns: CorpusColumns) -> Iterator[Batch]:
    """The records of a shard, batch by batch: at most `ROWS`, about `BYTES` bytes.

    A file that cannot be read raises UserError.
    """
    return (_parquet_batches if shard.kind == "parquet" else _json_batches)(shard, columns)


def _parquet_batches(shard: Shard, columns: CorpusColumns) -> Iterator[Batch]:
    names = list(dict.fromkeys([columns.text, *(field.name for field in columns.from_file())]))
    with open_parquet(shard.url) as file:
        for at, table in tables(file, shard.url, names, range(shard.start, shard.stop)):
            yield _table_batch(shard.url, columns, table, shard.first + at)


def _table_batch(url: str, columns: CorpusColumns, table: pa.Table, first: int) -> Batch:
    texts = texts_of(table.column(columns.text), columns.text)
    arrays = [table.column(field.name).cast(field.type) for field in columns.from_file()]
    beside = columns.table(arrays, url, range(first, first + len(texts)))
    good = [text for text in texts if isinstance(text, str)]
    if len(good) == len(texts):
        return Batch(good, beside, [])
    rejected = [
        {
            "file": url,
            "row": first + at,
            "reason": str(text),
            "kept": beside.slice(at, 1).to_pylist()[0],
        }
        for at, text in enumerate(texts)
        if isinstance(text, BadValue)
    ]
    return Batch(good, beside.filter(pa.array([isinstance(t, str) for t in texts])), rejected)


def _json_batches(shard: Shard, columns: CorpusColumns) -> Iterator[Batch]:
    fields = columns.from_file()
    size = 0  # characters of the batch; faults are few per batch and short

    def check(values: dict[str, Any]) -> tuple[str, list[Any]]:
        nonlocal size
        text = unicode_of(text_in(values, columns.text), columns.text)
        row = [_fitting(values.get(field.name), field) for field in fields]
        size += len(text) + sum(len(value) for value in row if isinstance(value, str))
        return text, row

    items: list[Any] = []
    with open_bytes(shard.url) as file:
        for item in json_records(numbered(file, shard.url), shard.url, check):
            items.append(item)
            if len(items) >= ROWS or size >= BYTES:
                yield _line_batch(shard.url, columns, items)
                items, size = [], 0
    yield _line_batch(shard.url, columns, items)


def _line_batch(url: str, columns: CorpusColumns, items: Sequence[Any]) -> Batch:
    good = [item for item in items if not isinstance(item, Fault)]
    arrays = [
        pa.array([row[at] for _, (_, row) in good], field.type)
        for at, field in enumerate(columns.from_file())
    ]
    rejected = [
        {"file": url, "line": fault.number, "reason": fault.reason, "raw": fault.raw}
        for fault in items
        if isinstance(fault, Fault)
    ]
    texts = [text for _, (text, _) in good]
    return Batch(texts, columns.table(arrays, url, [number for number, _ in good]), rejected)


def _fitting(value: Any, field: pa.Field) -> Any:
    """`value` as the column's type holds it; raises BadValue if it does not fit."""
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
