"""Which columns of a table are the anchor, the positive and the negatives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sse.common.errors import UserError
from sse.data.bad_rows import fault
from sse.data.set_spec import SetSpec

ANCHORS = ("anchor", "query", "question")
POSITIVES = ("positive", "document", "passage", "answer", "text")
RUN = 65_536  # rows of a table that is checked at once
MIN_ROWS = 2  # one row has nothing to be contrasted with


@dataclass(frozen=True)
class Column:
    """Texts of one role: a column of texts, or one place in a column of lists of texts."""

    role: str
    name: str
    place: int | None = None

    @property
    def label(self) -> str:
        """The source as a report names it: `negatives[3]`."""
        return self.name if self.place is None else f"{self.name}[{self.place}]"

    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """The texts in `table`."""
        column = table.column(self.name)
        return column if self.place is None else pc.list_element(column, self.place)


def choose_columns(label: str, files: Sequence[Path], spec: SetSpec, dataset: Any) -> list[Column]:
    """The columns of a `datasets.Dataset` to use, anchor and positive first.

    Too few rows, a missing column, a null or a value that is not text raise UserError. The
    error calls the set `label` and names the first bad row of its local `files`.
    """
    if len(dataset) < MIN_ROWS:
        few = "only 1 row" if len(dataset) else "no rows"
        raise UserError(
            f"{label}: {fault(files) or few}; contrastive training needs at least {MIN_ROWS} rows"
        )
    schema = dataset.features.arrow_schema
    named = dict(spec.columns or {})
    for role, name in named.items():
        if name not in schema.names:
            raise UserError(
                f"{label}: no column {name!r} for {role}; it has {', '.join(schema.names)}"
            )
    pair = _pair(label, schema, named)
    names = [named[role] for role in sorted(named, key=_order) if role.startswith("negative")]
    if not names:
        names = [
            name
            for name in sorted(schema.names, key=_order)
            if name.startswith("negative") and _holds_text(schema.field(name).type)
        ]
    negatives = _negatives(label, spec.negatives, dataset, names)
    columns = [Column("anchor", pair[0]), Column("positive", pair[1]), *negatives]
    _check(label, files, dataset, columns)
    return columns


def score_names(columns: Sequence[Column]) -> list[str]:
    """Names of the columns of a teacher's scores: of the positive, then of each negative."""
    return ["score", *(f"score_{column.label}" for column in columns[2:])]


def _pair(label: str, schema: pa.Schema, named: dict[str, str]) -> tuple[str, str]:
    """Names of the anchor's and the positive's column."""

    def known(role: str, aliases: Sequence[str]) -> str | None:
        lower = {name.lower(): name for name in reversed(schema.names)}
        return named.get(role) or next((lower[name] for name in aliases if name in lower), None)

    anchor, positive = known("anchor", ANCHORS), known("positive", POSITIVES)
    free = [
        name
        for name in schema.names
        if _is_text(schema.field(name).type)
        and name not in (anchor, positive)
        and not re.search(r"^negative|^(.*_)?(id|idx|index)$", name.lower())
    ]
    if anchor is None and free:
        anchor = free.pop(0)
    if positive is None and free:
        positive = free.pop(0)
    if anchor is None or positive is None:
        role = "anchor" if anchor is None else "positive"
        raise UserError(
            f"{label}: no text column for the {role}; it has "
            f"{', '.join(schema.names) or 'none'}; name one with ?{role}=COLUMN"
        )
    return anchor, positive


def _negatives(label: str, most: int | None, dataset: Any, names: Sequence[str]) -> list[Column]:
    """One column per negative; a list column gives as many as its shortest list holds."""
    schema = dataset.features.arrow_schema
    columns: list[Column] = []
    for name in names:
        if most is not None and len(columns) >= most:
            break
        if not _is_list(schema.field(name).type):
            columns.append(Column("negative", name))
            continue
        shortest, row = _shortest(dataset.select_columns([name]))
        if not shortest:
            raise UserError(
                f"{label}: row {row + 1}: {name!r} is an empty list; give every row a "
                "negative, or use none with ?negatives=0"
            )
        columns += [Column("negative", name, place) for place in range(shortest)]
    return columns if most is None else columns[:most]


def _shortest(dataset: Any) -> tuple[int, int]:
    """(length, row) of the shortest list, the first of several; a null counts as empty."""
    shortest, first = [], 0
    for table in dataset.with_format("arrow").iter(RUN):
        lengths = pc.fill_null(pc.list_value_length(table.column(0)), 0).to_numpy()
        at = int(lengths.argmin())
        shortest.append((int(lengths[at]), first + at))
        first += len(table)
    return min(shortest)


def _check(label: str, files: Sequence[Path], dataset: Any, columns: Sequence[Column]) -> None:
    """Raise UserError, with line and value, unless every value of these columns is text."""
    schema = dataset.features.arrow_schema
    names = list(dict.fromkeys(column.name for column in columns))
    for name in names:
        # `datasets` keeps a column of mixed types as JSON.
        json = type(dataset.features[name]).__name__ == "Json"
        if json or not _holds_text(schema.field(name).type):
            kind = schema.field(name).type
            problem = fault(files, names) or f"column {name!r} is {kind}, not text"
            raise UserError(f"{label}: {problem}; mend it or name another column")
    first = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(RUN):
        for column in columns:
            texts = column.of(table)
            try:
                texts.validate(full=True)  # that the bytes are UTF-8
            except pa.ArrowInvalid as error:
                problem = fault(files) or f"rows from {first + 1}: {error}"
                raise UserError(f"{label}: {problem}; save it as UTF-8") from None
            if texts.null_count:
                row = first + int(pc.index(pc.is_null(texts), True).as_py()) + 1
                problem = fault(files, names) or f"row {row}: {column.label!r} is null"
                raise UserError(f"{label}: {problem}; every pair needs both texts")
        first += len(table)


def _order(name: str) -> tuple[str, int]:
    """Sort key: negative, negative_1, negative_2, ..., negative_10."""
    match = re.fullmatch(r"(\D*?)_?(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _holds_text(kind: pa.DataType) -> bool:
    return _is_text(kind.value_type if _is_list(kind) else kind)
