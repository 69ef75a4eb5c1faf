"""The command `python experiments/compare.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sse.analysis.comparison import compare, summarise
from sse.analysis.comparison_table import by_collection, details, to_markdown
from sse.analysis.selection import pair
from sse.common.arguments import Parser, program
from sse.common.errors import UserError, one_line
from sse.sweeps.results import expected, read_results

DESCRIPTION = """Compare a sweep's trials with a reference: Markdown on the standard output.

  python experiments/compare.py OUT --by model.norm --reference none
  python experiments/compare.py OUT --by model.norm --reference none --within data.pairs --dim 512

The first table is for a paper, the second has every number behind its differences. What is tested,
and why, stands in sse/analysis/statistics.py."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog=program("compare"), description=DESCRIPTION)
    add = made.add_argument
    add("out", help="the sweep's folder, with results.parquet")
    add("--by", required=True, help="the option to compare, such as model.norm")
    add("--reference", required=True, help="its level to compare the others with")
    add("--within", help="compare at each level of this option, at one --dim")
    add("--metric", default="ndcg@10", help="default: ndcg@10")
    add("--dim", help="dimensions, as 512,64 (default: all)")
    add("--collections", help="names, as a,b (default: all but the held-out pairs)")
    add("--where", action="append", default=[], metavar="OPTION=VALUE", help="only trials with it")
    add("--each", action="store_true", help="also the means of each collection")
    return made


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    chosen: dict[str, Any] = {
        "dims": _dims(args.dim),
        "collections": args.collections.split(",") if args.collections else None,
        "where": dict(map(pair, args.where)),
    }
    within = [args.within] if args.within else []
    table = read_results(args.out)
    if within and len(chosen["dims"] or set(table["dim"])) > 1:
        raise UserError(f"--within {args.within} fills the columns: choose one --dim, as --dim 512")
    _warn(Path(args.out), set(table["trial"]))
    differences = compare(table, args.by, args.reference, args.metric, within=within, **chosen)
    summary = summarise(table, [args.by, *within], args.metric, **chosen)
    parts = [
        to_markdown(summary, differences, by=args.by, within=args.within, metric=args.metric),
        details(differences, within),
    ]
    if args.each:
        parts.append(by_collection(summary, [args.by, *within]))
    print("\n\n".join(parts))  # noqa: T201, the tables are the program's output


def _warn(out: Path, have: set[str]) -> None:
    """Say which of the sweep's trials the table lacks."""
    if not (out / "sweep.json").is_file():  # an extract
        return
    lacking = [name for name in expected(out) if name not in have]
    if lacking:
        sys.stderr.write(
            f"note: {len(lacking)} of the sweep's trials are not in {out / 'results.parquet'}, "
            f"the first {lacking[0]}\n"
        )


def _dims(text: str | None) -> list[int] | None:
    try:
        return [int(dim) for dim in text.split(",")] if text else None
    except ValueError:
        raise UserError(f"--dim {text}: give whole numbers, as 512,64") from None
