"""Documents out of files and folders.

`read_documents` reads a folder or a file, `read_document` one file. What cannot be read is counted
in a `LeftOut`, which the caller shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from sse.common.errors import UserError
from sse.documents.code import SOURCE, read_notebook, read_source
from sse.documents.document import Document, Outline
from sse.documents.files import MAX_BYTES, decoded, file_bytes, find_files, reason_of
from sse.documents.html import read_html
from sse.documents.left_out import LeftOut, Unreadable, ending, shown
from sse.documents.line_formats import read_asciidoc, read_markdown, read_org, read_tex, read_text
from sse.documents.office import TYPES, read_office
from sse.documents.rst import read_rst
from sse.documents.tables import TABLES

READERS: dict[str, Callable[[str, Outline], None]] = {
    **dict.fromkeys((".txt", ".text", ".log", ""), read_text),
    **dict.fromkeys((".md", ".markdown", ".mdx"), read_markdown),
    **dict.fromkeys((".rst", ".rest"), read_rst),
    **dict.fromkeys((".adoc", ".asciidoc"), read_asciidoc),
    ".org": read_org,
    ".tex": read_tex,
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    ".ipynb": read_notebook,
    **dict.fromkeys(SOURCE.split(), read_source),
}


def read_documents(
    path: str | os.PathLike[str], left_out: LeftOut, max_bytes: int = MAX_BYTES
) -> Iterator[Document]:
    """The documents of a folder, in the order of their names, or of one file.

    Args:
        path: a folder or a file.
        left_out: counts what is not read; whole once all documents were taken.
        max_bytes: a larger file is left out.

    Raises:
        UserError: no such path, one file that cannot be read, or a folder without a document.
    """
    name, empty = os.fspath(path), True
    for file in find_files(name, left_out):
        if document := read_document(file, left_out, max_bytes):
            empty = False
            yield document
    if empty and os.path.isdir(name):
        what = left_out.summary() if left_out else "it is empty"
        raise UserError(f"{shown(name)}: the folder holds no document: {what}")
    if empty:
        raise UserError(f"{shown(name)}: {next(iter(left_out.counts))[1]}: give another file")


def read_document(
    path: str | os.PathLike[str], left_out: LeftOut, max_bytes: int = MAX_BYTES
) -> Document | None:
    """The document in one file; None where the file was counted in `left_out`."""
    name = os.fspath(path)
    try:
        return _read(name, max_bytes)
    except Unreadable as reason:
        left_out.add(name, str(reason))
    except OSError as error:
        left_out.add(name, reason_of(error))
    return None


def _read(path: str, max_bytes: int) -> Document:
    kind = ending(path)
    if kind in TABLES:
        raise Unreadable("a table of rows")
    if kind not in READERS and kind not in TYPES:
        raise Unreadable("no known format")
    outline, data = Outline(), file_bytes(path, max_bytes)
    if kind in TYPES:
        read_office(data, kind, outline)
    else:
        READERS[kind](decoded(data), outline)
    name = os.path.basename(path)
    document = outline.document(path, os.path.splitext(name.removesuffix(".gz"))[0])
    if not document.sections:
        raise Unreadable("without text")
    return document
