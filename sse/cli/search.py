"""`sse search`: hits of an index on a terminal, or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict

from sse.cli.options import Run, add_no_fast
from sse.common.ranges import real, whole
from sse.common.terminal import clean, is_terminal, linked, marked
from sse.documents.document import SEPARATOR
from sse.search.hits import Hit
from sse.search.index import MODES, Index
from sse.search.snippets import matches, snippets

INDENT = " " * 5


def search(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse search`."""
    parser.description = (
        "Search an index of 'sse index'. Without QUERY, type queries at a prompt, or give one per\n"
        "line on standard input."
    )
    parser.epilog = (
        "examples:\n"
        '  sse search notes.sse "how to restart the server" -k 5\n'
        '  sse search notes.sse "undo a commit" --where "path LIKE \'git/%\'"\n'
        "  sse search notes.sse\n"
        "  sse search notes.sse --json < queries.txt > results.jsonl\n"
    )
    add = parser.add_argument
    add("index", metavar="NAME", help="the index: a folder, or a URL")
    add("query", metavar="QUERY", nargs="*")
    add("-k", type=whole(1), default=10, help="results per query (default: 10)")
    add("--mode", choices=MODES, default="hybrid",
        help="by meaning (dense), by words (keyword), or both (default: hybrid)")  # fmt: skip
    add("--where", metavar="SQL", help="a condition on path, title, heading, text, kept columns")
    add("--least", type=real(), metavar="SCORE",
        help="the least cosine of a hit, with --mode keyword the least BM25 score")  # fmt: skip
    add("--passages", action="store_true", help="several hits of one document, not the best alone")
    add("-m", "--model", metavar="DIR", help="folder of the model (default: the index's own)")
    add_no_fast(parser)
    add("--full", action="store_true", help="whole passages, not snippets")
    add("--json", action="store_true", help="one JSON object per query")
    add("--oversampling", help=argparse.SUPPRESS)  # of older versions
    return _search


def _search(args: argparse.Namespace) -> None:
    if args.oversampling:
        sys.stderr.write("warning: --oversampling does nothing any more: searches are exact\n")
    opened = Index(args.index, args.model, fast=not args.no_fast)
    queries = iter([" ".join(args.query)]) if args.query else _queries(len(opened))
    for query in queries:
        start = time.perf_counter()
        hits = opened.search([query], args.k, args.mode, args.where, args.least,
                             not args.passages)[0]  # fmt: skip
        seconds = time.perf_counter() - start
        if args.json:
            told = {"query": query, "seconds": round(seconds, 6), "hits": list(map(asdict, hits))}
            # A terminal gets escapes for all but ASCII: texts may hold what commands it.
            line = json.dumps(told, ensure_ascii=sys.stdout.isatty(), default=str) + "\n"
        else:
            line = _shown(query, hits, opened, args.full)
        sys.stdout.write(line)
        sys.stdout.flush()


def _shown(query: str, hits: list[Hit], opened: Index, full: bool) -> str:
    """The hits for reading: place, title and headings, and a snippet with marked words."""
    if not hits:
        return "nothing found\n"
    fancy = is_terminal()
    texts = [hit.text for hit in hits]
    if not full:
        texts = snippets(texts, query, opened.model)
    lines = []
    for hit, text in zip(hits, texts, strict=True):
        place = clean(hit.where)
        if fancy and os.path.exists(hit.file):
            place = linked(place, hit.file)
        further = [place.removeprefix(hit.where.rstrip("0123456789")) for place in hit.more]
        also = clean(f" (also {', '.join(further)})") if further else ""
        lines.append(f"{hit.rank:3}. {hit.score:.3f}  {place}{also}")
        above = clean(SEPARATOR.join(filter(None, (hit.title, hit.heading))))
        body = clean(text, one_line=not full).splitlines()
        lines += [_line(part, query, fancy) for part in (above, *body) if part]
    return "".join(f"{line}\n" for line in lines)


def _line(text: str, query: str, fancy: bool) -> str:
    """A line of a hit; its indent keeps it from looking like another hit."""
    if not fancy:
        return INDENT + text
    width = max(shutil.get_terminal_size().columns - len(INDENT), 20)
    out = []
    for part in textwrap.wrap(text, width) or [""]:
        at, pieces = 0, []
        for start, end in matches(part, query):
            pieces += [part[at:start], marked(part[start:end])]
            at = max(at, end)
        out.append(INDENT + "".join([*pieces, part[at:]]))
    return "\n".join(out)


def _queries(size: int) -> Iterator[str]:
    """Queries typed at a prompt, or the lines of a pipe."""
    if not sys.stdin.isatty():
        for line in sys.stdin.buffer:
            if query := line.decode("utf-8", "replace").strip():
                yield query
        return
    sys.stderr.write(f"{size:,} passages. An empty line ends.\n")
    while query := _prompt():
        yield query


def _prompt() -> str:
    try:
        return input("query> ").strip()
    except EOFError:
        return ""
