"""`sse index`: make an index of a folder or a file, or bring it up to date."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sse.cli.options import Run, add_input, add_no_fast, add_output, bar
from sse.common.errors import UserError
from sse.common.ranges import whole
from sse.common.signals import stopped_with
from sse.common.terminal import clean
from sse.documents.passages import OVERLAP, SIZE
from sse.search.update import Options, Summary, delete_from_index, update_index

KINDS = ("new", "changed", "moved", "deleted", "unchanged")


def index(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse index`."""
    parser.description = (
        "Make an index of the documents in a folder, or of one file, for 'sse search'. The same\n"
        "command again brings it up to date: only new and changed files are read. Documents are\n"
        "cut into passages; tables (jsonl, csv, tsv, parquet) give one passage per row."
    )
    parser.epilog = (
        "examples:\n"
        "  sse index notes/ notes.sse -m model\n"
        "  sse index products.csv shop.sse -m model --column description --keep price brand\n"
        "  sse index notes/old notes.sse --delete\n"
    )
    add = parser.add_argument
    add("source", metavar="IN", help="a folder or a file; - is a table on standard input")
    add("target", metavar="NAME", help="the index: a folder, or a URL such as s3://bucket/name")
    add("-m", "--model", metavar="DIR", help="folder of a model; an index that exists has its own")
    add("--dim", type=whole(1), help="first dimensions only (Matryoshka)")
    add("--size", type=whole(50), help=f"characters of a passage at most (default: {SIZE:,})")
    add("--overlap", type=whole(0),
        help=f"characters a passage repeats of the one before (default: {OVERLAP})")  # fmt: skip
    add_input(parser)
    add("--keep", nargs="+", default=[], metavar="COLUMN",
        help="columns of tables to keep, for --where and in results")  # fmt: skip
    add("--fit", action="store_true",
        help="fit the model of a new index to its documents, as 'sse fit' does")  # fmt: skip
    add("--delete", action="store_true", help="take the documents in IN out of the index")
    add("--strict", action="store_true", help="fail if a file cannot be read")
    add("--batch-size", type=whole(1), default=1024,
        help="texts per batch of a thread (default: 1024)")  # fmt: skip
    add_no_fast(parser)
    add_output(parser)
    add("--kind", help=argparse.SUPPRESS)  # of older versions
    return _index


def _index(args: argparse.Namespace) -> None:
    """Update the index, and write the summary."""
    start = time.perf_counter()
    if args.kind:
        sys.stderr.write("warning: --kind does nothing any more: every search is exact\n")
    done = delete_from_index(args.source, args.target) if args.delete else _update(args)
    seconds = time.perf_counter() - start
    for line in done.left_out.lines():
        sys.stderr.write(f"left out: {clean(line)}\n")
    if args.json:
        facts = {"texts": done.passages, "seconds": round(seconds, 3), "out": args.target}
        facts |= {"left_out": len(done.left_out), **{kind: done.counts[kind] for kind in KINDS}}
        sys.stdout.write(json.dumps(facts) + "\n")
    elif not args.quiet:
        sys.stderr.write(_told(done, seconds, args.target))


def _update(args: argparse.Namespace) -> Summary:
    options = Options(
        args.dim, args.size, args.overlap, args.column, args.input_form, tuple(args.keep),
        args.fit, args.batch_size, not args.no_fast,
    )  # fmt: skip
    with (
        stopped_with(lambda: "the same command goes on"),
        _as_file(args.source, args.input_form) as source,
        bar("indexing", args.quiet) as progress,
    ):
        return update_index(
            source, args.target, args.model, options, args.force, args.strict, progress
        )


@contextlib.contextmanager
def _as_file(source: str, form: str | None) -> Iterator[str]:
    """A path that may be read twice: `source`, or a copy of standard input for `-`."""
    if source != "-":
        yield source
        return
    if form is None:
        raise UserError("standard input: name its format with `input_form`")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard input")
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


def _told(done: Summary, seconds: float, target: str) -> str:
    """The summary in one line."""
    counts = [f"{done.counts[kind]:,} {kind}" for kind in KINDS if done.counts[kind]]
    left = f", {len(done.left_out):,} left out" if done.left_out else ""
    return (
        f"{done.passages:,} passages in {seconds:.1f} s -> {target} "
        f"(documents: {', '.join(counts) or 'none'}{left})\n"
    )
