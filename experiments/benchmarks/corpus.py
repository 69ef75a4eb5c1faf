"""The rate of sharded encoding on Ray against the plain encoder's, and what it means at scale.

    python -m experiments.benchmarks.corpus [--model DIR] [--texts N] [--rounds N]
    python -m experiments.benchmarks.corpus --plan 1e9 --results runs/bench-cluster/bench.json >
        docs/encode-a-corpus.md

    encoder     Encoder.encode of texts in memory, all cores
    sse encode  the command, JSON lines to one parquet file, its start included
    ray         experiments/encode_corpus.py, JSON lines to shards, its start included
    ray worker  the same without the start: texts by the seconds its workers worked

Every round runs each once, in another order, on the same texts; all differ from each other.
Figures are texts a second and core, medians over rounds; ratios are medians of each round's ratio.
Without --model, one is made with a random table: speed does not depend on the values.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.encoding import machine, random_model, say
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import write_json
from sse.serving.encoder import Encoder
from sse.serving.scale import document
from sse.serving.threads import cores

CLUSTER = "import sys; from sse.cli.encode_corpus import main; sys.exit(main(sys.argv[1:]))"
PLAIN = "import sys; from sse.cli.main import main; sys.exit(main(sys.argv[1:]))"


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write JSON; or print the plan."""
    parser = Parser(prog="python -m experiments.benchmarks.corpus", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="DIR", help="a model folder (default: random)")
    add("--texts", type=int, default=400_000)
    add("--rounds", type=int, default=3)
    add("--shard-rows", type=int, default=50_000)
    add("--out", default="runs/bench-cluster", metavar="FOLDER", help="for bench.json")
    add("--plan", type=float, metavar="TEXTS", help="print the plan for so many texts")
    add("--results", metavar="FILE", help="the bench.json that the plan rests on")
    args = parser.parse_args(arguments)
    if args.plan:
        if not args.results or not Path(args.results).is_file():
            raise UserError("--plan rests on measured rates: give --results BENCH_JSON")
        results = json.loads(Path(args.results).read_text("utf-8"))
        print(document(int(args.plan), results))  # noqa: T201
        return
    if min(args.texts, args.rounds, args.shard_rows) < 1:
        raise UserError("--texts, --rounds, --shard-rows: give at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(args, Path(temporary))
    write_json(Path(args.out) / "bench.json", results)
    base = results["texts_per_second_and_core"]["encoder"]
    for name, rates in results["texts_per_second_and_core"].items():
        ratio = float(np.median(np.array(rates) / np.array(base)))
        print(f"{name:<12}{np.median(rates):>10,.0f} texts/s/core {ratio:6.2f}x")  # noqa: T201


def measure(args: Any, work: Path) -> dict[str, Any]:
    """Rates, one value a round, with the sizes that a plan needs."""
    texts, source = texts_of(args.texts), work / "corpus.jsonl"
    with open(source, "w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
    model = args.model or str(random_model(work, texts[:20_000]))
    encoder, out = Encoder(model), work / "shards"
    encoder.encode(texts[:4096])
    used = cores()
    rates: dict[str, list[float]] = {}

    def keep(name: str, seconds: float) -> None:
        rates.setdefault(name, []).append(len(texts) / seconds / used)

    def plain() -> None:
        start = time.perf_counter()
        for first in range(0, len(texts), 65_536):  # all at once would be gigabytes of vectors
            encoder.encode(texts[first : first + 65_536])
        keep("encoder", time.perf_counter() - start)

    def command() -> None:
        target = work / "vectors.parquet"
        arguments = ["encode", source, target, "-m", model, "--keep", "id", "--no-text", "--force"]
        keep("sse encode", _timed(PLAIN, arguments)[0])

    def ray() -> None:
        subprocess.run(["rm", "-rf", out], check=True)
        options = ["--shard_rows", args.shard_rows, "--json"]
        seconds, told = _timed(CLUSTER, [source, out, "-m", model, *options])
        keep("ray", seconds)
        keep("ray worker", json.loads(told)["worker_seconds"] / used)

    turns: list[Callable[[], None]] = [plain, command, ray]
    for number in range(args.rounds):
        for turn in turns[number % 3 :] + turns[: number % 3]:
            turn()
        say(f"round {number + 1} of {args.rounds}, {len(texts):,} texts")
    size = sum(path.stat().st_size for path in out.glob("*.parquet"))
    return {
        "machine": machine(),
        "command": f"python -m experiments.benchmarks.corpus "
        f"--texts {args.texts} --rounds {args.rounds}",
        "texts": len(texts),
        "cores": used,
        "dim": encoder.dim,
        "bytes_in_per_text": source.stat().st_size / len(texts),
        "bytes_out_per_text": size / len(texts),
        "texts_per_second_and_core": rates,
    }


def texts_of(count: int) -> list[str]:
    """Texts of 40 to 89 words cut out of the installed packages' docstrings, all different."""
    from sse.data.docstring_pairs import embedded_pairs

    pairs = embedded_pairs(say=say, progress=False)
    words = " ".join(pairs.texts("positive")).split()
    stride = next(s for s in range(7919, len(words) + 7919) if math.gcd(s, len(words)) == 1)
    out, places = [], len(words)
    for number in range(count):
        start = number * stride % places
        length = 40 + (number + number // places) % 50
        out.append(f"{number} {' '.join(words[start : start + length])}")
    return out


def _timed(code: str, arguments: list[Any]) -> tuple[float, str]:
    """Wall seconds of a fresh process, and its standard output."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise UserError(f"{arguments[0]}: ended with {done.returncode}")
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    sys.exit(main())
