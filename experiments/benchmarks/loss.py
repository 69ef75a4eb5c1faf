"""Time and memory of the contrastive loss against dense PyTorch and sentence-transformers' losses.

    python -m experiments.benchmarks.loss                        # time at 512 to 4,096 pairs
    python -m experiments.benchmarks.loss --memory 16384         # peak memory at 16,384 pairs

Contenders compute value and gradients of the same vectors: `tiled` or `triton` (ours), `dense`
(cross_entropy of B x B logits, a dim at a time) and `sentence-transformers`
(MatryoshkaLoss(MultipleNegativesRankingLoss)). They take turns; ratios are medians of each turn's.
On a CPU memory is the peak of a fresh process less what it held before, in bytes; on a GPU the
allocator's peak, and times are CUDA events'.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.encoding import machine
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import write_json
from sse.loss.matryoshka import matryoshka_loss

DIMS = (512, 256, 128, 64, 32)
PEERS = ("dense", "sentence-transformers")
Call = Callable[[], Any]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    parser = Parser(prog="python -m experiments.benchmarks.loss", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    cuda = torch.cuda.is_available()
    parser.add_argument("--batches", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="PAIRS")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "PAIRS"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rounds < 1 or min([*args.batches, *args.memory], default=2) < 2:
        raise UserError("--rounds: give at least 1; --batches, --memory: at least 2 pairs")
    if args.one:
        print(peak(args.one[0], int(args.one[1]), args.device))  # noqa: T201
        return
    ours = "triton" if args.device == "cuda" else "tiled"
    facts: dict[str, Any] = {
        "command": f"python -m experiments.benchmarks.loss --batches {_words(args.batches)} "
        f"--memory {_words(args.memory)} --rounds {args.rounds} --device {args.device}",
        "machine": machine() | {"threads": torch.get_num_threads()},
        "dims": DIMS,
        "time": {str(b): times(b, ours, args.rounds, args.device) for b in args.batches},
        "memory": {str(b): memory(b, ours, args.device) for b in args.memory},
    }
    print(table(facts, ours))  # noqa: T201
    if args.json:
        write_json(args.json, facts)


def contender(who: str, pairs: int, device: str) -> Call:
    """Value and gradients of `pairs` pairs of random vectors."""
    generator = torch.Generator().manual_seed(0)
    q, d = (
        torch.randn(pairs, DIMS[0], generator=generator).to(device).requires_grad_()
        for _ in range(2)
    )
    loss = _sentence_transformers(q, d) if who == "sentence-transformers" else _ours(who, q, d)
    return lambda: torch.autograd.grad(loss(), (q, d))


def _ours(backend: Any, q: Tensor, d: Tensor) -> Callable[[], Tensor]:
    return lambda: matryoshka_loss(q, d, DIMS, backend=backend)


def _sentence_transformers(q: Tensor, d: Tensor) -> Callable[[], Tensor]:
    """MatryoshkaLoss over the ranking loss, on vectors in place of a model's."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.modules import Module

    class Vectors(Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
            return {"sentence_embedding": (q, d)[features["column"]] + 0.0}

        def save(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

    model = SentenceTransformer(modules=[Vectors()], device=q.device.type)
    loss = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), list(DIMS))
    features = [{"column": i, "input_ids": torch.zeros(1)} for i in range(2)]
    return lambda: loss(features, None)


def times(pairs: int, ours: str, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Milliseconds by contender, and how often ours fits into each."""
    calls = {who: contender(who, pairs, device) for who in (ours, *PEERS)}
    spent: dict[str, list[float]] = {who: [] for who in calls}
    for turn in range(rounds + 1):
        order = list(calls) if turn % 2 else list(calls)[::-1]
        for who in order:
            value = _milliseconds(calls[who], device)
            if turn:  # the first one warms up
                spent[who].append(value)
    return {
        who: {
            "ms": median(values),
            "ratio": median(a / b for a, b in zip(values, spent[ours], strict=True)),
        }
        for who, values in spent.items()
    }


def _milliseconds(call: Call, device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def memory(pairs: int, ours: str, device: str) -> dict[str, dict[str, float]]:
    """Peak bytes by contender, each in a process of its own, and in units of ours."""
    peaks = {}
    for who in (ours, *PEERS):
        command = [sys.executable, "-m", "experiments.benchmarks.loss", "--device", device]
        done = subprocess.run(
            [*command, "--one", who, str(pairs)], capture_output=True, text=True, check=False
        )
        if done.returncode:  # out of memory is a result too
            print(f"{who} at {pairs}: {done.stderr.strip()[-200:]}", file=sys.stderr)  # noqa: T201
            continue
        peaks[who] = json.loads(done.stdout)
    return {who: {"bytes": n, "ratio": n / peaks[ours]} for who, n in peaks.items()}


def _words(values: list[int]) -> str:
    return " ".join(map(str, values))


def peak(who: str, pairs: int, device: str) -> int:
    """Bytes at the peak beyond the vectors themselves; in a fresh process."""
    contender(who, 32, device)()  # what a first call loads
    call = contender(who, pairs, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    call()
    # Not ru_maxrss: it begins with what the process had that started this one.
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes by /proc/self/status: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def table(facts: dict[str, Any], ours: str) -> str:
    """A line a batch and contender."""
    lines = [f"{'pairs':>7} {'':24}{'time, ms':>12}{'x ' + ours:>12}"]
    for b, by in facts["time"].items():
        lines += [f"{b:>7} {w:24}{v['ms']:12.1f}{v['ratio']:12.2f}" for w, v in by.items()]
    if facts["memory"]:
        lines.append(f"{'pairs':>7} {'':24}{'peak, MB':>12}{'x ' + ours:>12}")
    for b, by in facts["memory"].items():
        lines += [f"{b:>7} {w:24}{v['bytes'] / 1e6:12.1f}{v['ratio']:12.2f}" for w, v in by.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
