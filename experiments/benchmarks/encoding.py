"""Encoding and searching against the peers, in one process, taking turns on the same fresh texts.

    python -m experiments.benchmarks.encoding [--model DIR] [--texts FILE] [--queries FILE] [--only
        encode latency ...]

    encode   texts/s of passages and of queries; ratios to sentence-transformers
    latency  one query at a time, median and 99th percentile
    cold     a fresh process that encodes one sentence: seconds and peak memory
    search   queries/s by dimension and engine, 10 best of `--documents` vectors
    rows     the table as float32, float16, int8, 4 bits: bytes, speed, nDCG@10 with --beir

Every round takes texts that no system has seen, in another order of systems; figures are medians
over rounds, ratios medians of each round's ratio. Systems that are not installed are left out and
named. Without --model, one is made with a random table: speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.encoding_peers import SYSTEMS, Encode, System, model2vec_folder
from experiments.benchmarks.encoding_report import plot, tables
from experiments.benchmarks.search import Find, engines
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import write_json
from sse.text.records import read_records

PARTS = ("encode", "latency", "cold", "search", "rows")
SENTENCE = "Static embeddings look words up and average them."
Facts = dict[str, Any]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, write JSON and a figure."""
    parser = Parser(prog="python -m experiments.benchmarks.encoding", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="DIR", help="a model folder with the norm dyt (default: random)")
    add("--texts", metavar="FILE", help="passages (default: docstrings of what is installed)")
    add("--queries", metavar="FILE", help="queries (default: those docstrings' summaries)")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS))
    add("--beir", nargs="+", default=[], metavar="FOLDER", help="collections for `rows`")
    add("--rounds", type=int, default=5)
    add("--passages", type=int, default=4096, help="a round")
    add("--short", type=int, default=16_384, help="queries a round")
    add("--documents", type=int, default=100_000, help="vectors to search in")
    add("--out", default="runs/bench", metavar="FOLDER", help="for bench.json and bench.png")
    args = parser.parse_args(arguments)
    if min(args.rounds, args.passages, args.short, args.documents) < 1:
        raise UserError("--rounds, --passages, --short, --documents: give at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        passages, queries = _texts(args)
        folder = Path(args.model) if args.model else random_model(Path(temporary), passages)
        home = Path(temporary) / "model"
        if folder != home:
            home.symlink_to(folder.resolve())
        results: Facts = {"machine": machine()}
        if {"encode", "latency"} & set(args.only):
            _encode_parts(args, home, passages, queries, results)
        if "cold" in args.only:
            results["cold"] = cold_starts(home, args.rounds)
        if "search" in args.only:
            results["search"] = searches(args.documents, args.rounds)
        if "rows" in args.only:
            from experiments.benchmarks.encoding_rows import small_rows

            results["rows"] = small_rows(home, passages[: args.passages], args.beir, args.rounds)
    print(tables(results))  # noqa: T201
    write_json(Path(args.out) / "bench.json", results)
    plot(results, Path(args.out) / "bench.png")
    print(f"\nwritten: {args.out}/bench.json, {args.out}/bench.png")  # noqa: T201


def say(line: str) -> None:
    """Progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _texts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Passages and queries."""
    if args.texts and args.queries:
        both = [[row.text for row in read_records(f)] for f in (args.texts, args.queries)]
        return both[0], both[1]
    if args.texts or args.queries:
        raise UserError("--texts and --queries go together")
    from sse.data.docstring_pairs import embedded_pairs

    pairs = embedded_pairs(say=say, progress=False)
    passages, queries = [], []
    for columns in pairs.chunks(0):
        queries += columns[0]
        passages += columns[1]
    return passages, queries


def random_model(root: Path, texts: list[str]) -> Path:
    """A DyT model of 512 dimensions and up to 30,522 tokens."""
    import sse
    from sse.text.tokenizer import train_tokenizer

    say("training a tokenizer ...")
    tokenizer = train_tokenizer(texts, max_characters=20_000_000, progress=False)
    return sse.export(sse.SSE(tokenizer, 512, seed=0), root / "made")


def _encode_parts(
    args: argparse.Namespace, home: Path, passages: list[str], queries: list[str], results: Facts
) -> None:
    made: list[tuple[System, Encode]] = []
    results["left_out"] = {}
    for system in SYSTEMS:
        try:
            made.append((system, system.make(home)))
        except ImportError as error:
            results["left_out"][system.name] = str(error)
            say(f"left out: {system.name} ({error})")
    if "encode" in args.only:
        results["vectors"] = _differences(made, passages[:500] + [""])
        results["passages"] = rates(made, passages, args.passages, args.rounds)
        results["queries"] = rates(made, queries, args.short, args.rounds)
    if "latency" in args.only:
        results["latency"] = latencies(made, queries)


def _differences(made: list[tuple[System, Encode]], texts: list[str]) -> dict[str, float]:
    """The largest difference to ours, of the systems whose vectors should be equal."""
    ours = made[0][1](texts)
    return {
        s.name: float(np.abs(np.asarray(encode(texts)) - ours).max())
        for s, encode in made
        if s.equal
    }


def rates(
    made: list[tuple[System, Encode]], texts: list[str], size: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Texts a second of wall and of CPU time, one value a round."""
    out: dict[str, dict[str, list[float]]] = {s.name: {"wall": [], "cpu": []} for s, _ in made}
    size = min(size, len(texts) // (rounds + 1))
    for number in range(rounds + 1):  # the first one warms up and is not counted
        fresh = texts[number * size : (number + 1) * size]
        turns = made[number % len(made) :] + made[: number % len(made)]
        for system, encode in turns:
            part = fresh[: max(8, int(len(fresh) * system.share))]
            wall, cpu = time.perf_counter(), time.process_time()
            encode(part)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number:
                out[system.name]["wall"].append(len(part) / wall)
                out[system.name]["cpu"].append(len(part) / max(cpu, 1e-9))
        say(f"round {number} of {rounds}, {size:,} texts")
    return out


def latencies(made: list[tuple[System, Encode]], queries: list[str]) -> dict[str, dict[str, float]]:
    """Microseconds of one query."""
    times: dict[str, list[float]] = {s.name: [] for s, _ in made}
    # A transformer pushes everything out of the cache, so it goes last and alone.
    for heavy, count in ((False, 1000), (True, 50)):
        for query in queries[-count:]:
            for system, encode in made:
                if (system.share < 1) == heavy:
                    start = time.perf_counter()
                    encode([query])
                    times[system.name].append((time.perf_counter() - start) * 1e6)
    return {
        name: {"p50": float(np.median(t)), "p99": float(np.percentile(t, 99))}
        for name, t in times.items()
    }


def cold_starts(home: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and peak MiB of fresh processes that encode one sentence."""
    out: dict[str, dict[str, list[float]]] = {}
    try:
        m2v = str(model2vec_folder(home))
    except ImportError:
        m2v = ""
    # Not ru_maxrss: it begins with what the process had that started this one.
    tail = "; print(*(s.split()[1] for s in open('/proc/self/status') if s.startswith('VmHWM')))"
    for number in range(rounds + 1):  # the first one fills the disk's cache
        for system in SYSTEMS:
            if system.cold is None or ("m2v" in system.cold and not m2v):
                continue
            code = system.cold.format(folder=str(home), m2v=m2v, text=SENTENCE) + tail
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if done.returncode:
                if not number:
                    say(f"left out of cold: {system.name} ({done.stderr.strip()[-100:]})")
                continue
            if number:
                record = out.setdefault(system.name, {"seconds": [], "peak_mib": []})
                record["seconds"].append(seconds)
                record["peak_mib"].append(int(done.stdout.split()[-1]) / 1024)
    return out


def searches(documents: int, rounds: int) -> dict[str, dict[str, float]]:
    """Queries a second by engine and dimension, one query at a time and 100 together."""
    generator = np.random.default_rng(0)
    out: dict[str, dict[str, float]] = {}
    for dim in (1024, 512, 256, 128):
        vectors = generator.standard_normal((documents, dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = generator.standard_normal((100, dim), np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        made = engines(vectors, say)
        for name, find in made.items():
            one = [_seconds(find, query[None]) for query in queries[: 5 * rounds]]
            many = [_seconds(find, queries) for _ in range(rounds)]
            out.setdefault(f"{name}, one at a time", {})[str(dim)] = 1 / float(np.median(one))
            out.setdefault(f"{name}, 100 together", {})[str(dim)] = 100 / float(np.median(many))
        say(f"searched {documents:,} vectors of {dim}")
    return out


def _seconds(find: Find, queries: np.ndarray) -> float:
    start = time.perf_counter()
    find(queries)
    return time.perf_counter() - start


def machine() -> Facts:
    """Where the numbers come from."""
    from importlib import metadata

    facts: Facts = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    for name in ("torch", "sentence-transformers", "tokenizers", "nanotoken", "model2vec", "laghu",
                 "laghu-rs", "numpy", "faiss-cpu", "usearch"):  # fmt: skip
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = None
    return json.loads(json.dumps(facts))


if __name__ == "__main__":
    sys.exit(main())
