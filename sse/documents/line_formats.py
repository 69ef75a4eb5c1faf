"""Formats that are read line by line: plain text, Markdown, AsciiDoc, Org and LaTeX.

A format is a set of `Rules`: what is a heading, what begins a listing, which lines say nothing to
a reader, and which marks to remove from a paragraph. Only structure matters here, so some lines of
rules per format do; the libraries that render these formats are slow or bring a program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sse.documents.document import Outline, joined

Heading = tuple[int, str, int]  # level, text, number of lines that it takes
Marks = Sequence[tuple[str, str]]  # pattern and replacement
NEVER = re.compile(r"(?!)")
UNDERLINE = re.compile(r"([=\-~^\"'`#*+_:.])\1{2,}")


@dataclass(frozen=True)
class Rules:
    """How a format's lines are told apart."""

    heading: Callable[[Sequence[str], int], Heading | None]  # of lines[at], if it is one
    listing: re.Pattern[str] = NEVER  # the first line of a listing
    ends: Callable[[str, str], bool] = str.startswith  # (line, first line): whether it is the last
    noise: re.Pattern[str] = NEVER  # a line to leave out
    marks: Marks = ()
    tables: tuple[str, ...] = ()  # how each line of a table or listing begins


def underlined(lines: Sequence[str], at: int, marks: str = "=-~^+") -> Heading | None:
    """A title between an empty line and a line of one mark, of the same length."""
    if at + 1 >= len(lines) or lines[at + 1][:1] not in marks or (at and lines[at - 1].strip()):
        return None
    text, below = lines[at].rstrip(), lines[at + 1].rstrip()
    if not UNDERLINE.fullmatch(below) or abs(len(below) - len(text)) > 2 or text[:1] in " \t":
        return None
    return (marks.index(below[0]) + 1, text, 2) if re.search(r"\w", text) else None


def _markdown_heading(lines: Sequence[str], at: int) -> Heading | None:
    match = re.match(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$", lines[at])
    if match:
        return len(match[1]), plain(match[2], MARKDOWN.marks), 1
    below = lines[at + 1].rstrip() if at + 1 < len(lines) else ""
    alone = not at or not lines[at - 1].strip()
    if alone and re.fullmatch(r"=+|-{2,}", below) and re.match(r" {0,3}[^\s>|+*\-]", lines[at]):
        return 1 if below[0] == "=" else 2, plain(lines[at], MARKDOWN.marks), 2
    return None


def _asciidoc_heading(lines: Sequence[str], at: int) -> Heading | None:
    match = re.match(r"(={1,6}|#{1,6})\s+(\S.*?)(?:\s+=+)?\s*$", lines[at])
    return (len(match[1]), match[2], 1) if match else underlined(lines, at)


def _org_heading(lines: Sequence[str], at: int) -> Heading | None:
    match = re.match(r"(\*+)\s+(?:TODO |DONE )?(.*?)(?:\s+:[\w:]+:)?\s*$", lines[at])
    return (len(match[1]), plain(match[2], ORG.marks), 1) if match else None


def _tex_heading(lines: Sequence[str], at: int) -> Heading | None:
    match = re.match(
        r"\s*\\(part|chapter|(?:sub)*section|paragraph)\*?(?:\[.*?\])?\{(.*)\}", lines[at]
    )
    if not match:
        return None
    levels = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph")
    level = levels.index(match[1]) if match[1] in levels else len(levels)
    return level, plain(match[2].partition("}\\label")[0], TEX.marks), 1


def _same(line: str, first: str) -> bool:
    return line.strip().startswith(re.match(r"\s*(`+|~+|\S+)", first)[1])  # type: ignore[index]


def _block_end(line: str, first: str) -> bool:
    r"""`#+end_src` for `#+begin_src`, `\end{verbatim}` for `\begin{verbatim}`."""
    name = re.search(r"begin(_\w+|\{\w+\*?\})", first, re.IGNORECASE)
    return bool(name) and f"end{name[1]}".lower() in line.lower()  # type: ignore[index]


TEXT = Rules(underlined)
MARKDOWN = Rules(
    _markdown_heading,
    listing=re.compile(r"\s*(```|~~~)"),
    ends=_same,
    noise=re.compile(r"[|:\-+=*_ ]{3,}|\s*(?:\[[^\]]+\]:\s.*|:::.*)"),
    marks=[
        (r"!\[([^\]]{0,300})\]\([^)]{0,900}\)", r"\1"),
        (r"\[([^\]]{1,300})\](?:\([^)]{0,900}\)|\[[^\]]{0,300}\])", r"\1"),
        (r"(?<!\w)(\*\*|__|\*|_)(?=\S)(.{1,200}?)(?<=\S)\1(?!\w)", r"\2"),
        (r"<(https?://[^<>]+)>", r"\1"),
        (r"</?[a-zA-Z][^<>]*>", ""),
        (r"`([^`]{1,300})`", r"\1"),
    ],
    tables=("|", "    ", "\t"),
)
ASCIIDOC = Rules(
    _asciidoc_heading,
    listing=re.compile(r"(-{4,}|\.{4,})\s*$"),
    ends=_same,
    noise=re.compile(
        r"\[[^\]]*\]\]?\s*|:[\w!-]+:.*|//.*|(?:include|image|ifn?def|endif)::.*|[=*_+]{4,}\s*|\+\s*"
    ),
    marks=[
        (r"\b(?:link|xref|https?|linkgit)\b:?[^\s\[]{0,300}\[([^\]]{1,300})\]", r"\1"),
        (r"<<[^,<>]{0,300},\s*([^<>]{1,300})>>", r"\1"),
        (r"(?<!\w)([*_`+]{1,2})(?=\S)(.{1,200}?)(?<=\S)\1(?!\w)", r"\2"),
    ],
)
ORG = Rules(
    _org_heading,
    listing=re.compile(r"\s*#\+begin_(?:src|example)", re.IGNORECASE),
    ends=_block_end,
    noise=re.compile(r"\s*(?:#\+\w+.*|#\s.*|:[A-Z_]+:.*)"),
    marks=[
        (r"\[\[[^\]]{0,900}\]\[([^\]]{1,300})\]\]", r"\1"),
        (r"(?<!\w)([*/=~])(?=\S)(.{1,200}?)(?<=\S)\1(?!\w)", r"\2"),
    ],
)
TEX = Rules(
    _tex_heading,
    listing=re.compile(r"\s*\\begin\{(?:verbatim|lstlisting|minted|Verbatim)\*?\}"),
    ends=_block_end,
    noise=re.compile(r"\s*%.*|\s*\\(?:begin|end|maketitle|tableofcontents|newpage|label|centering)\b.*"),
    marks=[
        (r"(?<!\\)%.*", ""),
        (r"~?\\(?:label|cite\w*|(?:eq|page)?ref|index|[vh]space|input|include\w*)\*?"
         r"(?:\[[^\]]{0,200}\]){0,2}\{[^}]{0,300}\}", ""),
        (r"\\item\b", "-"),
        (r"\\href\{[^}]{0,900}\}", ""),
        (r"\\([%&_#$])", r"\1"),
        (r"\\[a-zA-Z]+\*?(?:\[[^\]]{0,200}\])?|[{}]", ""),
        (r"~", " "),
    ],
)  # fmt: skip


def read_text(text: str, outline: Outline) -> None:
    """Plain text; a line above a rule of the same length is a heading."""
    _read(text.splitlines(), outline, TEXT)


def read_markdown(text: str, outline: Outline) -> None:
    """Markdown, with the title of a YAML head; comments are left out."""
    text = re.sub(
        r"<!--(?:(?!<!--).)*?-->", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL
    )
    lines = text.splitlines()
    if lines and lines[0].rstrip() == "---" and "---" in (rest := [x.rstrip() for x in lines[1:]]):
        end = rest.index("---") + 2
        for line in lines[:end]:
            if match := re.match(r"title:\s*[\"']?(.+?)[\"']?\s*$", line):
                outline.title = match[1]
        lines[:end] = [""] * end
    _read(lines, outline, MARKDOWN)


def read_asciidoc(text: str, outline: Outline) -> None:
    """AsciiDoc."""
    _read(text.splitlines(), outline, ASCIIDOC)


def read_org(text: str, outline: Outline) -> None:
    """Org, with its `#+TITLE`."""
    if match := re.search(r"^#\+TITLE:\s*(.+)$", text, re.IGNORECASE | re.MULTILINE):
        outline.title = match[1]
    _read(text.splitlines(), outline, ORG)


def read_tex(text: str, outline: Outline) -> None:
    """LaTeX, with its title; what stands before the document begins is left out."""
    if match := re.search(r"\\title\{([^}]*)\}", text):
        outline.title = plain(match[1], TEX.marks)
    head, begin, body = text.partition("\\begin{document}")
    lines = [""] * head.count("\n") + body.splitlines() if begin else text.splitlines()
    _read(lines, outline, TEX)


def _read(lines: Sequence[str], outline: Outline, rules: Rules) -> None:
    """Put the headings and paragraphs of `lines` into `outline`."""
    at = start = 0  # the line at hand; the first of the open paragraph
    held: list[str] = []

    def close() -> None:
        listing = bool(held) and all(line.startswith(rules.tables) for line in held)
        outline.paragraph(plain(joined(held), rules.marks), start + 1, listing)
        held.clear()

    while at < len(lines):
        line = lines[at]
        if rules.listing.match(line):
            close()
            end = next((i for i in range(at + 1, len(lines)) if rules.ends(lines[i], line)), None)
            if end is not None:
                outline.paragraph(joined(lines[at + 1 : end]), at + 2, code=True)
                at = end + 1
                continue
        if heading := rules.heading(lines, at):
            close()
            outline.heading(heading[0], heading[1])
            at += heading[2]
            continue
        if not line.strip():
            close()
        elif not rules.noise.fullmatch(line):
            start = start if held else at
            held.append(line)
        at += 1
    close()


def plain(text: str, marks: Marks) -> str:
    """The text without the format's marks of emphasis, links and the like."""
    for pattern, replacement in marks:
        text = re.sub(pattern, replacement, text)
    return text
