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
from sse.data.set_spec import SetSpec, is_role
from sse.text.bad_rows import fault
from sse.text.contents import contents

ANCHORS = ("anchor", "query", "question")
POSITIVES = ("positive", "pos", "document", "passage", "answer", "text")
NEGATIVE = re.compile(r"negative.*|(hard_?)?neg(ative)?s?(_.*|\d+)?", re.IGNORECASE)
ID = re.compile(r"(.*_)?(id|idx|index)", re.IGNORECASE)
RUN = 65_536  # rows of a table that is checked at once
MIN_ROWS = 2  # one row has nothing to be contrasted with
SAMPLE, SAMPLE_CHARACTERS = 500, 100  # rows, and characters of each, that tell what a column holds
NAMED_COLUMNS = 12  # of those that are ignored; a line counts the rest

# What a column of strings holds, and what may stand under a usual name.
LISTS = "lists of texts"
USUAL = ("texts", "ids", "labels", "nothing", "mixed", LISTS)
STRINGS = (*USUAL, "numbers", "dates")


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


@dataclass(frozen=True)
class Chosen:
    """The columns that are used, anchor and positive first, and what to say about all of them."""

    columns: list[Column]
    remarks: list[str]  # on columns that are used
    ignored: list[str]  # names of the others, with what they hold

    def account(self, roles: Sequence[str]) -> str:
        """One line: what is taken as each of `roles`, what of it is a guess, what is ignored."""
        pairs = zip(roles, self.columns, strict=True)
        parts = [", ".join(f"{role} <- {column.label}" for role, column in pairs), *self.remarks]
        if self.ignored:
            more = len(self.ignored) - NAMED_COLUMNS
            rest = f" and {more} more" if more > 0 else ""
            parts.append(f"ignored: {', '.join(self.ignored[:NAMED_COLUMNS])}{rest}")
        return "; ".join(parts)


def choose_columns(label: str, files: Sequence[Path], spec: SetSpec, dataset: Any) -> Chosen:
    """The columns of a `datasets.Dataset` to use.

    Too few rows, a missing column, a null or a value that is not text raise UserError. The
    error calls the set `label` and names the first bad row of its local `files`.
    """
    if len(dataset) < MIN_ROWS:
        few = "only 1 row" if len(dataset) else "no rows"
        raise UserError(
            f"{label}: {fault(files) or few}; contrastive training needs at least {MIN_ROWS} rows"
        )
    chosen = name_columns(label, spec, dataset)
    _check(label, files, dataset, chosen.columns)
    return chosen


def name_columns(label: str, spec: SetSpec, dataset: Any) -> Chosen:
    """The columns by their names and a sample of their values; the other rows are not looked at."""
    names, named = dataset.column_names, dict(spec.columns or {})
    for role, name in named.items():
        if name not in names:
            raise UserError(f"{label}: no column {name!r} for {role}; it has {', '.join(names)}")
    held = _held(dataset)
    pair, remarks = _pair(label, named, held)
    negatives = [named[role] for role in sorted(named, key=_order) if role.startswith("negative")]
    if not negatives:
        negatives = [
            name
            for name in sorted(held, key=_order)
            if NEGATIVE.fullmatch(name)
            and name not in pair
            and held[name] in (STRINGS if is_role(name) else USUAL)
        ]
    columns = []
    for role, name in zip(("anchor", "positive"), pair, strict=True):
        place = None
        if held[name] == LISTS:
            _check_lists(label, name, dataset, "text")
            place = 0
            remarks.append(f"of the lists in {name} the first texts only")
        columns.append(Column(role, name, place))
    columns += _negatives(label, spec.negatives, dataset, negatives)
    used = {column.name for column in columns}
    used |= set(score_names(columns)) if len(columns) > len(pair) else set()
    ignored = [text for name, text in _described(held).items() if name not in used]
    return Chosen(columns, remarks, ignored)


def score_names(columns: Sequence[Column]) -> list[str]:
    """Names of the columns of a teacher's scores: of the positive, then of each negative."""
    return ["score", *(f"score_{column.label}" for column in columns[2:])]


def _held(dataset: Any) -> dict[str, str]:
    """What each column holds, by its type and a sample of its values: see `contents`."""
    step = max(1, len(dataset) // SAMPLE)
    sample = dataset.select(range(0, len(dataset), step)).with_format("arrow")[:]
    held = {}
    for field in dataset.features.arrow_schema:
        kind = field.type
        if type(dataset.features[field.name]).__name__ == "Json":
            held[field.name] = "mixed"  # so `datasets` keeps a column of mixed types
        elif _is_text(kind):
            try:
                short = pc.utf8_slice_codeunits(sample.column(field.name), 0, SAMPLE_CHARACTERS)
                held[field.name] = contents(short.to_pylist())
            except (pa.ArrowInvalid, UnicodeDecodeError):  # `_check` names the row
                held[field.name] = "texts"
        elif _is_list(kind):
            held[field.name] = LISTS if _is_text(kind.value_type) else f"lists of {kind.value_type}"
        else:
            held[field.name] = str(kind).split("<")[0]
    return held


def _pair(
    label: str, named: dict[str, str], held: dict[str, str]
) -> tuple[tuple[str, str], list[str]]:
    """Names of the anchor's and the positive's column, and remarks on them.

    Named columns and those called `anchor` and `positive` are taken whatever they hold. Columns
    with other usual names must not hold numbers or dates. A guess must be of text.
    """
    lower = {name.lower(): name for name in reversed(held)}

    def known(role: str, aliases: Sequence[str]) -> str | None:
        if role in named:
            return named[role]
        names = [lower[alias] for alias in aliases if alias in lower]
        usual = (name for name in names if name.lower() == role or held[name] in USUAL)
        return next(usual, None)

    pair = {"anchor": known("anchor", ANCHORS), "positive": known("positive", POSITIVES)}
    free = [
        name
        for name, kind in held.items()
        if kind == "texts"
        and name not in (*pair.values(), *named.values())
        and not NEGATIVE.fullmatch(name)
        and not ID.fullmatch(name)
    ]
    odd = ("ids", "labels", "numbers", "dates", "nothing")
    taken = [name for name in pair.values() if name]
    remarks = [f"{name} holds {held[name]}" for name in taken if held[name] in odd]
    guessed = []
    for role, name in pair.items():
        if name is None and free:
            guessed.append(free[0])
            pair[role] = free.pop(0)
    if guessed:
        remarks.append(f"guessed: {', '.join(guessed)}")
    anchor, positive = pair["anchor"], pair["positive"]
    if anchor is None or positive is None:
        raise UserError(
            f"{label}: a pair needs two columns of text; it has "
            f"{', '.join(_described(held).values()) or 'none'}; name two with `anchor` and "
            "`positive`, or give texts without pairs to `documents`"
        )
    return (anchor, positive), remarks


def _described(held: dict[str, str]) -> dict[str, str]:
    """{name: the name with what the column holds, unless that is texts}."""
    return {name: name + f" ({kind})" * (kind != "texts") for name, kind in held.items()}


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
        shortest = _check_lists(label, name, dataset, "negative")
        columns += [Column("negative", name, place) for place in range(shortest)]
    return columns if most is None else columns[:most]


def _check_lists(label: str, name: str, dataset: Any, what: str) -> int:
    """The length of the shortest list of a column; UserError where it is empty."""
    shortest, row = _shortest(dataset.select_columns([name]))
    if not shortest:
        none = ", or use none with ?negatives=0" if what == "negative" else ""
        raise UserError(
            f"{label}: row {row + 1}: {name!r} is an empty list; give every row a {what}{none}"
        )
    return shortest


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
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _holds_text(kind: pa.DataType) -> bool:
    return _is_text(kind.value_type if _is_list(kind) else kind)
