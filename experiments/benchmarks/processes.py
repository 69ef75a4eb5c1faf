"""Training speed of several processes against one, and where a step's time goes.

    python -m experiments.benchmarks.processes --paths pairs.jsonl --tokenizer tokenizer.json
        [--processes 2]

One process of one thread trains on B pairs a step, N processes of one thread each on B pairs each,
every query against the documents of all: N times the pairs, and N times the loss's work for each.
Linear is N times the pairs/s. The same batches of N * B pairs on one process are the third figure:
what the processes are worth for one and the same training. All take turns; start-up is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sse.common.errors import UserError, one_line
from sse.common.files import write_json

STEPS, WARMUP = 60, 10


@one_line
def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.processes", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--paths", nargs="+", required=True, help="files of pairs")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json or hub name")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512, help="pairs per process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = _measure(options)
        if found:
            print(json.dumps(found))  # noqa: T201
        return
    rounds = []
    for number in range(options.rounds):
        n, b = options.processes, options.batch
        kinds = ((1, b), (n, b), (1, n * b))
        rounds.append([_run(count, size, options) for count, size in kinds])
        rates = [f"{found['pairs_per_second']:,.0f}" for found in rounds[-1]]
        line = f"round {number + 1}: {', '.join(rates)} pairs/s"
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    facts = _summary(rounds, options.processes, options.batch)
    if options.json:
        write_json(options.json, facts)


def _run(processes: int, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement with `processes` fresh processes of one thread and `batch` pairs each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc_per_node",
        str(processes),
        "-m",
        "experiments.benchmarks.processes",
        "--one",
    ]
    command += ["--tokenizer", options.tokenizer, "--batch", str(batch)]
    command += ["--paths", *options.paths]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"{processes} processes failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


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


def _measure(options: argparse.Namespace) -> dict[str, Any] | None:
    """The bare training step of this process; the first process returns what it took."""
    import torch

    from sse.data.batches import PairBatches
    from sse.data.datamodule import SSEDataModule
    from sse.training import column_parallel
    from sse.training import processes as distributed
    from sse.training.allocator import keep_freed_memory
    from sse.training.module import SSEModule, own_rows

    keep_freed_memory()
    distributed.join(cuda=False)
    world, rank = distributed.world(), distributed.rank()
    data = SSEDataModule(
        options.paths, tokenizer=options.tokenizer, batch_size=options.batch, holdout=0
    )
    distributed.in_turn(lambda: data.build(lambda line: None))
    module = SSEModule()
    module.build(data.tokenizer)
    module.shard()
    batches = PairBatches(data.sets, data.plan(0, world)[: STEPS + WARMUP])
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
            loss = module._loss(columns, None, own_rows(batch["pairs"], rank, world))
        with clock.part("backward, scattering"):
            loss.backward()
        with clock.part("optimiser"):
            optimizer.step()
            optimizer.zero_grad()
        pairs += batch["pairs"] if step >= WARMUP else 0
    seconds = time.perf_counter() - start
    distributed.highest([0])  # nobody leaves while another still trains
    distributed.leave()
    if rank:
        return None
    parts = {k: 1e3 * v / (len(batches) - WARMUP) for k, v in clock.seconds.items()}
    return {"pairs_per_second": pairs / seconds, "milliseconds": parts}


def _summary(rounds: list[list[dict[str, Any]]], processes: int, batch: int) -> dict[str, Any]:
    """Print the table; return what the JSON holds."""
    kinds = range(3)
    rates = [median(r[k]["pairs_per_second"] for r in rounds) for k in kinds]
    by_one, by_same = (
        median(r[1]["pairs_per_second"] / r[k]["pairs_per_second"] for r in rounds) for k in (0, 2)
    )
    heads = [f"1 x {batch}", f"{processes} x {batch}", f"1 x {processes * batch}"]
    lines = [f"{'ms a step, median':24}" + "".join(f"{head:>12}" for head in heads)]
    parts: dict[str, list[float]] = {}
    for name in rounds[0][1]["milliseconds"]:
        parts[name] = [median(r[k]["milliseconds"].get(name, 0.0) for r in rounds) for k in kinds]
        lines.append(f"{name:24}" + "".join(f"{value:>12.1f}" for value in parts[name]))
    lines.append(f"{'pairs/s':24}" + "".join(f"{rate:>12,.0f}" for rate in rates))
    lines.append(
        f"{processes} processes: {by_one / processes:.2f} of linear, and {by_same:.2f} times one "
        "process with the same batches"
    )
    print("\n".join(lines))  # noqa: T201
    return {
        "command": f"python -m experiments.benchmarks.processes "
        f"--processes {processes} --batch {batch}",
        "columns": heads,
        "pairs_per_second": rates,
        "of_linear": round(by_one / processes, 3),
        "ratio_to_one_process_with_the_same_batches": round(by_same, 3),
        "milliseconds": parts,
        "rounds": rounds,
    }


if __name__ == "__main__":
    sys.exit(main())
