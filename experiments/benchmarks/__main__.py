"""Every benchmark, then one table: a row per comparison, with its peer, ratio and spread.

    python -m experiments.benchmarks [--quick] [--busy] [--paths pairs.jsonl --tokenizer FILE]

Each part is a process of its own, on the same pairs. A ratio above 1 means that ours is faster, or
smaller. The spread is that of the rounds: from the lowest to the highest ratio of a round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from experiments.benchmarks import harness
from sse.common.errors import UserError, one_line

Facts = dict[str, Any]


class Row(NamedTuple):
    """One comparison."""

    what: str
    ours: str  # name and median
    peer: str
    ratios: list[float]  # of each round


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Run the parts, print the table, write JSON."""
    made = harness.parser("", __doc__)
    add = made.add_argument
    add("--paths", nargs="+", help="files of pairs (default: docstrings of what is installed)")
    add("--tokenizer", help="tokenizer.json or hub name; with --paths")
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = made.parse_args(arguments)
    if bool(args.paths) != bool(args.tokenizer):
        raise UserError("--paths and --tokenizer go together")
    facts: Facts = {**harness.what_ran(), "busy": args.busy, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        pairs = (args.paths, args.tokenizer) if args.paths else docstrings(Path(folder))
        for name in args.only:
            command = options(name, *pairs, args.quick) + ["--busy"] * args.busy
            facts["parts"][name] = run(name, command, Path(folder) / f"{name}.json")
    harness.finish(facts, table(facts["parts"]), args.json)


def docstrings(folder: Path) -> tuple[list[str], str]:
    """The pairs and the tokenizer of a run without options, as files."""
    from sse.data.made.docstring_pairs import embedded_pairs
    from sse.text.tokenizer import train_tokenizer

    pairs = embedded_pairs(say=harness.say, progress=False)
    columns = {name: list(pairs.texts(name)) for name in ("anchor", "positive")}
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for anchor, positive in zip(*columns.values(), strict=True):
            file.write(json.dumps({"anchor": anchor, "positive": positive}) + "\n")
    train_tokenizer(columns["positive"], progress=False).save(folder / "tokenizer.json")
    return [str(folder / "pairs.jsonl")], str(folder / "tokenizer.json")


def options(name: str, paths: list[str], tokenizer: str, quick: bool) -> list[str]:
    """The command line of a part."""
    own = {
        "encoding": ["--only", "encode", "latency", "cold"],
        "training": ["--paths", *paths, "--tokenizer", tokenizer],
        "loss": ["--memory", "64"] if quick else ["--memory", "4096"],
        "kernels": ["--no-compile", "--ids", "zipf"],
        "search": [],
        "serving": [],
    }[name]
    if quick:
        return [*own, "--quick"]
    larger = ["--batches", "512", "--systems", "sse", "sse, one thread", "sentence-transformers"]
    return own + (larger if name == "training" else [])


def run(name: str, words: list[str], path: Path) -> Facts:
    """One part in a process of its own; what it wrote."""
    harness.say(f"{name} {' '.join(words)}")
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *words, "--json", str(path)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError(f"the benchmark {name} failed: run it alone, or leave it out with --only")
    read: Facts = json.loads(path.read_text("utf-8"))
    return read


def encoding(facts: Facts) -> Iterator[Row]:
    """Texts per second, one query, and a fresh process."""
    for part in ("passages", "queries"):
        yield from against(part, "/s", {n: one["wall"] for n, one in facts[part].items()})
    tenths = {name: one["tenths"] for name, one in facts["latency"].items()}
    yield from against("one query", " us", tenths, less=True)
    for key, unit in (("seconds", " s"), ("peak_mib", " MiB")):
        cold = {name: one[key] for name, one in facts["cold"].items()}
        yield from against(f"cold start, one sentence, {key}", unit, cold, less=True)


def training(facts: Facts) -> Iterator[Row]:
    """Pairs per second and peak memory."""
    done = [row for row in facts["results"] if "failed" not in row]
    for batch, kind in dict.fromkeys((row["batch"], row["kind"]) for row in done):
        rows = {r["system"]: r for r in done if (r["batch"], r["kind"]) == (batch, kind)}
        what = f"training, {batch:,} pairs, {kind}"
        yield from against(what, " pairs/s", {n: r["pairs_per_second"] for n, r in rows.items()})
        memory = {name: row["peak_mib"] for name, row in rows.items()}
        yield from against(f"{what}, memory", " MiB", memory, less=True)


def loss(facts: Facts) -> Iterator[Row]:
    """Milliseconds of value and gradients, and bytes."""
    for pairs, by in facts["time"].items():
        spent = {who: one["rounds"] for who, one in by.items()}
        yield from against(f"loss, {int(pairs):,} pairs", " ms", spent, less=True)
    for pairs, by in facts["memory"].items():
        peaks = {who: [one["bytes"] / 2**20] for who, one in by.items()}
        yield from against(f"loss, {int(pairs):,} pairs, memory", " MiB", peaks, less=True)


def kernels(facts: Facts) -> Iterator[Row]:
    """Milliseconds of forward and backward into a kept buffer."""
    for case in facts["cases"]:
        passes = case["contenders"]
        spent = {name: passes[name]["both"]["rounds"] for name in ("op+buffer", "eager")}
        yield from against(f"mean and DyT, {case['name']}", " ms", spent, less=True)


def search(facts: Facts) -> Iterator[Row]:
    """Queries per second in 512 dimensions."""
    for way in ("one at a time", "100 together"):
        speeds = {n: by["512"] for n, by in facts["search"].items() if n.endswith(way)}
        ours = f"sse, {way}"
        yield from against(f"search, {way}", "/s", {ours: speeds.pop(ours)} | speeds)


def serving(facts: Facts) -> Iterator[Row]:
    """Requests per second, one text each."""
    yield from against("one text over HTTP", "/s", facts["rate"])


def against(
    what: str, unit: str, values: dict[str, list[float]], less: bool = False
) -> Iterator[Row]:
    """The first of `values` against each other one; `less` is better where it is a cost."""
    (ours, own), *peers = values.items()
    for peer, theirs in peers:
        rounds = [b / a if less else a / b for a, b in zip(own, theirs, strict=False)]
        middle = median(own)
        figure = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        yield Row(what, f"{ours}: {figure}{unit}", peer, rounds)


def table(parts: dict[str, Facts]) -> str:
    """A row per comparison."""
    rows = []
    for name, facts in parts.items():
        for row in PARTS[name](facts):
            spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if row.ratios[1:] else ""
            rows.append([row.what, row.ours, row.peer, f"{median(row.ratios):.2f}", spread])
    return harness.markdown(["what", "ours", "peer", "ratio", "spread"], rows)


PARTS: dict[str, Callable[[Facts], Iterator[Row]]] = {
    "encoding": encoding,
    "training": training,
    "loss": loss,
    "kernels": kernels,
    "search": search,
    "serving": serving,
}

if __name__ == "__main__":
    sys.exit(main())
