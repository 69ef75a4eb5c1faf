"""HTML, with the parser of the standard library: headings, paragraphs, listings.

It reads broken markup without complaint and needs no package.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from sse.documents.document import Outline, one_line

SKIPPED = {"script", "style", "nav", "footer", "aside", "noscript", "template", "svg", "select",
           "button", "iframe", "object", "form"}  # fmt: skip
BLOCKS = {"p", "div", "section", "article", "main", "header", "ul", "ol", "dl", "table", "dd", "dt",
          "blockquote", "figure", "figcaption", "hr", "body", "details", "summary",
          "address"}  # fmt: skip
LINES = {"li", "tr", "br"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
# What generators of documentation call their menus, and the links beside their headings.
_MENU = re.compile(
    r"\b(?:nav\w*|sidebar|\w*sphinxsidebar\w*|breadcrumbs?|headerlink|related|toc|footer|menu)\b",
    re.I,
)


def read_html(text: str, outline: Outline) -> None:
    """Put the title, headings and paragraphs of a page into `outline`.

    Menus, scripts and footers are left out. Where the page marks its main part, only that is read.
    """
    parser = _Parser(outline, bool(re.search(r"<main\b|role=[\"']?main\b", text)))
    parser.feed(text)
    parser.close()
    parser.end_block()


class _Parser(HTMLParser):
    def __init__(self, outline: Outline, main_only: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.outline = outline
        self.outside: str | None = "" if main_only else None  # until the main part begins
        self.skipped: tuple[str, int] | None = None  # tag and depth of what is being left out
        self.main: tuple[str, int] | None = None  # the same of the main part
        self.held: list[str] = []
        self.start = 1
        self.collects = ""  # the tag, where the text is a heading's, a title's or a listing's

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.skipped:
            if tag == self.skipped[0]:
                self.skipped = (tag, self.skipped[1] + 1)
            return
        values = {name: value or "" for name, value in attrs}
        if self.main and tag == self.main[0]:
            self.main = (tag, self.main[1] + 1)
        if self.outside is not None and (tag == "main" or values.get("role") == "main"):
            self.outside, self.main = None, (tag, 1)
        if tag in SKIPPED or (tag in ("div", "ul", "ol", "a", "header") and _is_menu(values)):
            self.end_block() if tag in BLOCKS else None
            self.skipped = (tag, 1)
            return
        if tag in HEADINGS or tag in ("title", "pre"):
            self.end_block()
            self.collects = tag
            self.start = self.getpos()[0]
        elif tag in BLOCKS:
            self.end_block()
        elif tag in LINES:
            self.held.append("\n")
        elif tag in ("td", "th"):
            self.held.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self.skipped:
            if tag == self.skipped[0]:
                left = self.skipped[1] - 1
                self.skipped = (tag, left) if left else None
            return
        if tag == self.collects or tag in BLOCKS:
            self.end_block()
        if self.main and tag == self.main[0]:
            left = self.main[1] - 1
            self.main = (tag, left) if left else None
            if not left:
                self.end_block()
                self.outside = ""

    def handle_data(self, data: str) -> None:
        if self.skipped or (self.outside is not None and self.collects != "title"):
            return
        if not self.held and data.strip():
            self.start = self.getpos()[0]
        if self.held or data.strip():
            self.held.append(data if self.collects == "pre" else re.sub(r"\s+", " ", data))

    def end_block(self) -> None:
        """Hand what was collected to the outline."""
        text, tag = "".join(self.held), self.collects
        self.held, self.collects = [], ""
        if tag == "pre":
            self.outline.paragraph(text.strip("\n"), self.start, code=True)
        elif tag == "title":
            self.outline.title = one_line(text)
        elif tag:
            self.outline.heading(int(tag[1]), text.removesuffix("¶"))
        else:
            lines = map(one_line, text.split("\n"))
            self.outline.paragraph("\n".join(filter(None, lines)), self.start)


def _is_menu(values: dict[str, str]) -> bool:
    named = f"{values.get('class', '')} {values.get('id', '')} {values.get('role', '')}"
    return bool(_MENU.search(named))
