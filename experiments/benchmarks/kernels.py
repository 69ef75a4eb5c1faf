"""`bag_dyt` against eager torch and torch.compile, on CUDA or else the CPU.

    python -m experiments.benchmarks.kernels --quick
    python -m experiments.benchmarks.kernels --bags 512 --lengths 16 64 --dtypes float32

Contenders: `eager` (F.embedding_bag, addcmul, tanh), `compile` (the same by torch.compile), `op`
(`bag_dyt`, its sort included), `op+plan` (sorted before, as by a data loader), `op+buffer`
(gradient into a `TableGrad`), and on CUDA `op+atomic`. Forward is timed without gradients, backward
on a kept graph. GB/s counts every token's row; the ceiling is that of a copy.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch
import torch.nn.functional as F
from sse_kernels import TableGrad, bag_dyt, plan_bags
from sse_kernels.plan import build_plan
from torch import Tensor

from experiments.benchmarks import harness
from sse.common.errors import one_line
from sse.training.host.allocator import keep_freed_memory

PASSES = ("forward", "backward", "both")
QUICK = {"bags": [512], "lengths": [16, 64], "dtypes": ["float32"], "rounds": 9}
Call = Callable[[], Any]
Row = dict[str, Any]


@one_line
def main(words: list[str] | None = None) -> None:
    """Measure, print the table, write JSON and PNG."""
    args = arguments(words)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    tuned = keep_freed_memory() if device.type == "cpu" else None
    # the same backward graph runs many times, which donating its buffers would forbid
    functorch.donated_buffer = False
    rows: list[Row] = []
    for ids, dtype, bags, length in itertools.product(
        args.ids, args.dtypes, args.bags, args.lengths
    ):
        rows.append(measure(Case(bags, length, dtype, ids, args.vocab, args.dim), device, args))
        harness.say(rows[-1]["name"])
        gc.collect()
    result = {
        **harness.what_ran(),
        "allocator_tuned": tuned,
        "rounds": args.rounds,
        "clock": "cuda events" if device.type == "cuda" else "cpu" if args.cpu_time else "wall",
        "copy_ceiling_gb_s": copy_ceiling(device) / 1e9,
        "cases": rows,
    }
    harness.finish(result, table(result), args.out)
    panels = {
        f"{which}, x eager": {
            name: {row["name"]: row["contenders"][name][which]["speedup"] for row in rows}
            for name in rows[0]["contenders"]
            if name != "eager"
        }
        for which in PASSES
    }
    harness.figure(args.out.with_suffix(".png"), panels)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line; `--quick` shrinks the defaults."""
    made = harness.parser("kernels", __doc__)
    add = made.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bags", type=int, nargs="+", default=[512, 4096], help="B")
    add("--lengths", type=int, nargs="+", default=[16, 64, 256], help="L")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtypes", nargs="+", choices=dtypes, default=["float32", "bfloat16"])
    add("--ids", nargs="+", choices=("zipf", "uniform"), default=["zipf", "uniform"])
    add("--vocab", type=int, default=30522)
    add("--dim", type=int, default=512)
    add("--rounds", type=int, default=25, help="turns of each contender, at least 2")
    add("--threads", type=int, help="CPU threads (torch's choice)")
    add("--cpu-time", action="store_true", help="count this process's time only")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--out", type=Path, help="JSON file; a PNG is drawn beside it")
    args = harness.parse(made, words, QUICK, "bags", "lengths", "rounds")
    args.rounds = max(args.rounds, 2)
    args.out = args.out or args.json or Path("runs") / f"kernels-{args.device}.json"
    return args


@dataclass(frozen=True)
class Case:
    """B bags of L tokens; ids are `zipf` (exponent 1, row 0 the most frequent) or `uniform`."""

    bags: int
    length: int
    dtype: str
    ids: str
    vocab: int = 30522
    dim: int = 512

    @property
    def name(self) -> str:
        """For tables and figures."""
        return f"B{self.bags}-L{self.length}-{self.dtype}-{self.ids}"


class Batch:
    """A case's tensors on a device, made from a fixed seed."""

    def __init__(self, case: Case, device: torch.device) -> None:
        g = torch.Generator().manual_seed(0)
        weights = torch.ones(case.vocab)
        if case.ids == "zipf":
            weights /= torch.arange(1, case.vocab + 1)
        # inverse transform: multinomial stops at 2^24 categories and is slow for long draws
        edges = weights.double().cumsum(0)
        draws = torch.rand(case.bags * case.length, generator=g, dtype=torch.float64) * edges[-1]
        self.ids = torch.searchsorted(edges, draws).clamp_(max=case.vocab - 1).to(device)
        self.offsets = torch.arange(case.bags + 1, device=device) * case.length
        dtype = getattr(torch, case.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(device, dtype)

        self.weight = normal(case.vocab, case.dim).requires_grad_()
        self.gate = [normal(case.dim).requires_grad_() for _ in range(3)]
        self.dy = normal(case.bags, case.dim)
        self.plan = plan_bags(self.ids, self.offsets, case.vocab)


def measure(case: Case, device: torch.device, args: argparse.Namespace) -> Row:
    """Every contender's passes over one case."""
    batch, clock = Batch(case, device), clock_of(device, args.cpu_time)
    calls = {name: passes(batch, c) for name, c in contenders(batch, not args.no_compile).items()}
    gathered = case.bags * case.length * case.dim * getattr(torch, case.dtype).itemsize
    result: dict[str, Row] = {name: {} for name in calls}
    for which in PASSES:
        spent = harness.turns(
            {n: partial(clock, c[which]) for n, c in calls.items()}, args.rounds, 2
        )
        for name, values in spent.items():
            deciles = statistics.quantiles(values, n=10, method="inclusive")
            low, middle, high = deciles[1::3]  # 0.2, 0.5, 0.8
            result[name][which] = {
                "ms": middle,
                "ms_q20": low,
                "ms_q80": high,
                "rounds": values,
                "speedup": harness.ratio(spent["eager"], values),
                "gather_gb_s": (1 + (which == "both")) * gathered / middle / 1e6,
                "peak_bytes": peak(calls[name][which], device),
            }
    sort = partial(clock, lambda: build_plan(batch.ids, batch.offsets, case.vocab))
    plan = statistics.median(harness.turns({"plan": sort}, args.rounds)["plan"])
    return {**vars(case), "name": case.name, "plan_ms": plan, "contenders": result}


def eager(w: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, *rest: Tensor) -> Tensor:
    """The op as one writes it first, in plain torch."""
    beta, bias = rest
    x = F.embedding_bag(ids, w, offsets, mode="mean", include_last_offset=True)
    return torch.tanh(torch.addcmul(bias, x, alpha)) * beta


def contenders(batch: Batch, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Forward calls by name; `eager` is the one all others are compared with."""
    w, args = batch.weight, (batch.ids, batch.offsets, *batch.gate)
    buffer = TableGrad()
    calls: dict[str, Callable[[], Tensor]] = {
        "eager": lambda: eager(w, *args),
        "op": lambda: bag_dyt(w, *args),
        "op+plan": lambda: bag_dyt(w, *args, plan=batch.plan),
        "op+buffer": lambda: bag_dyt(w, *args, table_grad=buffer),
    }
    if compiled:
        torch._dynamo.reset()  # or else, after a few shapes, it falls back to eager
        op = torch.compile(eager, dynamic=False)
        calls["compile"] = lambda: op(w, *args)
    if w.is_cuda:
        calls["op+atomic"] = lambda: bag_dyt(w, *args, atomic=True)
    return calls


def passes(batch: Batch, call: Callable[[], Tensor]) -> dict[str, Call]:
    """A contender's forward, backward (of a kept graph) and both, as a training step runs them."""
    leaves = [batch.weight, *batch.gate]
    graph: list[Tensor] = []

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def forward() -> None:
        with torch.no_grad():
            call()

    def backward() -> None:
        if not graph:
            graph.append(call())
        clear()
        torch.autograd.backward(graph[0], batch.dy, retain_graph=True)

    def both() -> None:
        clear()
        call().backward(batch.dy)

    return {"forward": forward, "backward": backward, "both": both}


def clock_of(device: torch.device, cpu_time: bool = False) -> Callable[[Call], float]:
    """Milliseconds of one call; on CUDA by events, after emptying the L2 cache.

    `cpu_time` counts this process's time only: on one thread, what an idle machine would take, but
    for the caches and the memory's bandwidth, which stay shared.
    """
    if device.type != "cuda":
        now = time.process_time if cpu_time else time.perf_counter

        def clock(call: Call) -> float:
            start = now()
            call()
            return (now() - start) * 1e3

        return clock
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device=device)

    def events(call: Call) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        torch.cuda._sleep(2_000_000)  # the device waits, so that the host's launches do not count
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop)

    return events


def peak(call: Call, device: torch.device) -> int | None:
    """Bytes a call allocates at its peak above what stood before; CUDA only."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_ceiling(device: torch.device) -> float:
    """Bytes per second (read plus written) that a large copy reaches: the roof of every pass."""
    size = (1024 if device.type == "cuda" else 256) * 2**20
    source = torch.ones(size // 4, device=device)
    target, clock = torch.empty_like(source), clock_of(device)
    return 2 * size / min(clock(lambda: target.copy_(source)) for _ in range(10)) * 1e3


def table(result: Row) -> str:
    """A row per case, contender and pass."""
    rows = []
    for case in result["cases"]:
        for name, stats in case["contenders"].items():
            for which, s in stats.items():
                memory = "" if s["peak_bytes"] is None else f"{s['peak_bytes'] / 1e6:.1f}"
                times = [f"{s[k]:.3f}" for k in ("ms", "ms_q20", "ms_q80")]
                rates = [f"{s['speedup']:.2f}", f"{s['gather_gb_s']:.1f}", memory]
                rows.append([f"{case['name']} {which} {name}", *times, *rates])
        rows.append([f"{case['name']} plan", f"{case['plan_ms']:.3f}", *[""] * 5])
    head = ["case, pass, contender", "ms", "q20", "q80", "x eager", "GB/s", "peak MB"]
    return f"copy ceiling {result['copy_ceiling_gb_s']:.1f} GB/s\n\n{harness.markdown(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
