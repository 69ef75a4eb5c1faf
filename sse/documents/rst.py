"""reStructuredText: underlined headings, directives, listings.

docutils is not used: it renders a page in tenths of a second, and its directives open other files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sse.documents.document import Outline, joined
from sse.documents.line_formats import UNDERLINE, plain

# The directives whose content is a listing, and those whose content is not for readers.
LISTINGS = ("code", "code-block", "sourcecode", "parsed-literal", "doctest", "testcode", "math")
DROPPED = ("toctree", "image", "figure", "raw", "include", "literalinclude", "contents", "index",
           "highlight", "module", "currentmodule", "automodule", "autoclass", "role", "meta",
           "testsetup", "only", "tabularcolumns", "sectionauthor", "moduleauthor")  # fmt: skip
_DIRECTIVE = re.compile(r"(\s*)\.\.(?:\s+(?:\|[^|]+\|\s+)?([\w:.-]+?)::(?:\s+(.*))?|\s.*|)$")
_MARKS = [
    (r":[\w:+.-]{1,40}:`~?!?([^`<]{1,300}?)(?:\s*<[^`]{0,300}>)?`", r"\1"),
    (r"`([^`<]{1,300}?)\s*<[^`>]{0,900}>`_{1,2}", r"\1"),
    (r"``(.{1,300}?)``", r"\1"),
    (r"(?<![\w`])`([^`]{1,300})`_{0,2}", r"\1"),
    (r"(?<!\w)(\*\*|\*)(?=\S)(.{1,200}?)(?<=\S)\1(?!\w)", r"\2"),
    (r"(?<!\w)\|(\S[^|\n]{0,100}\S)\|(?!\w)", r"\1"),
]


def read_rst(text: str, outline: Outline) -> None:
    """Put the headings and paragraphs of a text in reStructuredText into `outline`."""
    _Reader(text.expandtabs(8).splitlines(), outline).read()


class _Reader:
    def __init__(self, lines: Sequence[str], outline: Outline) -> None:
        self.lines, self.outline = lines, outline
        self.levels: list[str] = []  # kinds of underline, in the order in which they occur
        self.held: list[str] = []  # lines of the open paragraph
        self.start = 0  # its first line

    def read(self) -> None:
        at = 0
        while at < len(self.lines):
            line = self.lines[at]
            if taken := self._heading(at):
                at += taken
            elif match := _DIRECTIVE.match(line):
                self._close()
                at = self._directive(at, len(match[1]), match[2] or "", match[3] or "")
            elif not line.strip():
                literal = bool(self.held) and self.held[-1].rstrip().endswith("::")
                indent = _indent(self.held[-1]) if self.held else 0
                self._close()
                at = self._listing(at + 1, indent) if literal else at + 1
            else:
                self._add(line, at)
                at += 1
        self._close()

    def _heading(self, at: int) -> int:
        """Take a heading, with or without a line above it; the number of its lines, else 0."""
        above = bool(UNDERLINE.fullmatch(self.lines[at].rstrip()))
        title, below = (self._line(at + 1), self._line(at + 2)) if above else (
            self.lines[at].rstrip(), self._line(at + 1))  # fmt: skip
        ruled = UNDERLINE.fullmatch(below)
        same = not above or below == self.lines[at].rstrip()
        if not ruled or not same or len(below) < len(title.strip()) or not re.search(r"\w", title):
            return 0
        if self.held or (not above and title[0] == " "):
            return 0
        kind = below[0] * (1 + above)
        if kind not in self.levels:
            self.levels.append(kind)
        self.outline.heading(self.levels.index(kind) + 1, plain(title, _MARKS))
        return 2 + above

    def _line(self, at: int) -> str:
        return self.lines[at].rstrip() if at < len(self.lines) else ""

    def _directive(self, at: int, indent: int, name: str, argument: str) -> int:
        """Take a directive, a comment or a target; the line behind what is done with it."""
        name = name.rpartition(":")[2]
        if not name or name in DROPPED:
            return self._block(at + 1, indent)
        if name in LISTINGS:
            return self._listing(at + 1, indent)
        if argument:
            self._add(argument, at)
        at += 1
        while re.match(r"\s+:[\w-]+:", self._line(at)):
            at += 1
        self._close()
        return at  # the content is read as text

    def _listing(self, at: int, indent: int) -> int:
        """Take the indented lines from `at` on as code; the line behind them."""
        while at < len(self.lines) and re.fullmatch(r"\s*(?::[\w-]+:.*)?", self.lines[at]):
            at += 1
        end = self._block(at, indent)
        self.outline.paragraph(joined(self.lines[at:end]), at + 1, code=True)
        return end

    def _block(self, at: int, indent: int) -> int:
        """The line behind the block from `at` on that is indented more than `indent`."""
        while at < len(self.lines) and (not self._line(at) or _indent(self.lines[at]) > indent):
            at += 1
        return at

    def _add(self, line: str, at: int) -> None:
        if UNDERLINE.fullmatch(line.strip()) or re.fullmatch(r"\s*[+|=\- ]{4,}", line):
            return  # a rule, or the frame of a table
        self.start = self.start if self.held else at
        self.held.append(line)

    def _close(self) -> None:
        if self.held:
            text = plain(joined(self.held), _MARKS)
            self.outline.paragraph(re.sub(r"\s*::$", ":", text).removeprefix(":"), self.start + 1)
        self.held = []


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
