"""What is indexed: the files of a folder, or one file, and the rows that each gives.

- A document gives its passages, a table (jsonl, csv, tsv, parquet) a row for each of its rows.
- A file is told apart from its earlier contents by a hash of its bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sse.common.errors import UserError
from sse.documents.document import Passage
from sse.documents.files import MAX_BYTES, find_files, reason_of
from sse.documents.left_out import LeftOut, ending, shown
from sse.documents.passages import passages
from sse.documents.read import read_document
from sse.documents.tables import TABLES
from sse.search.store import Settings
from sse.text.records import read_records

HASH_BYTES = 16
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class File:
    """A file: the folder that was indexed, the path below it, and the hash of the bytes."""

    source: str
    path: str
    hash: str

    @property
    def name(self) -> str:
        """The whole path."""
        return os.path.join(self.source, self.path)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a row of the index records of it."""
        return self.source, self.path, self.hash


@dataclass(frozen=True)
class Row:
    """One row of the index, without its vector."""

    text: str  # title, headings and text: what is encoded and searched for words
    title: str
    heading: str
    position: int
    unit: str
    columns: dict[str, Any] = field(default_factory=dict)


def find(source: str, roots: Sequence[str], left_out: LeftOut) -> tuple[str, list[File]]:
    """The whole path of `source`, and its files with their hashes.

    Args:
        source: a folder or a file.
        roots: the folders that the index holds already; one that `source` lies in stays the
            `source` of its files, so that a part of a folder can be updated alone.
        left_out: counts files that cannot be read.

    Raises:
        UserError: no such path, or a folder without a readable file.
    """
    scope = os.path.abspath(source)
    own = scope if os.path.isdir(scope) else os.path.dirname(scope)
    root = next((root for root in roots if lies_in(scope, root)), own)
    files = []
    for name in find_files(scope, left_out):
        try:
            if not os.path.isfile(name):
                left_out.add(name, "no plain file")
                continue
            if own == scope and ending(name) not in TABLES and os.path.getsize(name) > MAX_BYTES:
                left_out.add(name, f"above {MAX_BYTES >> 20} MiB")  # it would be hashed in vain
                continue
            files.append(File(root, os.path.relpath(name, root), content_hash(name)))
        except OSError as error:
            left_out.add(name, reason_of(error))
    if not files:
        reason = left_out.summary() if left_out else "it is empty"
        raise UserError(f"{shown(source)}: no file to index: {reason}")
    return scope, files


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is `folder` or lies below it; both are whole paths."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def content_hash(path: str) -> str:
    """A hash of a file's bytes, in hexadecimal; OSError where it cannot be read.

    Bytes that another program appends meanwhile do not count, or a growing log would never end.
    """
    whole = hashlib.blake2b(digest_size=HASH_BYTES)
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while block := file.read(min(BLOCK, left)):
            whole.update(block)
            left -= len(block)
    return whole.hexdigest()


def rows_of(
    file: File, settings: Settings, keep: Sequence[str], left_out: LeftOut
) -> Iterator[Row]:
    """The rows of one file, in its order; none where it is counted in `left_out`.

    Args:
        file: the file.
        settings: those of the index.
        keep: columns of tables for `Row.columns`; a table may lack them.
        left_out: counts the file, if it cannot be read, and rows without text.

    Raises:
        UserError: a broken row of a table.
    """
    if settings.form or ending(file.name) in TABLES:
        yield from _table_rows(file, settings, keep, left_out)
        return
    document = read_document(file.name, left_out)
    if document is None:
        return
    for passage in passages(document, settings.size, settings.overlap):
        yield Row(
            passage.with_headings(), passage.title, passage.heading, passage.position,
            document.unit,
        )  # fmt: skip


def _table_rows(
    file: File, settings: Settings, keep: Sequence[str], left_out: LeftOut
) -> Iterator[Row]:
    """The rows of a table; a column `title` is the title."""
    wanted = list(dict.fromkeys(["title", *keep]))
    for record in read_records(file.name, settings.form, settings.column, wanted, may_lack=True):
        text = record.text.encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8
        if not text.strip():
            left_out.add(file.name, "rows without text")
            continue
        columns = record.columns
        title = columns.get("title") if settings.column != "title" else None
        title = title if isinstance(title, str) and title != text else ""
        kept = {name: columns[name] for name in keep if name in columns}
        position = int(re.split("[:#]", record.where)[-1])
        whole = Passage(text, file.path, title, "", position, 0).with_headings()
        yield Row(whole, title, "", position, "row", kept)
