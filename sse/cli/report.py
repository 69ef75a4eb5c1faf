"""The command `sse report`: a sweep's results as one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sse.cli.options import Run
from sse.common.errors import import_extra

DESCRIPTION = """Write a page about a sweep: what was run, what came out, tables and figures.

RESULTS is a sweep's folder. The page is one file and needs no network.

examples:
  sse report runs/sweep
  sse report runs/rates --by model.lr --reference 0.1 --out rates.html"""


def report(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse report`; the function that runs it."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("results", metavar="RESULTS", help="the sweep's folder")
    add("--out", metavar="FILE", help="the page (default: RESULTS/report.html)")
    add("--by", help="the option compared (default: the one that the sweep varies)")
    add("--reference", help="its level to compare with (default: none, else the first)")
    add("--where", action="append", default=[], metavar="OPTION=VALUE", help="only such trials")
    return _report


def _report(args: argparse.Namespace) -> None:
    page = import_extra("sse.analysis.report")
    pair = import_extra("sse.analysis.selection").pair
    where = dict(map(pair, args.where))
    read = import_extra("sse.analysis.study").read_study
    study = read(args.results, args.by, args.reference, where=where)
    place = Path(args.out or Path(args.results) / "report.html")
    title = f"{study.by}: {Path(args.results).resolve().name}"
    sys.stdout.write(f"report: {page.write_report(study, place, title)}\n")
