"""The rate of sharded encoding on Ray against the plain encoder's.

    python -m experiments.benchmarks.corpus [--model DIR] [--texts N] [--rounds N]

    encoder     Encoder.encode of texts in memory, all cores
    sse encode  the command, JSON lines to one parquet file, its start included
    ray         experiments/encode_corpus.py, a folder of JSON lines to shards, start included
    ray worker  the same without the start: texts by the seconds its workers worked

All run on the same texts, which differ from each other. Rates are texts per second and core.
Without --model, one is made with a random table: speed does not depend on the values.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks import harness
from experiments.benchmarks.encoding import random_model
from sse.common.errors import UserError, one_line
from sse.common.machine import cores
from sse.serving.encoder import Encoder

CLUSTER = "import sys; from sse.cli.encode_corpus import main; sys.exit(main(sys.argv[1:]))"
PLAIN = "import sys; from sse.cli.main import main; sys.exit(main(sys.argv[1:]))"
QUICK = {"texts": 2000, "rounds": 1, "file_rows": 1000}


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write JSON."""
    made = harness.parser("corpus", __doc__)
    made.add_argument("--model", metavar="DIR", help="a model folder (default: random)")
    made.add_argument("--texts", type=int, default=400_000)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--file-rows", type=int, default=50_000, help="texts per file, and so shard")
    made.add_argument(
        "--out", default="runs/bench-cluster", metavar="FOLDER", help="for bench.json"
    )
    args = harness.parse(made, arguments, QUICK, *QUICK)
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(args, Path(temporary))
    rates = results["texts_per_second_and_core"]
    rows = [
        [name, f"{median(values):,.0f}", f"{harness.ratio(values, rates['encoder']):.2f}"]
        for name, values in rates.items()
    ]
    text = harness.markdown(["way", "texts/s and core", "x encoder"], rows)
    harness.finish(results, text, args.json or Path(args.out) / "bench.json")


def measure(args: Any, work: Path) -> dict[str, Any]:
    """Rates, one value per round, with the sizes of what went in and came out."""
    texts, source, folder = texts_of(args.texts), work / "corpus.jsonl", work / "corpus"
    lines = [
        json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n"
        for number, text in enumerate(texts)
    ]
    source.write_text("".join(lines), "utf-8")
    folder.mkdir()
    for first in range(0, len(lines), args.file_rows):
        part = "".join(lines[first : first + args.file_rows])
        (folder / f"{first:09d}.jsonl").write_text(part, "utf-8")
    model = args.model or str(random_model(work, texts[:20_000]))
    encoder, out, worker = Encoder(model), work / "shards", []

    def rate(spent: float) -> float:
        return len(texts) / spent / cores()

    def plain() -> float:
        blocks = range(0, len(texts), 65_536)  # all at once would be gigabytes of vectors
        return rate(
            harness.seconds(lambda: [encoder.encode(texts[i : i + 65_536]) for i in blocks])
        )

    def command() -> float:
        options = ["-m", model, "--keep", "id", "--no-text", "--force"]
        return rate(timed(PLAIN, ["encode", source, work / "vectors.parquet", *options])[0])

    def ray() -> float:
        shutil.rmtree(out, ignore_errors=True)
        spent, message = timed(CLUSTER, [folder, out, "-m", model, "--json"])
        worker.append(rate(json.loads(message)["worker_seconds"] / cores()))
        return rate(spent)

    encoder.encode(texts[:4096])
    rates = harness.turns(
        {"encoder": plain, "sse encode": command, "ray": ray}, args.rounds, warmup=0
    )
    return {
        **harness.what_ran(),
        "texts": len(texts),
        "cores": cores(),
        "dim": encoder.dim,
        "bytes_in_per_text": source.stat().st_size / len(texts),
        "bytes_out_per_text": sum(p.stat().st_size for p in out.glob("*.parquet")) / len(texts),
        "texts_per_second_and_core": {**rates, "ray worker": worker},
    }


def texts_of(count: int) -> list[str]:
    """Texts of 40 to 89 words cut out of the installed packages' docstrings, all different."""
    from sse.data.made.docstring_pairs import embedded_pairs

    pairs = embedded_pairs(say=harness.say, progress=False)
    words = " ".join(pairs.texts("positive")).split()
    stride = next(s for s in range(7919, len(words) + 7919) if math.gcd(s, len(words)) == 1)
    out = []
    for number in range(count):
        start = number * stride % len(words)
        length = 40 + (number + number // len(words)) % 50
        out.append(f"{number} {' '.join(words[start : start + length])}")
    return out


def timed(code: str, arguments: list[Any]) -> tuple[float, str]:
    """Wall seconds of a fresh process, and its standard output."""
    start = time.perf_counter()
    done = harness.fresh(["-c", code, *arguments])
    if done.returncode:
        raise UserError(f"{arguments[0]}: ended with {done.returncode}: {done.stderr[-300:]}")
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    sys.exit(main())
