"""What the benchmark times: batches, contenders, clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sse_kernels import TableGrad, bag_dyt, plan_bags
from sse_kernels.reference import bag_dyt_reference
from torch import Tensor

Call = Callable[[], Any]
Stats = dict[str, float]


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
        count = case.bags * case.length
        # inverse transform: multinomial stops at 2^24 categories and is slow for long draws
        edges = weights.double().cumsum(0)
        draws = torch.rand(count, generator=g, dtype=torch.float64) * edges[-1]
        self.ids = torch.searchsorted(edges, draws).clamp_(max=case.vocab - 1).to(device)
        self.offsets = torch.arange(case.bags + 1, device=device) * case.length
        dtype = getattr(torch, case.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(device, dtype)

        self.weight = normal(case.vocab, case.dim).requires_grad_()
        self.gate = [normal(case.dim).requires_grad_() for _ in range(3)]
        self.dy = normal(case.bags, case.dim)
        self.plan = plan_bags(self.ids, self.offsets, case.vocab)
        self.distinct = int(self.ids.unique().numel())


def contenders(batch: Batch, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Forward calls by name; `eager` is the one all others are compared with."""
    w, args = batch.weight, (batch.ids, batch.offsets, *batch.gate)
    buffer = TableGrad()
    calls: dict[str, Callable[[], Tensor]] = {
        "eager": lambda: bag_dyt_reference(w, *args),
        "op": lambda: bag_dyt(w, *args),
        "op+plan": lambda: bag_dyt(w, *args, plan=batch.plan),
        "op+buffer": lambda: bag_dyt(w, *args, table_grad=buffer),
    }
    if compiled:
        op = torch.compile(bag_dyt_reference, dynamic=False)
        calls["compile"] = lambda: op(w, *args)
    if w.is_cuda:
        calls["op+atomic"] = lambda: bag_dyt(w, *args, atomic=True)
    return calls


def passes(batch: Batch, call: Callable[[], Tensor]) -> dict[str, Call]:
    """A contender's forward, backward (of a kept graph) and both, as a training step runs them."""
    leaves = [batch.weight, *batch.gate]

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def forward() -> None:
        with torch.no_grad():
            call()

    graph: list[Tensor] = []

    def backward() -> None:
        if not graph:
            graph.append(call())
        clear()
        torch.autograd.backward(graph[0], batch.dy, retain_graph=True)

    def both() -> None:
        clear()
        call().backward(batch.dy)

    return {"forward": forward, "backward": backward, "both": both}


def race(
    calls: dict[str, Call], rounds: int, device: torch.device, cpu_time: bool = False
) -> dict[str, Stats]:
    """Time the calls in turn, `rounds` times: ms with quantiles, and the median ratio to `eager`.

    Taking turns lets a machine's other load fall on all alike; the ratio is taken within a turn.
    """
    clock = _clock(device, cpu_time)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for turn in range(rounds):
        order = list(calls.items())
        for name, call in order if turn % 2 == 0 else reversed(order):
            times[name].append(clock(call))
    return {name: _summary(values, times["eager"]) for name, values in times.items()}


def _summary(values: list[float], eager: list[float]) -> Stats:
    low, middle, high = statistics.quantiles(values, n=10)[1::3]  # 0.2, 0.5, 0.8
    ratio = statistics.median(e / v for e, v in zip(eager, values, strict=True))
    return {"ms": middle, "ms_q20": low, "ms_q80": high, "speedup": ratio}


def _clock(device: torch.device, cpu_time: bool = False) -> Callable[[Call], float]:
    """Milliseconds of one call; on CUDA by events, after emptying the L2 cache.

    `cpu_time` counts this process's time only: on one thread, what a machine with nothing else to
    do would take, but for the caches and the memory's bandwidth, which stay shared.
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
    call()
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
    target = torch.empty_like(source)
    clock = _clock(device)
    best = min(clock(lambda: target.copy_(source)) for _ in range(10))
    return 2 * size / best * 1e3


def traffic(case: Case, distinct: int) -> dict[str, int]:
    """Bytes: `forward`, `backward` are compulsory, each row once; `gather` counts every token."""
    size = getattr(torch, case.dtype).itemsize
    tokens, out = case.bags * case.length, case.bags * case.dim
    ids = 8 * (tokens + case.bags + 1)
    return {
        "forward": distinct * case.dim * size + ids + out * size,
        "backward": case.vocab * case.dim * size + ids + out * (size + 4),
        "gather": tokens * case.dim * size,
    }
