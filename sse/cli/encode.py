"""`sse encode`: from a file of texts to a file of vectors."""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import chain, islice, tee

from sse.cli.options import Run, add_input, add_model, add_output, bar
from sse.common.errors import UserError
from sse.model.quantise import PRECISIONS, width
from sse.serving.encoder import Encoder
from sse.serving.vector_files import OUTPUTS, check_kept, check_target, output_format, vector_file
from sse.text.records import read_records


def encode(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse encode`."""
    parser.description = (
        "Encode texts. IN is .jsonl, .csv, .tsv (also .gz) or .parquet, - for standard input.\n"
        "Any other file, such as a .txt, is lines of one text each; `sse index` reads documents.\n"
        "OUT is .parquet, .npy or .jsonl, - for JSON lines on standard output."
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
    add("--to", dest="form", choices=OUTPUTS, help="format of OUT (default: by its name)")
    add("--keep", action="extend", nargs="+", default=[], metavar="COLUMN",
        help="further columns for OUT")  # fmt: skip
    add("--no-text", action="store_true", help="leave the texts out of OUT")
    add("--no-normalize", action="store_true", help="do not scale vectors to length 1")
    add("--precision", choices=PRECISIONS, default="float32", help="of OUT (default: float32)")
    add("--prompt", metavar="NAME", help="the model's prompt before each text, such as query")
    add_output(parser)
    return _encode


def _encode(args: argparse.Namespace) -> None:
    """Encode the texts batch by batch, and write the summary."""
    form = output_format(args.target, args.form)
    if args.target != "-":
        check_target(args.target, args.force)
    if form == "npy" and args.keep:
        raise UserError(f"npy holds vectors only: drop --keep {' '.join(args.keep)}")
    check_kept(args.keep, not args.no_text)
    rows = read_records(args.source, args.input_form, args.column, args.keep)
    rows = chain(list(islice(rows, 1)), rows)  # a bad input fails before the model is loaded
    model = Encoder(args.model, args.dim, fast=not args.no_fast)
    columns, dtype = width(model.dim, args.precision)
    start, count = time.perf_counter(), 0
    rows, ahead = tee(rows)  # the encoder reads some texts ahead
    texts = (row.text for row in ahead)
    batches = model.stream(
        texts, None, not args.no_normalize, args.batch_size, args.prompt, args.precision
    )
    with (
        vector_file(args.target, form, columns, dtype, not args.no_text, args.force) as writer,
        bar("encoding", args.quiet) as progress,
    ):
        for vectors in batches:
            writer.write(list(islice(rows, len(vectors))), vectors)
            count += len(vectors)
            progress(len(vectors))
    if not args.quiet:
        _summary(args, model, count, time.perf_counter() - start)


def _summary(args: argparse.Namespace, model: Encoder, count: int, seconds: float) -> None:
    """Write texts, seconds and speed, as a line or as JSON."""
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
    # With `-` standard output has the vectors.
    stream = sys.stderr if args.target == "-" or not args.json else sys.stdout
    stream.write(line + "\n")
