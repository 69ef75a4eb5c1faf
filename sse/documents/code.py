"""Notebooks and source code."""

from __future__ import annotations

import json
import re
from typing import Any

from sse.documents.document import Outline
from sse.documents.left_out import Unreadable
from sse.documents.line_formats import read_markdown

HEADING = 100  # characters of a definition's first line
# The line that begins a function, class or type in a language of the endings below.
_DEFINITION = re.compile(
    r"(?:(?:pub|public|private|protected|export|default|static|async|abstract|final|inline|unsafe|"
    r"virtual|override|open|data|sealed|constexpr|extern)(?:\([^)]*\))?\s+)*"
    r"(?:def|class|function|func|fn|struct|interface|trait|enum|impl|module|object|sub|namespace|"
    r"record|type|CREATE\s+(?:TABLE|VIEW|FUNCTION))\s+\w"
)
SOURCE = """.py .pyi .js .mjs .ts .tsx .jsx .java .kt .scala .go .rs .c .h .cc .cpp .hpp .cs .swift
    .rb .php .pl .pm .lua .r .jl .sh .bash .zsh .ps1 .sql .hs .ml .ex .exs .erl .clj .el .vim .dart
    .zig .m .f90 .proto .css .scss .toml .yaml .yml .ini .cfg .cmake .mk"""  # endings


def read_source(text: str, outline: Outline) -> None:
    """Source code: a definition that is not indented begins a section; blocks are paragraphs."""
    outline.titled = False
    held: list[str] = []
    start = 1
    for number, line in enumerate(text.splitlines(), 1):
        match = _DEFINITION.match(line)
        if match or not line.strip():
            outline.paragraph("\n".join(held), start, code=True)
            held = []
        if match:
            outline.heading(1, line.rstrip(" \t{:")[:HEADING])
        if line.strip():
            start = start if held else number
            held.append(line)
    outline.paragraph("\n".join(held), start, code=True)


def read_notebook(text: str, outline: Outline) -> None:
    """A Jupyter notebook: its Markdown cells, and its code cells without their outputs."""
    try:
        cells = json.loads(text)["cells"]
        outline.unit = "cell"
        for number, cell in enumerate(cells, 1):
            _read_cell(cell, number, outline)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        raise Unreadable("a broken notebook") from None


def _read_cell(cell: dict[str, Any], number: int, outline: Outline) -> None:
    source = cell.get("source", "")
    text = "".join(source) if isinstance(source, list) else str(source)
    outline.place = lambda text, line: number
    if cell["cell_type"] == "code":
        outline.paragraph(text, number, code=True)
    elif cell["cell_type"] == "markdown":
        read_markdown(text, outline)
