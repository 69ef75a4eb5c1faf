"""Evaluate a model folder on retrieval collections, at each Matryoshka dimension.

    python experiments/evaluate.py MODEL_DIR --beir FOLDER [FOLDER ...] [--dims 512 256 128]

MODEL_DIR is any sentence-transformers folder; FILE is {folder name: {dim: {metric: value}}}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from sse.errors import UserError, one_line

NANOBEIR = "sentence-transformers/NanoBEIR-en"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(f"{message} (see --help)")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", metavar="MODEL_DIR")
    add("--beir", nargs="+", default=[], metavar="FOLDER", help="folders in the BEIR layout")
    add("--split", help="which qrels/SPLIT.tsv (default: test, or the only one)")
    add("--nanobeir", nargs="?", const=NANOBEIR, metavar="SOURCE", help="the hub's, or a folder")
    add("--dims", nargs="+", type=int, help="prefixes to evaluate (default: all standard ones)")
    add("--baselines", action="store_true", help="BM25 and, for a static model, one untrained")
    add("--json", metavar="FILE", help="write every metric")
    add("--report", metavar="FOLDER", help="write table, intervals, figure, per-query scores")
    add("--graded", action="store_true", help="nDCG with judged grades as gains, not binary")
    add("--device", help="cpu, cuda, ... (default: what is there)")
    add("--batch-size", type=int, default=256)
    args = parser.parse_args(arguments)
    if not Path(args.model).is_dir():
        parser.error(f"{args.model}: no such folder: give a model's folder")
    if not args.beir and not args.nanobeir:
        parser.error("nothing to evaluate on: give --beir FOLDER or --nanobeir")
    if args.batch_size < 1:
        parser.error(f"--batch-size {args.batch_size}: give at least 1")
    for path, wrong in ((args.json, Path.is_dir), (args.report, Path.is_file)):
        if path and wrong(Path(path)):
            parser.error(f"{path}: --json takes a file, --report a folder, and this is the other")
    return args


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Load everything first, then evaluate, then write: bad input leaves nothing behind."""
    args = parse(arguments)
    from sse import beir, nanobeir

    collections = [beir.load_beir(folder, args.split) for folder in args.beir]
    collections += nanobeir.load_nanobeir(args.nanobeir) if args.nanobeir else []
    from sse import files, report, systems  # slow: only now that the collections are sound

    model = systems.load_model(args.model, args.device)

    results = systems.evaluate_beside(
        model, collections, args.dims, args.baselines,
        batch_size=args.batch_size, graded=args.graded, progress=True,
    )  # fmt: skip
    print(report.format_table(results))
    if args.json:
        files.write_json(args.json, results["model"].values())
    if args.report:
        print("\nwritten:", *report.write_report(results, args.report))


if __name__ == "__main__":
    sys.exit(main())
