"""Training speed of several processes against one, and where a step's time goes.

    python -m experiments.benchmarks.processes --paths pairs.jsonl --tokenizer tokenizer.json
        [--processes 2]

One process of one thread trains on B pairs per step. N processes of one thread each train on B
pairs each, every query against the documents of all: N times the pairs, and N times the loss's work
for each. Linear is N times the pairs/s. The third figure is one process with batches of N * B
pairs: the same training. Start-up is not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from experiments.benchmarks import harness
from sse.common.errors import UserError, one_line

WARMUP = 10
Measured = dict[str, Any]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    made = harness.parser("processes", __doc__)
    add = made.add_argument
    add("--paths", nargs="+", required=True, help="files of pairs")
    add("--tokenizer", required=True, help="tokenizer.json or hub name")
    add("--processes", type=int, default=2)
    add("--batch", type=int, default=512, help="pairs per process")
    add("--rounds", type=int, default=3)
    add("--steps", type=int, default=60, help="timed steps")
    add("--one", action="store_true", help=argparse.SUPPRESS)
    quick = {"batch": 16, "rounds": 1, "steps": 2}
    options = harness.parse(made, arguments, quick, "processes", "batch", "rounds", "steps")
    if options.one:
        if measured := measure(options):
            print(json.dumps(measured))
        return
    n, b = options.processes, options.batch
    details: dict[str, list[Measured]] = {}

    def turn(count: int, size: int) -> float:
        details.setdefault(f"{count} x {size}", []).append(run(count, size, options))
        return details[f"{count} x {size}"][-1]["pairs_per_second"]

    kinds = {f"{c} x {s}": (c, s) for c, s in ((1, b), (n, b), (1, n * b))}
    calls = {head: lambda kind=kind: turn(*kind) for head, kind in kinds.items()}
    facts = {
        **harness.what_ran(),
        **summary(harness.turns(calls, options.rounds, warmup=0), details, n),
    }
    harness.finish(facts, table(facts), options.json)


def run(processes: int, batch: int, options: argparse.Namespace) -> Measured:
    """One measurement with `processes` fresh processes of one thread and `batch` pairs each."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    command += ["-m", "experiments.benchmarks.processes", "--one", "--steps", options.steps]
    command += ["--tokenizer", options.tokenizer, "--batch", batch, "--paths", *options.paths]
    done = harness.fresh(command, OMP_NUM_THREADS="1")
    if done.returncode:
        raise UserError(f"{processes} processes failed: {done.stderr.strip()[-500:]}")
    measured: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    harness.say(f"{processes} x {batch}: {measured['pairs_per_second']:,.0f} pairs/s")
    return measured


class Clock:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def around(self, name: str, function: Any) -> Any:
        """`function`, timed."""

        def timed(*args: Any) -> Any:
            with self.part(name):
                return function(*args)

        return timed


def measure(options: argparse.Namespace) -> Measured | None:
    """The bare training step of this process; the first process returns what it took."""
    import torch

    from sse.data.batches import PairBatches
    from sse.data.datamodule import SSEDataModule
    from sse.training import column_parallel
    from sse.training import processes as distributed
    from sse.training.host.allocator import keep_freed_memory
    from sse.training.module import SSEModule, own_rows

    keep_freed_memory()
    distributed.join(cuda=False)
    world, rank = distributed.world(), distributed.rank()
    data = SSEDataModule(
        options.paths, tokenizer=options.tokenizer, batch_size=options.batch, holdout=0
    )
    distributed.in_turn(lambda: data.build(lambda line: None))
    module = SSEModule(norm="dyt", norm_lr=None)
    module.build(data.tokenizer)
    module.shard()
    batches = PairBatches(data.sets, data.plan(0, world)[: options.steps + WARMUP])
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, eps=1e-10, fused=True)
    clock, start, pairs = Clock(), 0.0, 0
    kind: Any = column_parallel._GatherColumns
    kind.forward = staticmethod(clock.around("gathering", kind.forward))
    kind.backward = staticmethod(clock.around("scattering", kind.backward))
    for step in range(len(batches)):
        if step == WARMUP:
            clock.seconds, start = {}, time.perf_counter()
        with clock.part("data"):
            batch = batches[step]
        with clock.part("pooling, gathering"):
            vectors = module.pool(batch)
        with clock.part("loss"):
            columns = vectors.unflatten(0, (-1, batch["pairs"]))
            loss = module.objective(columns, own_rows(batch["pairs"], rank, world), None, None)
        with clock.part("backward, scattering"):
            loss.backward()
        with clock.part("optimiser"):
            optimizer.step()
            optimizer.zero_grad()
        pairs += batch["pairs"] if step >= WARMUP else 0
    spent = time.perf_counter() - start
    distributed.highest([0])  # nobody leaves while another still trains
    distributed.leave()
    if rank:
        return None
    if not pairs:
        raise UserError(f"--paths: fewer than {WARMUP + 1} batches; give more pairs")
    parts = {k: 1e3 * v / (len(batches) - WARMUP) for k, v in clock.seconds.items()}
    return {"pairs_per_second": pairs / spent, "milliseconds": parts}


def summary(
    rates: dict[str, list[float]], details: dict[str, list[Measured]], processes: int
) -> Measured:
    """What the JSON holds."""
    one, many, same = rates
    names = details[one][0]["milliseconds"]
    return {
        "columns": list(rates),
        "pairs_per_second": [median(values) for values in rates.values()],
        "of_linear": round(harness.ratio(rates[many], rates[one]) / processes, 3),
        "ratio_to_one_process_with_the_same_batches": round(
            harness.ratio(rates[many], rates[same]), 3
        ),
        "milliseconds": {
            name: [median(r["milliseconds"].get(name, 0.0) for r in details[k]) for k in rates]
            for name in names
        },
        "rounds": details,
    }


def table(facts: Measured) -> str:
    """A row per part of a step."""
    rows = [[name, *(f"{v:.1f}" for v in vs)] for name, vs in facts["milliseconds"].items()]
    rows.append(["pairs/s", *(f"{rate:,.0f}" for rate in facts["pairs_per_second"])])
    return (
        harness.markdown(["ms per step, median", *facts["columns"]], rows)
        + f"\n\n{facts['columns'][1]}: {facts['of_linear']:.2f} of linear, and "
        f"{facts['ratio_to_one_process_with_the_same_batches']:.2f} times one process with the "
        "same batches"
    )


if __name__ == "__main__":
    sys.exit(main())
