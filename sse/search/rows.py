"""Rows of the table: read which documents it holds, append passages, delete documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sse.search.columns import Columns
from sse.search.sources import File, Row

ROWS, CHARACTERS = 16_384, 64 << 20  # of one commit: the smaller limit holds
DELETED = 2_000  # documents named in one deletion

_WORD = re.compile(r"\w+")

Key = tuple[str, str, str]  # a document: source, path, hash


class Held(NamedTuple):
    """Rows of one document that the table holds."""

    whole: bool
    rows: int


class New(NamedTuple):
    """A row to write."""

    file: File
    part: int  # its number in the document
    row: Row
    last: bool  # whether the document ends with it


def held_documents(table: Any) -> dict[Key, Held]:
    """The documents of a table."""
    keys = ["source", "path", "hash"]
    rows = table.to_table(columns=[*keys, "last"]).group_by(keys)
    grouped = rows.aggregate([("last", "max"), ("last", "count")]).to_pydict()
    places = zip(*(grouped[key] for key in keys), strict=True)
    states = zip(grouped["last_max"], grouped["last_count"], strict=True)
    return {key: Held(*state) for key, state in zip(places, states, strict=True)}


def delete_documents(table: Any, keys: Sequence[Key]) -> None:
    """Commit the deletion of these documents' rows."""
    for start in range(0, len(keys), DELETED):
        some = ", ".join(_sql("\x1f".join(key)) for key in keys[start : start + DELETED])
        table.delete(f"concat(source, '\x1f', path, '\x1f', hash) IN ({some})")


def append_rows(
    table: Any, columns: Columns, new: Sequence[New], vectors: NDArray[np.float32]
) -> None:
    """Commit rows with their vectors (n, dim)."""
    files, parts, rows, lasts = zip(*new, strict=True)
    values: dict[str, Sequence[Any]] = {
        "source": [file.source for file in files],
        "path": [file.path for file in files],
        "hash": [file.hash for file in files],
        "part": parts,
        "last": lasts,
    }
    for name in ("text", "title", "heading", "position", "unit"):
        values[name] = [getattr(row, name) for row in rows]
    values["words"] = [" ".join(dict.fromkeys(_WORD.findall(row.text.lower()))) for row in rows]
    schema = columns.schema_for(rows)
    arrays = []
    for field in schema:
        if field.name == "vector":
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        elif field.name in values:
            arrays.append(pa.array(values[field.name], field.type))
        else:
            arrays.append(columns.array(field, files, rows))
    table.insert(pa.Table.from_arrays(arrays, schema=schema))


def in_commits(rows: Iterator[New]) -> Iterator[list[New]]:
    """The rows of one commit each."""
    while chunk := list(islice(rows, 1)):
        size = len(chunk[0].row.text)
        for new in islice(rows, ROWS - 1):
            chunk.append(new)
            size += len(new.row.text)
            if size > CHARACTERS:
                break
        yield chunk


def with_last(rows: Iterator[Row]) -> Iterator[tuple[Row, bool]]:
    """Each row, and whether it is the last."""
    before = None
    for row in rows:
        if before is not None:
            yield before, False
        before = row
    if before is not None:
        yield before, True


def _sql(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
