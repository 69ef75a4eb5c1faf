"""Encoding against the peers, in one process, taking turns on the same fresh texts.

    python -m experiments.benchmarks.encoding [--model DIR] [--texts FILE --queries FILE]
        [--only encode latency cold search rows]

    encode   texts/s of passages and of queries; ratios to sentence-transformers
    latency  one query at a time, median and 99th percentile
    cold     a fresh process that encodes one sentence: seconds and peak memory
    search   `experiments.benchmarks.search`
    rows     the table as float32, float16, int8, 4 bits: bytes, speed, nDCG@10 with --beir

Every round takes texts that no system has seen. Systems that are not installed are left out and
named. Without --model, one is made with a random table: speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import harness, search
from experiments.benchmarks.encoding_peers import (
    BASELINE,
    SYSTEMS,
    Encode,
    System,
    model2vec_folder,
)
from sse.common.errors import UserError, one_line
from sse.text.records import read_records

PARTS = ("encode", "latency", "cold", "search", "rows")
SENTENCE = "Static embeddings look words up and average them."
QUICK = {"rounds": 1, "passages": 256, "short": 512, "documents": 2000}
Made = list[tuple[System, Encode]]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, write JSON and a figure."""
    made = harness.parser("encoding", __doc__)
    add = made.add_argument
    add("--model", metavar="DIR", help="a model folder with the norm dyt (default: random)")
    add("--texts", metavar="FILE", help="passages (default: docstrings of what is installed)")
    add("--queries", metavar="FILE", help="queries (default: those docstrings' summaries)")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS))
    add("--beir", nargs="+", default=[], metavar="FOLDER", help="collections for `rows`")
    add("--rounds", type=int, default=5)
    add("--passages", type=int, default=4096, help="per round")
    add("--short", type=int, default=16_384, help="queries per round")
    add("--documents", type=int, default=100_000, help="vectors to search in")
    add("--out", default="runs/bench", metavar="FOLDER", help="for bench.json and bench.png")
    args = harness.parse(made, arguments, QUICK, *QUICK)
    results = harness.what_ran()
    with tempfile.TemporaryDirectory() as temporary:
        passages, queries = texts_of(args)
        folder = Path(args.model) if args.model else random_model(Path(temporary), passages)
        home = Path(temporary) / "model"
        home.symlink_to(folder.resolve())
        if {"encode", "latency"} & set(args.only):
            encode_parts(args, home, passages, queries, results)
        if "cold" in args.only:
            results["cold"] = cold_starts(home, args.rounds)
        if "search" in args.only:
            results["search"] = search.searches(args.documents, args.rounds)
        if "rows" in args.only:
            results["rows"] = small_rows(home, passages[: args.passages], args.beir, args.rounds)
    harness.finish(results, tables(results), args.json or Path(args.out) / "bench.json")
    speeds = {
        f"{part}/s": {"": {n: float(np.median(v["wall"])) for n, v in results[part].items()}}
        for part in ("passages", "queries")
        if part in results
    }
    if speeds:
        harness.figure(Path(args.out) / "bench.png", speeds, log=True)


def texts_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Passages and queries."""
    if args.texts and args.queries:
        both = [[row.text for row in read_records(f)] for f in (args.texts, args.queries)]
        return both[0], both[1]
    if args.texts or args.queries:
        raise UserError("--texts and --queries go together")
    from sse.data.made.docstring_pairs import embedded_pairs

    pairs = embedded_pairs(say=harness.say, progress=False)
    return list(pairs.texts("positive")), list(pairs.texts("anchor"))


def random_model(root: Path, texts: list[str]) -> Path:
    """A DyT model of 512 dimensions and up to 30,522 tokens."""
    import sse
    from sse.text.tokenizer import train_tokenizer

    harness.say("training a tokenizer ...")
    tokenizer = train_tokenizer(texts, max_characters=20_000_000, progress=False)
    return sse.export(sse.SSE(tokenizer, 512, seed=0), root / "made")


def encode_parts(
    args: argparse.Namespace,
    home: Path,
    passages: list[str],
    queries: list[str],
    results: dict[str, Any],
) -> None:
    """Speed, latency, and the largest difference of those whose vectors should equal ours."""
    made: Made = []
    results["left_out"] = {}
    for system in SYSTEMS:
        try:
            made.append((system, system.make(home)))
        except ImportError as error:
            results["left_out"][system.name] = str(error)
    if "encode" in args.only:
        texts = [*passages[:500], ""]
        ours = made[0][1](texts)
        results["vectors"] = {
            system.name: float(np.abs(np.asarray(encode(texts)) - ours).max())
            for system, encode in made
            if system.equal
        }
        results["passages"] = rates(made, passages, args.passages, args.rounds)
        results["queries"] = rates(made, queries, args.short, args.rounds)
    if "latency" in args.only:
        results["latency"] = latencies(made, queries, 30 if args.quick else 1000)


def rates(
    made: Made, texts: list[str], size: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Texts per second of wall and of CPU time, one value per round."""
    size = min(size, len(texts) // (rounds + 1))
    cpu: dict[str, list[float]] = {system.name: [] for system, _ in made}

    def turn(system: System, encode: Encode) -> float:
        first = size * len(cpu[system.name])
        part = texts[first : first + max(8, int(size * system.share))]
        start = time.process_time()
        wall = harness.seconds(lambda: encode(part))
        cpu[system.name].append(len(part) / max(time.process_time() - start, 1e-9))
        return len(part) / wall

    wall = harness.turns({s.name: partial(turn, s, encode) for s, encode in made}, rounds)
    harness.say(f"{rounds} rounds of {size:,} texts")
    return {name: {"wall": values, "cpu": cpu[name][1:]} for name, values in wall.items()}


def latencies(made: Made, queries: list[str], count: int) -> dict[str, dict[str, Any]]:
    """Microseconds of one query; a transformer clears the caches, so it goes last and alone."""
    times: dict[str, list[float]] = {}
    for heavy, many in ((False, count), (True, min(count, 50))):
        for query in queries[-many:]:
            for system, encode in made:
                if (system.share < 1) == heavy:
                    spent = harness.seconds(lambda e=encode, q=query: e([q]))
                    times.setdefault(system.name, []).append(spent * 1e6)
    return {
        name: {
            "p50": float(np.median(t)),
            "p99": float(np.percentile(t, 99)),
            "tenths": [float(np.median(part)) for part in np.array_split(t, min(10, len(t)))],
        }
        for name, t in times.items()
    }


def cold_starts(home: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and peak MiB of fresh processes that encode one sentence."""
    out: dict[str, dict[str, list[float]]] = {}
    try:
        m2v = str(model2vec_folder(home))
    except ImportError:
        m2v = ""
    tail = "; print(*(s.split()[1] for s in open('/proc/self/status') if s.startswith('VmHWM')))"
    for number in range(rounds + 1):  # the first one fills the disk's cache
        for system in SYSTEMS:
            if system.cold is None or ("m2v" in system.cold and not m2v):
                continue
            code = system.cold.format(folder=str(home), m2v=m2v, text=SENTENCE) + tail
            start = time.perf_counter()
            done = harness.fresh(["-c", code])
            spent = time.perf_counter() - start
            if done.returncode:
                if not number:
                    harness.say(f"left out of cold: {system.name} ({done.stderr.strip()[-100:]})")
            elif number:
                record = out.setdefault(system.name, {"seconds": [], "peak_mib": []})
                record["seconds"].append(spent)
                record["peak_mib"].append(int(done.stdout.split()[-1]) / 1024)
    return out


def small_rows(
    home: Path, texts: list[str], beir: list[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """By kind of rows: bytes, texts/s, nDCG@10 by dimension; then of quantised vectors."""
    from sse.evaluation.collection import load_beir
    from sse.model.quantise import ROW_KINDS
    from sse.serving.encoder import Encoder

    models = {f"{kind} rows": Encoder(home, rows=kind) for kind in ROW_KINDS}
    calls: dict[str, Callable[[], float]] = {
        name: lambda m=model: len(texts) / harness.seconds(lambda: m.encode(texts))
        for name, model in models.items()
    }
    out: dict[str, dict[str, Any]] = {
        name: {"bytes": models[name].table.nbytes, "passages_per_second": float(np.median(values))}
        for name, values in harness.turns(calls, rounds, warmup=0).items()
    }
    if collections := [load_beir(folder) for folder in beir]:
        for name, model in models.items():
            out[name]["ndcg@10"] = quality(model, collections)
        for kind in ("int8", "binary"):
            scores = quality(models["float32 rows"], collections, kind)
            out[f"{kind} vectors"] = {"ndcg@10": scores}
    return out


def quality(model: Any, collections: list[Any], precision: str = "float32") -> dict[str, float]:
    """Mean nDCG@10 over the collections, by dimension."""
    from sse.evaluation.evaluate import evaluate

    def encode(dim: int, texts: list[str]) -> np.ndarray:
        vectors = model.encode(texts, dim=dim, precision=precision)
        if precision == "binary":  # +-1, whose cosine orders as the Hamming distance does
            return np.unpackbits(vectors, axis=1)[:, :dim].astype(np.float32) * 2 - 1
        return vectors.astype(np.float32)

    dims = [d for d in (512, 256, 128) if d <= model.dim]
    results = {dim: evaluate(partial(encode, dim), collections, [dim]) for dim in dims}
    return {str(dim): result.mean[dim].values["ndcg@10"] for dim, result in results.items()}


def tables(results: dict[str, Any]) -> str:
    """Markdown, a table per part."""
    parts = [_rates(results, part) for part in ("passages", "queries") if part in results]
    if "latency" in results:
        base = results["latency"].get(BASELINE, {}).get("p50", float("nan"))
        rows = [
            [name, f"{v['p50']:,.0f}", f"{v['p99']:,.0f}", f"{base / v['p50']:.2f}"]
            for name, v in results["latency"].items()
        ]
        parts.append(harness.markdown(["one query", "p50 us", "p99 us", "x"], rows))
    if cold := results.get("cold"):
        base = cold.get(BASELINE, {}).get("seconds")
        rows = []
        for name, v in cold.items():
            x = f"{1 / harness.ratio(v['seconds'], base):.1f}" if base else ""
            peak = f"{np.median(v['peak_mib']):,.0f}"
            rows.append([name, f"{np.median(v['seconds']):.2f}", x, peak])
        parts.append(harness.markdown(["cold process, one sentence", "s", "x", "peak MiB"], rows))
    if "search" in results:
        parts.append(search.table(results["search"]))
    if "rows" in results:
        parts.append(_rows(results["rows"]))
    left_out = results.get("left_out", {}).items()
    return "\n\n".join([*parts, *(f"left out: {name} ({reason})" for name, reason in left_out)])


def _rates(results: dict[str, Any], part: str) -> str:
    made, differences = results[part], results.get("vectors", {})
    base, rows = made.get(BASELINE), []
    for name, v in made.items():
        x = [f"{harness.ratio(v[k], base[k]):.2f}" if base else "" for k in ("wall", "cpu")]
        off = f"{differences[name]:.0e}" if name in differences else ""
        wall, cpu = np.median(v["wall"]), 1e6 / np.median(v["cpu"])
        rows.append([name, f"{wall:,.0f}", x[0], f"{cpu:,.1f}", x[1], off])
    return harness.markdown(
        [part, "per second", "x", "CPU us", "x CPU", "largest difference"], rows
    )


def _rows(made: dict[str, dict[str, Any]]) -> str:
    dims = list(next(iter(made.values())).get("ndcg@10", {}))
    rows = []
    for name, v in made.items():
        size = f"{v['bytes'] / 2**20:,.1f}" if "bytes" in v else ""
        speed = f"{v['passages_per_second']:,.0f}" if "passages_per_second" in v else ""
        rows.append([name, size, speed, *(f"{v['ndcg@10'][d]:.4f}" for d in dims)])
    head = ["rows or vectors", "MiB", "passages/s", *(f"nDCG@10 {d} d" for d in dims)]
    return harness.markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())
