"""A document becomes passages: pieces of its sections, cut between paragraphs and sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sse.common.errors import UserError
from sse.documents.document import SEPARATOR, Document, Paragraph, Passage

SIZE = 1_000  # characters
OVERLAP = 0
# A sentence ends at a mark before a blank and no small letter, at a full-width mark, or where the
# next line begins an item of a list.
_SENTENCE = re.compile(
    r"(?<=[.!?])[\"')\]]*\s+(?=[^\sa-z])|(?<=[。！？])|\n(?=[ \t]*(?:[-*+•]|\d+[.)])\s)"
)
_LOWER = re.compile(r"(?<=[.!?])[\"')\]]*\s+")  # in a text that has no capital


def passages(document: Document, size: int = SIZE, overlap: int = OVERLAP) -> Iterator[Passage]:
    """The passages of a document, in order.

    A passage holds one paragraph or several of the same section, `size` characters at most. A
    longer paragraph is cut between sentences, a longer sentence between words.

    Args:
        document: the document.
        size: characters of a passage at most.
        overlap: characters, at most, that a passage repeats from the end of the one before in its
            section. Whole sentences are repeated.

    Raises:
        UserError: a size below 50, or an overlap that is not between 0 and half the size.
    """
    if size < 50:
        raise UserError(f"size is {size}: give at least 50 characters")
    if not 0 <= overlap <= size // 2:
        raise UserError(f"overlap is {overlap}: give 0 to half the size ({size // 2})")
    index = 0
    for section in document.sections:
        heading = SEPARATOR.join(section.headings)
        for text, position in _packed(section.paragraphs, size, overlap):
            yield Passage(text, document.path, document.title, heading, position, index)
            index += 1


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with what follows its last mark up to the next.

    >>> sentences("Feed it daily. Keep it cold! Is it sour?")
    ['Feed it daily. ', 'Keep it cold! ', 'Is it sour?']
    """
    marks = _SENTENCE if not text.islower() else _LOWER
    ends = [match.end() for match in marks.finditer(text)]
    bounds = [0, *ends, len(text)]
    return [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False) if a < b]


def _packed(
    paragraphs: tuple[Paragraph, ...], size: int, overlap: int
) -> Iterator[tuple[str, int]]:
    """(text, position) of each passage of a section."""
    held: list[tuple[str, int]] = []  # pieces of the open passage
    length = fresh = 0  # characters in it; how many pieces are not repeated ones
    for piece, position in _pieces(paragraphs, size):
        if fresh and length + len(piece) > size:
            yield _text(held), held[0][1]
            held = _tail(held, min(overlap, size - len(piece)))
            length, fresh = sum(len(text) for text, _ in held), 0
        held.append((piece, position))
        length, fresh = length + len(piece), fresh + 1
    if fresh:
        yield _text(held), held[0][1]


def _text(pieces: list[tuple[str, int]]) -> str:
    return "".join(text for text, _ in pieces).strip()


def _tail(pieces: list[tuple[str, int]], length: int) -> list[tuple[str, int]]:
    """The last pieces, or the last sentences of the last piece, of `length` characters at most."""
    tail: list[tuple[str, int]] = []
    for text, position in reversed(pieces):
        for sentence in reversed(sentences(text)):
            length -= len(sentence)
            if length < 0:
                return tail
            line = position + text[: text.rindex(sentence)].count("\n")
            tail.insert(0, (sentence, line))
    return tail


def _pieces(paragraphs: tuple[Paragraph, ...], size: int) -> Iterator[tuple[str, int]]:
    """The paragraphs, each with an empty line behind it; those above `size` in several pieces."""
    for paragraph in paragraphs:
        whole = paragraph.text + "\n\n"
        if len(paragraph.text) <= size:
            yield whole, paragraph.position
            continue
        line = paragraph.position
        parts = whole.splitlines(keepends=True) if paragraph.code else sentences(whole)
        for part in parts:
            for cut in _cut(part, size):
                yield cut, line
                line += cut.count("\n")


def _cut(text: str, size: int) -> Iterator[str]:
    """The text in pieces of `size` characters at most, cut at blanks where there are some."""
    start, end = 0, len(text.rstrip())
    while end - start > size:
        half, stop = start + size // 2, start + size
        at = max(text.rfind(" ", half, stop), text.rfind("\n", half, stop)) + 1 or stop
        yield text[start:at]
        start = at
    yield text[start:]
