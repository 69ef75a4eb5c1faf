"""`sse fit` and `sse average`: another table for a model, without training."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from sse.cli.options import Run, add_input, add_output, bar
from sse.common.errors import UserError
from sse.common.ranges import real
from sse.documents.left_out import LeftOut
from sse.model.convert.average import average as average_models
from sse.model.convert.fit import STRENGTH
from sse.model.convert.fit import fit as fit_model


def fit(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse fit`."""
    parser.description = (
        "Fit a model to a corpus without training: rows are reweighted by the corpus' own idf.\n"
        "CORPUS is a file as for `sse encode`, a folder of documents, or a folder in the BEIR\n"
        "layout. OUT is a model folder like MODEL."
    )
    parser.epilog = (
        "examples:\n"
        "  sse fit model notes/ fitted\n"
        "  sse fit model corpus.parquet fitted --column body\n"
    )
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("corpus", metavar="CORPUS")
    add("target", metavar="OUT")
    add_input(parser)
    add("--strength", type=real(0, 1), default=STRENGTH,
        help=f"0 (no change) to 1 (default: {STRENGTH:g})")  # fmt: skip
    add_output(parser)
    return _fit


def _fit(args: argparse.Namespace) -> None:
    _check_new(args.target, args.force)
    start, left_out = time.perf_counter(), LeftOut()
    with bar("counting", args.quiet) as progress:
        facts = fit_model(
            args.model, args.corpus, args.target, strength=args.strength, form=args.input_form,
            column=args.column, left_out=left_out, moved=progress,
        )  # fmt: skip
    if left_out:
        sys.stderr.write(f"warning: {args.corpus}: {left_out.summary()}\n")
    facts |= {"out": args.target, "seconds": round(time.perf_counter() - start, 3)}
    if args.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    elif not args.quiet:
        line = f"fitted to {facts['texts']:,} texts in {facts['seconds']:.1f} s -> {args.target}"
        sys.stderr.write(line + "\n")


def average(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse average`."""
    parser.description = (
        "The mean of models of one kind, best of one start. OUT is a folder like the first."
    )
    parser.epilog = "examples:\n  sse average runs/1/model runs/2/model runs/mean\n"
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+")
    add("target", metavar="OUT")
    add("--weights", nargs="+", type=real(above=0), help="one positive number for each model")
    add("--force", action="store_true", help="replace OUT if it is a model folder")
    return _average


def _average(args: argparse.Namespace) -> None:
    _check_new(args.target, args.force)
    average_models(args.models, args.target, args.weights)
    sys.stderr.write(f"mean of {len(args.models)} models -> {args.target}\n")


def _check_new(target: str, force: bool) -> None:
    if Path(target).is_dir() and any(Path(target).iterdir()) and not force:
        raise UserError(f"{target} exists: give a new folder, or --force to replace a model folder")
