"""The texts of a corpus, whatever holds it: a table of rows, a BEIR collection, a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sse.documents.left_out import LeftOut
from sse.documents.passages import passages
from sse.documents.read import read_documents
from sse.text.record_files import numbered, open_bytes, or_raise
from sse.text.records import json_records, read_records
from sse.text.values import document_text, text_in

BEIR = ("corpus.jsonl", "corpus.jsonl.gz")


def corpus_texts(
    corpus: str | os.PathLike[str],
    form: str | None = None,
    column: str | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[str]:
    """The texts of a corpus, one after another; it may be larger than memory.

    Args:
        corpus: a file for `sse.text.records.read_records`; a folder in the BEIR layout or its
            `corpus.jsonl`, of which title and text are joined; or any other folder, whose
            documents are cut into passages.
        form: the file's format, by default by its name.
        column: the column of the texts.
        left_out: counts the files of a folder that are not read.

    Raises:
        UserError: nothing there, a broken line, a missing column, a folder without a document.
    """
    path = Path(corpus)
    beir = [file for name in BEIR if (file := path / name).is_file()]
    if beir:
        yield from _beir_texts(beir[0])
    elif path.is_dir():
        for document in read_documents(corpus, LeftOut() if left_out is None else left_out):
            yield from (passage.text for passage in passages(document))
    elif path.name in BEIR and path.is_file() and not (form or column):
        yield from _beir_texts(path)
    else:
        yield from (record.text for record in read_records(str(corpus), form, column))


def _beir_texts(path: Path) -> Iterator[str]:
    with open_bytes(str(path)) as file:
        lines = numbered(file, str(path))
        for _, text in or_raise(json_records(lines, str(path), _beir_text)):
            yield text


def _beir_text(values: dict[str, Any]) -> str:
    title = text_in(values, "title") if values.get("title") is not None else ""
    return document_text(title, text_in(values, "text"))
