"""The values of a record, checked: a text, a column, an object; and which column holds the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sse.common.errors import UserError
from sse.text.record_files import BadValue

TEXT_COLUMNS = ("text", "document", "passage", "sentence", "query", "content", "body", "title")


def object_of(value: Any) -> dict[str, Any]:
    """`value` as a JSON object; raises BadValue if it is no object."""
    if not isinstance(value, dict):
        raise BadValue(f"{shown(value)} is no object")
    return value


def value_in(values: dict[str, Any], column: str) -> Any:
    """A record's value in a column; raises BadValue if it has no such column."""
    if column not in values:
        raise BadValue(f"no column '{column}': it has {', '.join(values) or 'none'}")
    return values[column]


def text_in(values: dict[str, Any], column: str) -> str:
    """A record's text in a column; raises BadValue without that column or without a text."""
    return text_of(value_in(values, column), column)


def text_of(value: Any, column: str) -> str:
    """`value` as a text; raises BadValue if it is no text."""
    if not isinstance(value, str):
        raise BadValue(f"'{column}' is {shown(value)}, expected a text")
    return value


def unicode_of(text: str, column: str) -> str:
    """`text`; raises BadValue for half a surrogate pair, which UTF-8 cannot hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValue(f"'{column}' has half a surrogate pair, no Unicode text") from None
    return text


def document_text(title: str, text: str) -> str:
    """Title and text as one string; half a surrogate pair becomes `?`, as tokenizers refuse it."""
    joined = f"{title} {text}".strip() if title else text
    return joined if joined.isascii() else joined.encode("utf-8", "replace").decode("utf-8")


def shown(value: Any) -> str:
    """A JSON value, shortened, for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def pick_column(columns: Sequence[str], name: str, argument: str = "column") -> str:
    """The column of texts to read by default: one with a usual name, or the only one.

    Args:
        columns: the names of the file's columns of texts.
        name: the file.
        argument: the caller's argument that names the column, for the error.

    >>> pick_column(["id", "title", "Text"], "notes.csv")
    'Text'

    Raises:
        UserError: no column or several columns qualify.
    """
    lower = {column.lower(): column for column in reversed(columns)}
    for usual in TEXT_COLUMNS:
        if usual in lower:
            return lower[usual]
    if len(columns) == 1:
        return columns[0]
    raise UserError(
        f"{name}: which column holds the text? It has {', '.join(columns) or 'none'}: "
        f"name one with `{argument}`"
    )
