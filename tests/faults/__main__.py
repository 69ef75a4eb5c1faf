"""Disturb the real commands and count what is lost: python -m tests.faults --help."""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from .damage import damage, targets
from .disk import fill
from .forked import forked
from .kills import Tally, kill, together
from .subjects import Inputs, subjects

KILLED = ("train", "cache", "encode", "sweep", "index", "export")
# What starts Ray for each of its runs: some 15 s each, without Ray left out.
ON_RAY = ("shards",) if importlib.util.find_spec("ray") else ()
FILLED = ("train", "cache", "encode", "encode npy", "encode jsonl", "index", "export", "onnx")
SHARED = ("cache",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=50, help="of each command, that hit it at work")
    add("--damages", type=int, default=40, help="flipped bits of each kind of file")
    add("--full", type=int, default=10, help="full disks of each command, and as many limits")
    add("--shared", type=int, default=5, help="pairs of runs that build one cache at once")
    add("--seed", type=int, default=0)
    add("--only", nargs="+", help="names of commands or files: train, cache, index, ...")
    add("--json", metavar="FILE", help="write the table as JSON too")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="sse-faults-"))
    start, rows = time.monotonic(), []
    try:
        for tally in tallies(args, root):
            rows.append(tally)
            print(line(tally), flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    bad = [tally for tally in rows if not tally.good]
    for tally in bad:
        print(f"\n{tally.fault}, {tally.where}: {tally.note}")
    print(f"\n{sum(t.times for t in rows):,} faults in {time.monotonic() - start:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(tally) for tally in rows], indent=1))
    return 1 if bad else 0


def tallies(args: argparse.Namespace, root: Path):
    """Each kind of fault, one after the other."""
    inputs = Inputs(root / "inputs")
    outcome = forked(inputs.make)  # not here: this process starts no threads
    assert outcome.code == 0, outcome.errors
    found = subjects(inputs)

    def wanted(name: str) -> bool:
        return name in found and (not args.only or name in args.only)

    for name in filter(wanted, KILLED + ON_RAY if args.kills else ()):
        yield kill(found[name], root / f"kill-{name}", args.kills, args.seed)
    for name in filter(wanted, SHARED if args.shared else ()):
        yield together(found[name], root / f"together-{name}", args.shared)
    for name in filter(wanted, FILLED if args.full else ()):
        yield from fill(found[name], root / f"full-{name}", args.full, args.seed)
    if args.damages:
        for target in targets(inputs, found, root / "damage"):
            if not args.only or set(args.only) & {target.name, target.name.split(",")[0]}:
                yield from damage(target, args.damages, args.seed)


def line(tally: Tally) -> str:
    """One row of the table."""
    return (
        f"{tally.fault:<15} {tally.where:<16} {tally.times:>4} tried, {tally.hit:>4} hit, "
        f"{tally.refused:>4} refused in one line, {tally.lost} lost, {tally.wrong} wrong, "
        f"{tally.unclear} unclear, {tally.litter} left files, "
        f"{tally.unfinished} left by kills"
    )


if __name__ == "__main__":
    sys.exit(main())
