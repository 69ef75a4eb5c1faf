"""PDF, Word, OpenDocument and EPUB, read by kreuzberg (the extra `documents`).

kreuzberg gives Markdown with the headings, so the rest is as for a Markdown file. It is one package
without dependencies and under the MIT licence; docs/train.md compares it with others.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable

from sse.common.errors import MissingExtra, import_extra
from sse.documents.document import Outline
from sse.documents.left_out import Unreadable
from sse.documents.line_formats import read_markdown

LIBRARY = "kreuzberg"
TYPES = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".epub": "application/epub+zip",
}
UNPACKED = 256 << 20  # bytes that the parts of a file may unpack to: a small one may hold terabytes
SECONDS = 60  # for one file
AHEAD = 20  # pages that are looked through for the next paragraph


def read_office(data: bytes, kind: str, outline: Outline) -> None:
    """Put the title, headings and paragraphs of a file of `TYPES` into `outline`.

    A position is a page of a PDF, else the number of the paragraph.

    Raises:
        Unreadable: a password, a broken file, parts that unpack to too much, no extra `documents`.
    """
    try:
        reader = import_extra(LIBRARY)
    except MissingExtra:
        raise Unreadable("not read without the extra 'documents'") from None
    if kind != ".pdf":
        _check_parts(data)
    config = reader.ExtractionConfig(
        output_format="markdown",
        use_cache=False,  # it would make a folder where the user stands
        pages=reader.PageConfig(extract_pages=True) if kind == ".pdf" else None,
        extraction_timeout_secs=SECONDS,
    )
    try:
        result = reader.extract_bytes_sync(data, TYPES[kind], config)
    except reader.KreuzbergError as error:
        if "password" in str(error) or "encrypt" in str(error):
            raise Unreadable("encrypted") from None
        if isinstance(error, reader.ExtractionTimeoutError):
            raise Unreadable(f"not read within {SECONDS} s") from None
        raise Unreadable("broken") from None
    if kind == ".pdf":
        outline.unit = "page"
        outline.place = _page_finder([str(page["content"]) for page in result.pages or []])
    else:
        outline.unit = "paragraph"
        outline.place = _counter()
    outline.title = str(result.metadata.get("title") or "")
    read_markdown(result.content, outline)


def _check_parts(data: bytes) -> None:
    try:
        parts = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error):
        raise Unreadable("broken") from None
    if any(part.flag_bits & 1 for part in parts):
        raise Unreadable("encrypted")
    if sum(part.file_size for part in parts) > UNPACKED:
        raise Unreadable(f"above {UNPACKED >> 20} MiB unpacked")


def _counter() -> Callable[[str, int], int]:
    count = 0

    def place(text: str, line: int) -> int:
        nonlocal count
        count += 1
        return count

    return place


def _page_finder(pages: list[str]) -> Callable[[str, int], int]:
    """Finds the page of each paragraph by its first letters; paragraphs come in order."""
    letters = [_letters(page) for page in pages]
    current = 0

    def place(text: str, line: int) -> int:
        nonlocal current
        key = _letters(text)[:40]
        ahead = range(current, min(current + AHEAD, len(letters)))
        current = next((i for i in ahead if key in letters[i]), current)
        return current + 1

    return place


def _letters(text: str) -> str:
    return "".join(re.findall(r"\w", text))
