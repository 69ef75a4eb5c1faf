"""Time and memory of the contrastive loss against dense PyTorch and sentence-transformers' losses.

    python -m experiments.benchmarks.loss                        # time at 512 to 4,096 pairs
    python -m experiments.benchmarks.loss --memory 16384         # peak memory at 16,384 pairs

Contenders compute value and gradients of the same vectors: `tiled` or `triton` (ours), `dense`
(cross_entropy of B x B logits, a dim at a time) and `sentence-transformers`
(MatryoshkaLoss(MultipleNegativesRankingLoss)). On a CPU memory is the peak of a fresh process less
what it held before; on a GPU the allocator's peak, and times are CUDA events'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks import harness
from experiments.benchmarks.kernels import clock_of
from sse.common.errors import UserError, one_line
from sse.loss.matryoshka import matryoshka_loss

DIMS = (512, 256, 128, 64, 32)
PEERS = ("dense", "sentence-transformers")
Call = Callable[[], Any]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    made = harness.parser("loss", __doc__)
    add = made.add_argument
    add("--batches", type=int, nargs="*", default=[512, 1024, 2048, 4096], help="pairs")
    add("--memory", type=int, nargs="*", default=[], metavar="PAIRS")
    add("--rounds", type=int, default=7)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, choices=["cpu", "cuda"])
    add("--one", nargs=2, metavar=("WHO", "PAIRS"), help=argparse.SUPPRESS)
    args = harness.parse(made, arguments, {"batches": [64], "memory": [64], "rounds": 1}, "rounds")
    if args.one:
        print(peak(args.one[0], int(args.one[1]), args.device))
        return
    if min([*args.batches, *args.memory], default=2) < 2:
        raise UserError("--batches, --memory: give at least 2 pairs")
    ours = "triton" if args.device == "cuda" else "tiled"
    facts: dict[str, Any] = {
        **harness.what_ran(),
        "dims": DIMS,
        "time": {str(b): times(b, ours, args.rounds, args.device) for b in args.batches},
        "memory": {str(b): memory(b, ours, args.device) for b in args.memory},
    }
    harness.finish(facts, table(facts, ours), args.json)


def contender(who: str, pairs: int, device: str) -> Call:
    """Value and gradients of `pairs` pairs of random vectors."""
    generator = torch.Generator().manual_seed(0)
    q, d = (
        torch.randn(pairs, DIMS[0], generator=generator).to(device).requires_grad_()
        for _ in range(2)
    )
    backend: Any = who
    ours = partial(matryoshka_loss, q, d, DIMS, backend=backend)
    loss = sentence_transformers(q, d) if who == "sentence-transformers" else ours
    return lambda: torch.autograd.grad(loss(), (q, d))


def sentence_transformers(q: Tensor, d: Tensor) -> Callable[[], Tensor]:
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


def times(pairs: int, ours: str, rounds: int, device: str) -> dict[str, dict[str, Any]]:
    """Milliseconds by contender, and how often ours fits into each."""
    clock = clock_of(torch.device(device))
    calls = {who: partial(clock, contender(who, pairs, device)) for who in (ours, *PEERS)}
    spent = harness.turns(calls, rounds)
    return {
        w: {"ms": median(v), "ratio": harness.ratio(v, spent[ours]), "rounds": v}
        for w, v in spent.items()
    }


def memory(pairs: int, ours: str, device: str) -> dict[str, dict[str, float]]:
    """Peak bytes by contender, each in a process of its own, and in units of ours."""
    peaks = {}
    for who in (ours, *PEERS):
        command = ["-m", "experiments.benchmarks.loss", "--device", device, "--one", who, pairs]
        done = harness.fresh(command)
        if done.returncode:  # out of memory is a result too
            harness.say(f"{who} at {pairs}: {done.stderr.strip()[-200:]}")
            continue
        peaks[who] = json.loads(done.stdout)
    return {who: {"bytes": n, "ratio": n / peaks[ours]} for who, n in peaks.items()}


def peak(who: str, pairs: int, device: str) -> int:
    """Bytes at the peak beyond the vectors themselves; in a fresh process."""
    contender(who, 32, device)()  # what a first call loads
    call = contender(who, pairs, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = harness.resident("VmRSS")
    call()
    return harness.resident("VmHWM") - before


def table(facts: dict[str, Any], ours: str) -> str:
    """A row per batch and contender."""
    parts = []
    for part, head, unit, key in (("time", "ms", 1, "ms"), ("memory", "peak MB", 1e6, "bytes")):
        rows = [
            [f"{int(b):,} {who}", f"{v[key] / unit:.1f}", f"{v['ratio']:.2f}"]
            for b, by in facts[part].items()
            for who, v in by.items()
        ]
        parts += [harness.markdown([f"pairs, {part}", head, f"x {ours}"], rows)] if rows else []
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
