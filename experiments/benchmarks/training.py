"""Training speed and memory against other trainers: the same pairs, table, loss and batch.

    python -m experiments.benchmarks.training --paths pairs.jsonl.gz [more]
        --tokenizer tokenizer.json

Every measurement is a process of its own, with the settings its users get. Start-up and imports are
not timed. Two figures per batch size, and the process's peak memory:

    cached    pairs/s over some steps of tokens that lie in the token cache
    raw       pairs/s over one epoch, reading, tokenising and planning included

`sse, one thread` is ours on one thread. With --busy the last core is kept busy, so that these two
tell what a neighbour costs: --busy --pairs 0 --systems sse "sse, one thread".

sentence-transformers and model2vec tokenise at every step: they have no cache, and the first's
`cached` is its steps alone. model2vec has one dimension instead of five and no DyT. A system whose
logits cannot fit in the memory is not started; one that runs out of it all the same says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from experiments.benchmarks import harness
from sse.common.errors import UserError, one_line

BASE = "sentence-transformers"
ONE_THREAD = "sse, one thread"
SYSTEMS = ("sse", ONE_THREAD, "bare loop", "eager Lightning", BASE, "model2vec")
NEEDS = {BASE: "accelerate", "model2vec": "model2vec"}
NO_CACHE, NO_READER = ("model2vec",), ("bare loop",)  # without a `cached`, a `raw` figure
# B x B float32 matrices alive at once: two per Matryoshka dim in the graph and two in hand; one dim
# in model2vec. Ours are tiles, linear in B.
MATRICES = {"eager Lightning": 12, BASE: 12, "model2vec": 4}
SHARE = 0.9  # of the free memory that a process may take
QUICK = {"batches": [16], "pairs": 64, "rounds": 1, "steps": 2, "systems": ["sse", "bare loop"]}


class Size(NamedTuple):
    """How long to measure a batch size: what is left of a noisy machine's minutes."""

    batch: int
    steps: int
    warmup: int
    epoch: int  # pairs of the raw epoch; 0: not measured
    rounds: int

    @classmethod
    def of(cls, batch: int, have: int, pairs: int, rounds: int, most: int = 10**9) -> Size:
        """Some 50,000 pairs of those we have; past 4,096 the loss is nearly all, so one round."""
        steps = min(most, max(1, min(50_000, have * 4 // 5) // batch))
        large = batch > 4096
        epoch = 0 if large or not pairs else max(2, min(pairs, have) // batch) * batch
        return cls(batch, steps, 0 if large else max(1, steps // 5), epoch, 1 if large else rounds)


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write JSON and a PNG."""
    made = harness.parser("training", __doc__)
    add = made.add_argument
    add("--paths", nargs="+", required=True, help="files of pairs")
    add("--tokenizer", required=True, help="tokenizer.json or hub name")
    batches = [512, 4096, 16384, 65536]
    add("--batches", nargs="+", type=int, default=batches, help="pairs per step")
    add("--pairs", type=int, default=30_000, help="pairs of the raw epoch; 0: none")
    add("--rounds", type=int, default=2, help="of batches up to 4,096; then one")
    add("--steps", type=int, default=10**9, help="timed steps at most")
    add("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--one", help=argparse.SUPPRESS)
    options = harness.parse(made, arguments, QUICK, "rounds", "steps")
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    for system in options.systems:
        if (needed := NEEDS.get(system)) and importlib.util.find_spec(needed) is None:
            raise UserError(f"{system}'s trainer needs {needed}: pip install '.[peers]'")
    if min(options.batches) < 2:
        raise UserError("--batches: give at least 2")
    facts = {**harness.what_ran(), **compare(options)}
    harness.finish(facts, table(facts), options.json)
    if options.json:
        harness.figure(options.json.with_suffix(".png"), panels(facts), log=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """`results` has a row per batch size, kind and system."""
    paths, have, left_out = large_enough(options.paths, max(options.batches))
    if left_out:
        harness.say(f"too few pairs for the largest batch, left out: {', '.join(left_out)}")
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        size = Size.of(batch, have, options.pairs, options.rounds, options.steps)
        own = {
            (kind, system): {"batch": batch, "kind": kind, "system": system,
                             "pairs_per_second": [], "peak_mib": []}
            for kind in (("cached", "raw") if size.epoch else ("cached",))
            for system in options.systems
            if has(system, kind)
        }  # fmt: skip
        rows += own.values()
        for number in range(size.rounds):
            for (kind, system), row in own.items():
                measured = run(system, kind, size, paths, options.tokenizer)
                harness.say(f"batch {batch}, round {number + 1}: {system}, {kind}: {measured}")
                for name, value in measured.items():
                    if name == "failed":
                        row[name] = value
                    else:
                        row[name].append(value)
    return {
        "sets": [Path(path.split("?")[0]).name for path in paths],
        "processors": len(os.sched_getaffinity(0)),
        "results": rows,
    }


def has(system: str, kind: str) -> bool:
    """Whether a system has a figure of a kind."""
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


def run(system: str, kind: str, size: Size, paths: list[str], tokenizer: str) -> dict[str, Any]:
    """One fresh process: pairs/s and peak MiB, or why there is none."""
    free = available()
    need = MATRICES.get(system, 0) * 4 * size.batch**2
    if need > SHARE * free:
        return {"failed": f"not started: needs {need / 2**30:,.0f} GiB of {free / 2**30:,.0f} free"}
    one = {"system": system, "kind": kind, "size": size, "paths": paths, "tokenizer": tokenizer}
    one |= {"memory": int(SHARE * free)}
    command = ["-m", "experiments.benchmarks.training", "--paths", "-", "--tokenizer", "-"]
    environment = {"OMP_NUM_THREADS": "1"} if system == ONE_THREAD else {}
    done = harness.fresh([*command, "--one", json.dumps(one)], **environment)
    if done.returncode == 0:
        measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return measured
    error = done.stderr.strip()
    if done.returncode < 0 or "allocate" in error or "MemoryError" in error:
        return {"failed": f"out of memory ({SHARE * free / 2**30:,.0f} GiB given)"}
    raise UserError(f"{system} ({kind}, batch {size.batch}) failed: {error[-500:]}")


def measure(
    system: str, kind: str, size: list[int], paths: list[str], tokenizer: str, memory: int
) -> dict[str, float]:
    """One measurement in this process, which may take `memory` bytes."""
    from experiments.benchmarks import training_peers

    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))
    spent, pairs = training_peers.SYSTEMS[system](kind, Size(*size), paths, tokenizer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {"pairs_per_second": round(pairs / spent, 1), "peak_mib": round(peak / 1024, 1)}


def available() -> int:
    """Bytes of memory that a new process can have."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["MemAvailable"].split()[0])


def table(facts: dict[str, Any]) -> str:
    """A row per batch size, kind and system; a system that did not run says why."""
    rows = facts["results"]
    peer_name = next((b for b in (BASE, ONE_THREAD) if any(r["system"] == b for r in rows)), BASE)
    base = {(r["batch"], r["kind"]): r for r in rows if r["system"] == peer_name}
    lines = []
    for row in rows:
        head = [f"{row['batch']:,} {row['kind']} {row['system']}"]
        if "failed" in row:
            lines.append([*head, row["failed"], "", ""])
            continue
        rates, peer = row["pairs_per_second"], base.get((row["batch"], row["kind"]))
        x = (
            f"{harness.ratio(rates, peer['pairs_per_second']):.2f}"
            if peer and "failed" not in peer
            else ""
        )
        lines.append([*head, f"{median(rates):,.0f}", x, f"{median(row['peak_mib']):,.0f}"])
    return harness.markdown(["batch, from, system", "pairs/s", f"x {peer_name}", "peak MiB"], lines)


def panels(facts: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Pairs/s from the cache and from text, and peak memory, by batch size and system."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for kind, quantity, title in (
        ("cached", "pairs_per_second", "pairs/s, steps alone"),
        ("raw", "pairs_per_second", "pairs/s from raw text"),
        ("cached", "peak_mib", "peak memory, MiB"),
    ):
        for row in facts["results"]:
            if row["kind"] == kind and "failed" not in row:
                own = out.setdefault(title, {}).setdefault(row["system"], {})
                own[f"batch {row['batch']:,}"] = median(row[quantity])
    return out


if __name__ == "__main__":
    sys.exit(main())
