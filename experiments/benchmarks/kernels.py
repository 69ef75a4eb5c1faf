"""Benchmark of `bag_dyt` against eager torch and torch.compile, on CUDA or else the CPU.

    python -m experiments.benchmarks.kernels --quick
    python -m experiments.benchmarks.kernels --bags 512 --lengths 16 64 --dtypes float32 --out
        a.json

Contenders: `eager` (F.embedding_bag, addcmul, tanh), `compile` (the same by torch.compile), `op`
(`bag_dyt`, its sort included), `op+plan` (sorted before, as by a data loader), `op+buffer`
(gradient into a `TableGrad`), and on CUDA `op+atomic`. Forward is timed without gradients, backward
on a kept graph. GB/s counts every token's row; the ceiling is that of a copy.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch
from sse_kernels.plan import build_plan

from experiments.benchmarks.kernels_measure import (
    Batch,
    Case,
    contenders,
    copy_ceiling,
    passes,
    peak,
    race,
    traffic,
)
from experiments.benchmarks.kernels_report import (
    PASSES,
    Row,
    machine,
    table,
    write_figure,
    write_json,
)
from sse.training.allocator import keep_freed_memory


def measure(case: Case, device: torch.device, args: argparse.Namespace) -> Row:
    """Every contender's passes over one case."""
    batch = Batch(case, device)
    moved = traffic(case, batch.distinct)
    calls = {
        name: passes(batch, call) for name, call in contenders(batch, not args.no_compile).items()
    }
    result: dict[str, dict[str, Any]] = {name: {} for name in calls}
    for which in PASSES:
        turns = {name: call[which] for name, call in calls.items()}
        stats = race(turns, args.rounds, device, args.cpu_time)
        gathers = 2 if which == "both" else 1
        for name, values in stats.items():
            rate = gathers * moved["gather"] / values["ms"] / 1e6
            memory = peak(calls[name][which], device)
            result[name][which] = {**values, "gather_gb_s": rate, "peak_bytes": memory}
    sort = {"eager": lambda: build_plan(batch.ids, batch.offsets, case.vocab)}
    plan = race(sort, args.rounds, device, args.cpu_time)
    return {
        **vars(case),
        "name": case.name,
        "distinct_rows": batch.distinct,
        "compulsory_bytes": moved,
        "plan_ms": plan["eager"]["ms"],
        "contenders": result,
    }


def cases(args: argparse.Namespace) -> list[Case]:
    """The grid asked for."""
    grid = itertools.product(args.ids, args.dtypes, args.bags, args.lengths)
    return [Case(b, n, dtype, ids, args.vocab, args.dim) for ids, dtype, b, n in grid]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; `--quick` shrinks the defaults."""
    parser = argparse.ArgumentParser(prog="experiments.benchmarks.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    cuda = torch.cuda.is_available()
    parser.add_argument("--quick", action="store_true", help="four small cases, few rounds")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--bags", type=int, nargs="+", help="B")
    parser.add_argument("--lengths", type=int, nargs="+", help="L")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--ids", nargs="+", choices=("zipf", "uniform"), default=["zipf", "uniform"]
    )
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, help="turns each contender gets")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's choice)")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's time only")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="JSON file; a PNG is drawn beside it")
    args = parser.parse_args(argv)
    args.bags = args.bags or ([512] if args.quick else [512, 4096])
    args.lengths = args.lengths or ([16, 64] if args.quick else [16, 64, 256])
    args.dtypes = args.dtypes or (["float32"] if args.quick else ["float32", "bfloat16"])
    args.rounds = max(args.rounds or (9 if args.quick else 25), 2)
    args.out = args.out or Path("runs") / f"kernels-{args.device}.json"
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write JSON and PNG."""
    args = arguments(argv)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    tuned = keep_freed_memory() if device.type == "cpu" else None
    # the same backward graph runs many times, which donating its buffers would forbid
    functorch.donated_buffer = False
    ceiling = copy_ceiling(device)
    rows: list[Row] = []
    for case in cases(args):
        rows.append(measure(case, device, args))
        gc.collect()
        print(table(rows[-1:], ceiling), flush=True)
    facts = machine(device)
    result = {
        "machine": facts,
        "allocator_tuned": tuned,
        "rounds": args.rounds,
        "clock": "cuda events" if device.type == "cuda" else "cpu" if args.cpu_time else "wall",
        "copy_ceiling_gb_s": ceiling / 1e9,
        "cases": rows,
    }
    write_json(args.out, result)
    write_figure(args.out.with_suffix(".png"), rows, f"bag_dyt on {facts.get('gpu', device.type)}")
    print(f"wrote {args.out} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
