"""`sse encode`: texts of a file to vectors in another."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from sse.common.errors import UserError
from sse.model.quantise import PRECISIONS, width
from sse.serving.encoder import Encoder
from sse.serving.vector_files import OUTPUTS, check_target, output_format, vector_file
from sse.text.records import FORMATS, Record, read_records

Run = Callable[[argparse.Namespace], None]


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of every command that encodes."""
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="folder of a model")
    parser.add_argument("--dim", type=int, help="first dimensions only (Matryoshka)")
    parser.add_argument(
        "--batch-size", type=int, default=1024, help="texts a thread takes at a time"
    )
    parser.add_argument(
        "--no-fast", action="store_true", help="Hugging Face's tokenizer in any case"
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads texts."""
    add = parser.add_argument
    add("--from", dest="form", choices=FORMATS, help="format of IN (default: by its name)")
    add("--column", help="column of the texts (default: text, or the only one)")


def encode(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse encode`."""
    parser.description = (
        "Encode texts. IN is plain lines, .jsonl, .csv, .tsv (also .gz) or .parquet, - for "
        "standard input.\nOUT is .parquet, .npy or .jsonl, - for JSON lines on standard output."
    )
    parser.epilog = (
        "examples:\n"
        "  sse encode corpus.jsonl vectors.parquet -m model --column body --keep id\n"
        "  sse encode lines.txt vectors.npy -m model --dim 256 --precision int8\n"
        "  zcat log.gz | sse encode - - -m model | head\n"
    )
    add = parser.add_argument
    add("source", metavar="IN")
    add("target", metavar="OUT")
    add_model(parser)
    add_input(parser)
    add("--to", choices=OUTPUTS, help="format of OUT (default: by its name)")
    add("--keep", nargs="+", default=[], metavar="COLUMN", help="columns to pass on")
    add("--no-text", action="store_true", help="leave the texts out of OUT")
    add("--no-normalize", action="store_true", help="do not scale vectors to length 1")
    add("--precision", choices=PRECISIONS, default="float32")
    add("--prompt", metavar="NAME", help="the model's prompt to put first, such as query")
    add("--force", action="store_true", help="replace OUT if it exists")
    add("--quiet", action="store_true", help="no progress bar, no summary")
    add("--json", action="store_true", help="the summary as JSON")
    return _encode


def _encode(args: argparse.Namespace) -> None:
    form = output_format(args.target, args.to)
    if args.target != "-":
        check_target(args.target, args.force)
    if form == "npy" and args.keep:
        raise UserError(f"npy holds vectors only: drop --keep {' '.join(args.keep)}")
    rows = read_records(args.source, args.form, args.column, args.keep)
    # The first row before the model: a bad input should fail before anything is loaded.
    rows = _chain(list(islice(rows, 1)), rows)
    model = Encoder(args.model, args.dim, fast=not args.no_fast)
    columns, dtype = width(model.dim, args.precision)
    start, count = time.perf_counter(), 0
    waiting: deque[Record] = deque()

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield row.text

    batches = model.stream(
        texts(), None, not args.no_normalize, args.batch_size, args.prompt, args.precision
    )
    with (
        vector_file(args.target, form, columns, dtype, not args.no_text, args.force) as writer,
        bar("encoding", args.quiet) as progress,
    ):
        for vectors in batches:
            writer.write([waiting.popleft() for _ in range(len(vectors))], vectors)
            count += len(vectors)
            progress(len(vectors))
    if not args.quiet:
        _summary(args, model, count, time.perf_counter() - start)


def _summary(args: argparse.Namespace, model: Encoder, count: int, seconds: float) -> None:
    info = model.info()
    facts = {
        "texts": count,
        "seconds": round(seconds, 3),
        "texts_per_second": round(count / seconds, 1),
        "dim": model.dim,
        "out": args.target,
        "tokenizer": info["tokenizer"],
    }
    if args.json:
        line = json.dumps(facts)
    else:
        line = (
            f"{count:,} texts in {seconds:.1f} s ({facts['texts_per_second']:,.0f}/s, "
            f"{info['tokenizer']}) -> {args.target}"
        )
    # Standard output is the vectors' when they go there.
    stream = sys.stderr if args.target == "-" or not args.json else sys.stdout
    stream.write(line + "\n")


def _chain(head: list[Record], rest: Iterator[Record]) -> Iterator[Record]:
    yield from head
    yield from rest


class bar:  # noqa: N801  a context manager, used like a function
    """A progress bar on a terminal, silence elsewhere."""

    def __init__(self, what: str, quiet: bool) -> None:
        self.what, self.quiet = what, quiet or not sys.stderr.isatty()

    def __enter__(self) -> Callable[[int], object]:
        if self.quiet:
            return lambda n: None
        from tqdm import tqdm  # slow to import

        self.bar = tqdm(desc=self.what, unit=" texts", unit_scale=True)
        return self.bar.update

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self.bar.close()
