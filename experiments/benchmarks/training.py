"""Training speed and memory against other trainers: the same pairs, table, loss and batch.

    python -m experiments.benchmarks.training --paths pairs.jsonl.gz [more] --tokenizer
        tokenizer.json

Every measurement is a process of its own, with the settings its users get, and the systems take
turns, so a machine whose speed drifts slows them alike; what is printed is the median over rounds.
Start-up and imports are not timed. Two figures a batch size, and the process's peak memory:

    cached    pairs/s over some steps of tokens that lie in the token cache
    raw       pairs/s over one epoch, reading, tokenising and planning included

sentence-transformers and model2vec tokenise at every step: they have no cache, and the first's
`cached` is its steps alone. model2vec has one dimension instead of five and no DyT. A system whose
logits cannot fit in the memory is not started; one that runs out of it all the same says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.training_report import plot, table
from sse.common.errors import UserError, one_line
from sse.common.files import write_json

SYSTEMS = ("sse", "bare loop", "eager Lightning", "sentence-transformers", "model2vec")
NEEDS = {"sentence-transformers": "accelerate", "model2vec": "model2vec"}
NO_CACHE, NO_READER = ("model2vec",), ("bare loop",)  # without a `cached`, a `raw` figure
BATCHES = (512, 4096, 16384, 65536)
# B x B float32 matrices alive at once: two a Matryoshka dim in the graph and two in hand; one dim
# in model2vec. Ours are tiles, linear in B.
MATRICES = {"eager Lightning": 12, "sentence-transformers": 12, "model2vec": 4}
SHARE = 0.9  # of the free memory that a process may take


class Size(NamedTuple):
    """How long to measure a batch size: what is left of a noisy machine's minutes."""

    batch: int
    steps: int
    warmup: int
    epoch: int  # pairs of the raw epoch; 0: not measured
    rounds: int

    @classmethod
    def of(cls, batch: int, have: int, pairs: int, rounds: int) -> Size:
        """Some 20,000 pairs of those we have; past 4,096 the loss is nearly all, so one round."""
        steps = max(1, min(20_000, have // 2) // batch)
        large = batch > 4096
        epoch = 0 if large else max(2, min(pairs, have) // batch) * batch
        return cls(batch, steps, 0 if large else max(1, steps // 5), epoch, 1 if large else rounds)


@one_line
def main() -> None:
    """Measure, print a table, write JSON and a PNG."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.training", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--paths", nargs="+", required=True, help="files of pairs")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json or hub name")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="pairs a step")
    parser.add_argument("--pairs", type=int, default=30_000, help="pairs of the raw epoch")
    parser.add_argument("--rounds", type=int, default=2, help="of batches up to 4,096; then one")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--json", type=Path, help="file for the results; the plot goes beside it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(**json.loads(options.one))))  # noqa: T201
        return
    for system in options.systems:
        if (needed := NEEDS.get(system)) and importlib.util.find_spec(needed) is None:
            raise UserError(f"{system}'s trainer needs {needed}: pip install '.[peers]'")
    if min(options.batches) < 2 or options.rounds < 1:
        raise UserError("give --batches of at least 2 and --rounds of at least 1")
    facts = measure(options)
    print(table(facts))  # noqa: T201
    if options.json:
        write_json(options.json, facts)
        plot(facts, options.json.with_suffix(".png"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What the JSON holds; `results` has a row a batch size, kind and system."""
    paths, have, left_out = large_enough(options.paths, max(options.batches))
    sizes = [Size.of(batch, have, options.pairs, options.rounds) for batch in options.batches]
    if left_out:
        _tell(f"too few pairs for the largest batch, left out: {', '.join(left_out)}")
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for size in sizes:
        for number in range(size.rounds):
            for kind in ("cached", "raw"):
                for system in options.systems:
                    if (kind == "raw" and not size.epoch) or not _has(system, kind):
                        continue
                    key = (size.batch, kind, system)
                    row = rows.setdefault(key, {"pairs_per_second": [], "peak_mib": []})
                    found = _run(system, kind, size, paths, options.tokenizer)
                    if "failed" in found:
                        row |= found
                    else:
                        for name, value in found.items():
                            row[name].append(value)
                    _tell(f"batch {size.batch}, round {number + 1}: {system}, {kind}: {found}")
    names = ("torch", "lightning", "sentence-transformers", "model2vec", "tokenizers")
    return {
        "command": "python -m experiments.benchmarks.training --paths PAIRS --tokenizer TOKENIZER "
        f"--batches {' '.join(map(str, options.batches))} --pairs {options.pairs} "
        f"--rounds {options.rounds}",
        "sets": [Path(path.split("?")[0]).name for path in paths],
        "results": [
            {"batch": batch, "kind": kind, "system": system, **row}
            for (batch, kind, system), row in rows.items()
        ],
        "processors": len(os.sched_getaffinity(0)),
        "versions": {name: _version(name) for name in names},
    }


def _has(system: str, kind: str) -> bool:
    return system not in (NO_CACHE if kind == "cached" else NO_READER)


def large_enough(paths: list[str], batch: int) -> tuple[list[str], int, list[str]]:
    """Paths of which each set fills two of the largest batches, their pairs; names of the others.

    All sizes then train on the same texts.

    Raises:
        UserError: there is none.
    """
    from sse.data.pair_set import load_sets

    lengths = {path: min(map(len, load_sets([path], say=lambda line: None))) for path in paths}
    kept = [path for path, length in lengths.items() if length >= 2 * batch]
    if not kept:
        raise UserError(
            f"no set of --paths has {2 * batch:,} pairs, two batches of {batch:,}: "
            "give smaller --batches"
        )
    have = sum(lengths[path] for path in kept)
    return kept, have, [Path(path).name for path in paths if path not in kept]


def _run(system: str, kind: str, size: Size, paths: list[str], tokenizer: str) -> dict[str, Any]:
    """One fresh process: pairs/s and peak MiB, or why there is none."""
    free = available()
    need = MATRICES.get(system, 0) * 4 * size.batch**2
    if need > SHARE * free:
        return {"failed": f"not started: needs {need / 2**30:,.0f} GiB of {free / 2**30:,.0f} free"}
    given: dict[str, Any] = {"system": system, "kind": kind, "size": size, "paths": paths}
    given |= {"tokenizer": tokenizer, "memory": int(SHARE * free)}
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.training",
        "--paths",
        "-",
        "--tokenizer",
        "-",
    ]
    command += ["--one", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    error = done.stderr.strip()
    if done.returncode < 0 or "allocate" in error or "MemoryError" in error:
        return {"failed": f"out of memory ({SHARE * free / 2**30:,.0f} GiB given)"}
    raise UserError(f"{system} ({kind}, batch {size.batch}) failed: {error[-500:]}")


def _measure(
    system: str, kind: str, size: list[int], paths: list[str], tokenizer: str, memory: int
) -> dict[str, float]:
    """One measurement in this process, which may take `memory` bytes."""
    from experiments.benchmarks import training_peers as bench_training_peers
    from experiments.benchmarks import training_systems as bench_training_systems

    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))
    found = {
        "sse": bench_training_systems.ours,
        "bare loop": bench_training_systems.bare_loop,
        "eager Lightning": bench_training_systems.eager,
        "sentence-transformers": bench_training_peers.sentence_transformers,
        "model2vec": bench_training_peers.model2vec,
    }
    seconds, pairs = found[system](kind, Size(*size), paths, tokenizer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {"pairs_per_second": round(pairs / seconds, 1), "peak_mib": round(peak / 1024, 1)}


def available() -> int:
    """Bytes of memory that a new process can have."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["MemAvailable"].split()[0])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tell(line: str) -> None:
    stamp = time.strftime("%H:%M:%S")
    print(f"{stamp} {line}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
