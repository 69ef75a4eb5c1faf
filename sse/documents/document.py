"""A document as titled sections of paragraphs, and the passages it is cut into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SEPARATOR = " > "  # between the headings of a path


@dataclass(frozen=True)
class Paragraph:
    """One block of text."""

    text: str
    position: int  # the line at which it starts, from 1, or what `Document.unit` says
    code: bool = False  # a listing, a table, source code: no prose


@dataclass(frozen=True)
class Section:
    """The paragraphs below one heading, up to the next heading of any level."""

    headings: tuple[str, ...]  # from the topmost to its own, without the document's title
    paragraphs: tuple[Paragraph, ...]


@dataclass(frozen=True)
class Document:
    """One file's text."""

    path: str  # as it was given or found; the folder's own path is its beginning
    title: str
    sections: tuple[Section, ...]
    unit: str = "line"  # what `position` counts: `line`, `page`, `paragraph`, `cell` of a notebook


@dataclass(frozen=True)
class Passage:
    """A piece of one section, of a size that an index takes."""

    text: str
    path: str
    title: str
    heading: str  # the path of headings, as "Install > Linux"; empty above the first heading
    position: int  # where it starts: a line from 1, or what `Document.unit` says
    index: int  # its number within the document, from 0

    def with_headings(self) -> str:
        """Title and headings in a line above the text, for a model that should see both."""
        above = SEPARATOR.join(filter(None, (self.title, self.heading)))
        return f"{above}\n{self.text}" if above else self.text


class Outline:
    """Collects headings and paragraphs in the order of the text, and makes the `Document`."""

    def __init__(self) -> None:
        self.title = ""  # set where a format names one
        self.titled = True  # whether the only top heading may be the title
        self.unit = "line"
        # (text, line) -> position, where that is no line
        self.place: Callable[[str, int], int] = lambda text, line: line
        self._above: list[tuple[int, str]] = []  # (level, text) of the open headings
        self._parts: list[tuple[tuple[tuple[int, str], ...], list[Paragraph]]] = [((), [])]

    def heading(self, level: int, text: str) -> None:
        """Begin a section; a heading closes those of its own level and deeper ones."""
        text = one_line(text)
        if not text:
            return
        while self._above and self._above[-1][0] >= level:
            self._above.pop()
        self._above.append((level, text))
        self._parts.append((tuple(self._above), []))

    def paragraph(self, text: str, line: int, code: bool = False) -> None:
        """Add a paragraph, which starts at `line`, to the open section; blank text adds nothing."""
        if text.strip():
            text = text.strip("\n").rstrip()
            self._parts[-1][1].append(Paragraph(text, self.place(text, line), code))

    def document(self, path: str, name: str) -> Document:
        """The document; its title is the named one, its only top heading, or `name`."""
        headings = [above[-1] for above, _ in self._parts if above]
        top = min((level for level, _ in headings), default=0)
        tops = [text for level, text in headings if level == top]
        first = self.titled and len(tops) == 1 and headings[0] == (top, tops[0])
        title = one_line(self.title) or (tops[0] if first else name)
        sections = []
        for above, paragraphs in self._parts:
            texts = [text for _, text in above]
            if texts and texts[0] == title:
                texts = texts[1:]
            if paragraphs:
                sections.append(Section(tuple(texts), tuple(paragraphs)))
        return Document(path, title, tuple(sections), self.unit)


def one_line(text: str) -> str:
    """The text with every run of blanks as one space."""
    return " ".join(text.split())


def joined(lines: Sequence[str]) -> str:
    """Lines of a paragraph without the indent that all of them share."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    cut = min(indents, default=0)
    return "\n".join(line[cut:].rstrip() for line in lines)
