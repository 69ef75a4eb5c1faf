"""`sse index` and `sse search`: one searchable file of texts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

from sse.cli.options import Run, add_input, add_model, add_no_fast, add_output, bar
from sse.common.ranges import whole
from sse.serving.encoder import Encoder
from sse.serving.index import INDEX_KINDS, OVERSAMPLING, Hit, Index, build_index
from sse.serving.vector_files import check_target
from sse.text.passages import folder_passages, snippet
from sse.text.records import read_records

# An index from elsewhere may hold characters that control the terminal: `?` is shown instead.
CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "?")


def index(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse index`."""
    parser.description = (
        "Make one searchable file of texts. IN is a folder of text files (cut into passages), or\n"
        "a file as for `sse encode`, with one text per row."
    )
    parser.epilog = (
        "examples:\n"
        "  sse index notes/ notes.sse -m model\n"
        "  sse index corpus.jsonl corpus.sse -m model --kind binary --dim 256\n"
    )
    add = parser.add_argument
    add("source", metavar="IN")
    add("target", metavar="OUT")
    add_model(parser)
    add_input(parser)
    add("--kind", choices=INDEX_KINDS, default="exact", help="binary is smaller, and rescored")
    add_output(parser)
    return _index


def _index(args: argparse.Namespace) -> None:
    """Encode the texts into an index, and write the summary."""
    check_target(args.target, args.force)
    if Path(args.source).is_dir():
        rows = folder_passages(args.source)
    else:
        rows = read_records(args.source, args.input_form, args.column)
    rows = chain(list(islice(rows, 1)), rows)  # a bad input fails before the model is loaded
    model = Encoder(args.model, args.dim, fast=not args.no_fast)
    start = time.perf_counter()
    with bar("indexing", args.quiet) as progress:
        count = build_index(rows, model, args.target, args.kind, progress, args.batch_size)
    seconds, size = time.perf_counter() - start, os.path.getsize(args.target)
    if args.json:
        facts = {"texts": count, "seconds": round(seconds, 3), "bytes": size, "out": args.target}
        sys.stdout.write(json.dumps(facts) + "\n")
    elif not args.quiet:
        line = f"{count:,} texts in {seconds:.1f} s -> {args.target} ({size / 2**20:,.1f} MiB)"
        sys.stderr.write(line + "\n")


def search(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse search`."""
    parser.description = (
        "Search a file made by `sse index`. Without QUERY, type queries at a prompt, or give one\n"
        "per line on standard input."
    )
    parser.epilog = (
        "examples:\n"
        '  sse search notes.sse "how to restart the server" -k 5\n'
        "  sse search notes.sse\n"
        "  sse search notes.sse --json < queries.txt > results.jsonl\n"
    )
    add = parser.add_argument
    add("index", metavar="INDEX")
    add("query", metavar="QUERY", nargs="*")
    add("-k", type=whole(1), default=10, help="results per query (default: 10)")
    add("-m", "--model", metavar="DIR", help="folder of the model, if it has moved")
    add("--oversampling", type=whole(1), default=OVERSAMPLING,
        help=f"candidates per result of a binary index (default: {OVERSAMPLING})")  # fmt: skip
    add_no_fast(parser)
    add("--full", action="store_true", help="whole texts, not snippets")
    add("--json", action="store_true", help="one JSON object per query")
    return _search


def _search(args: argparse.Namespace) -> None:
    opened = Index(args.index, args.model, fast=not args.no_fast)
    queries = iter([" ".join(args.query)]) if args.query else _queries(len(opened))
    for query in queries:
        start = time.perf_counter()
        hits = opened.search([query], args.k, args.oversampling)[0]
        sys.stdout.write(_format(query, hits, args, time.perf_counter() - start))
        sys.stdout.flush()


def _format(query: str, hits: list[Hit], args: argparse.Namespace, seconds: float) -> str:
    if args.json:
        answer = {"query": query, "seconds": round(seconds, 6), "hits": [asdict(h) for h in hits]}
        return json.dumps(answer, ensure_ascii=False) + "\n"
    lines = []
    for hit in hits:
        text = hit.text if args.full else snippet(hit.text, query)
        line = f"{hit.rank:3}. {hit.score:.3f}  {hit.where}\n     {text}\n"
        lines.append(line.translate(CONTROLS))
    return "".join(lines)


def _queries(size: int) -> Iterator[str]:
    """Queries typed at a prompt, or the lines of a pipe."""
    if not sys.stdin.isatty():
        for line in sys.stdin.buffer:
            if query := line.decode("utf-8", "replace").strip():
                yield query
        return
    sys.stderr.write(f"{size:,} texts. An empty line ends.\n")
    while query := _prompt():
        yield query


def _prompt() -> str:
    try:
        return input("query> ").strip()
    except EOFError:
        return ""
