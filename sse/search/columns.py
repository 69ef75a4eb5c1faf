"""The user's own columns of tables, kept beside the passages for filters and results.

The first rows that have a column decide its type: the one of Arrow that holds their values. Lists
and objects are kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sse.common.errors import UserError
from sse.search.sources import File, Row
from sse.search.store import BASE

FLAT = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string,
        pa.types.is_temporal)  # fmt: skip


class Columns:
    """The kept columns of an index while rows are written.

    Args:
        table: the index's table; it may have some already, which go on being kept.
        keep: further ones.

    Raises:
        UserError: a name that the index needs itself.
    """

    def __init__(self, table: Any, keep: Sequence[str]) -> None:
        for name in keep:
            if name in BASE and name != "title":
                raise UserError(f"`keep` {name}: the index has a column of that name: rename yours")
        self._table = table
        self._missing = {name for name in keep if name != "title"} - set(table.schema.names)
        own = [name for name in table.schema.names if name not in BASE]
        self.wanted = [*own, *sorted(self._missing)]

    def schema_for(self, rows: Sequence[Row]) -> pa.Schema:
        """The table's schema, to which columns that these rows are the first to have are added."""
        new = []
        for name in sorted(self._missing):
            values = [v for row in rows if (v := row.columns.get(name)) is not None]
            if values:
                new.append(pa.field(name, _type_of(values)))
                self._missing.discard(name)
        if new:
            self._table.add_columns(pa.schema(new))
        return self._table.schema

    def array(self, field: pa.Field, files: Sequence[File], rows: Sequence[Row]) -> pa.Array:
        """The values of one column; UserError for one of another type than the column's."""
        text = pa.types.is_string(field.type)
        values = [row.columns.get(field.name) for row in rows]
        if text:
            values = [_text(value) for value in values]
        try:
            return pa.array(values, field.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            for file, row, value in zip(files, rows, values, strict=True):
                if not _fits(value, field.type):
                    raise UserError(
                        f"{file.name}: {row.unit} {row.position}: '{field.name}' is {value!r}, "
                        f"but the index keeps {field.type}: mend it, or index again with --force"
                    ) from None
            raise

    def check(self) -> None:
        """Raise UserError if no row had a column that was asked for."""
        if self._missing:
            names = ", ".join(sorted(self._missing))
            raise UserError(f"`keep` {names}: no table has such a column")


def _type_of(values: Sequence[Any]) -> Any:
    """The type that holds all values, text where there is none."""
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.string()
    return kind if any(flat(kind) for flat in FLAT) else pa.string()


def _fits(value: Any, kind: Any) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value and value.encode("utf-8", "replace").decode()
    return json.dumps(value, ensure_ascii=False, default=str)
