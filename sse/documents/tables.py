"""Documents out of a table's rows."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sse.documents.document import Document, Outline
from sse.documents.left_out import ending
from sse.documents.line_formats import read_text
from sse.text.records import read_records

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")


def is_table(path: str) -> bool:
    """Whether this is one file of rows, by its name."""
    return ending(path) in TABLES and not os.path.isdir(path)


def table_documents(path: str) -> Iterator[Document]:
    """A document of each row that has a text: the column `title`, where there is one, and the text.

    A document's path is the file and the row's number. The text's column is found as `sse encode`
    finds it.

    Raises:
        UserError: a broken row, or no column that is taken for the text.
    """
    for record in read_records(path, keep=("title",), may_lack=True):
        outline = Outline()
        read_text(record.text, outline)
        title = record.columns.get("title")
        outline.title = title if isinstance(title, str) else ""
        document = outline.document(record.where, "")
        if document.sections:
            yield document
