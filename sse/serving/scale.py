"""Cores, hours, bytes and requests of encoding a very large corpus, from measured rates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SHARD_ROWS = 100_000
CORES = (1, 16, 64, 256, 1024)
DIMS = (512, 256, 128, 64)
BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}
PART = 50 << 20  # bytes of an upload's part, s3fs' default
BLOCK = 5 << 20  # bytes of a ranged read, on the small side
# US dollars, the list prices of S3 standard in us-east-1 when this was written.
PER_1000_WRITES, PER_1000_READS, PER_GB_MONTH, PER_GB_OUT = 0.005, 0.0004, 0.023, 0.09


def document(count: int, results: dict[str, Any]) -> str:
    """The plan as Markdown.

    Args:
        count: texts.
        results: what `experiments.benchmarks.corpus` measured.
    """
    rates = results["texts_per_second_and_core"]
    rate = float(np.median(rates["ray worker"]))
    ratio = float(np.median(np.array(rates["ray worker"]) / np.array(rates["encoder"])))
    plain = float(np.median(np.array(rates["ray worker"]) / np.array(rates["sse encode"])))
    size = results["bytes_in_per_text"]
    beside = results["bytes_out_per_text"] - 4 * results["dim"]  # ids and the file's structure
    shards = math.ceil(count / SHARD_ROWS)
    core_hours = count / rate / 3600
    hours = [f"{core_hours / cores:,.2f}" for cores in CORES]
    parts = [
        f"# {count:,} texts\n",
        f"Written by `python -m experiments.benchmarks.corpus "
        f"--plan {count:g} --results BENCH_JSON`, from "
        f"what\n`{results['command']}` measured on {results['cores']} cores: "
        f"**{rate:,.0f} texts/s and core**, a worker's\nreading, encoding and writing of "
        f"{results['dim']}-dimensional float32 vectors, which is {ratio:.2f} of what\n"
        f"`Encoder.encode` does with texts in memory and {plain:.1f} times what `sse encode` does, "
        f"which\nreads and writes as much. A text has {size:,.0f} bytes as a JSON line. "
        "Times of other texts\nscale with their length. Only the rates are measured: the rest of "
        "this page is arithmetic.\n",
        f"## Time\n\n{core_hours:,.1f} core hours. Pieces do not depend on each other, so the wall "
        "time is that divided by the\ncores, as long as storage keeps up (last column), plus Ray's "
        "start and one shard's time at the end.\n",
        _table(
            ["cores", "hours", "MB/s read", "MB/s written"],
            [
                [f"{c:,}", h, f"{c * rate * size / 1e6:,.0f}", _written(c * rate, results)]
                for c, h in zip(CORES, hours, strict=True)
            ],
        ),
        f"## Bytes\n\nIn: {_size(count * size)} of JSON lines. Out, {beside:,.0f} bytes a text for "
        "ids and structure included:\n",
        _table(
            ["dimensions", *BYTES],
            [
                [str(d), *(_size(count * (d * width + beside)) for width in BYTES.values())]
                for d in DIMS
            ],
        ),
        f"{shards:,} shards of {SHARD_ROWS:,} rows, "
        f"{_size(SHARD_ROWS * results['bytes_out_per_text'])} each at {results['dim']} dimensions "
        "float32.\n",
        _storage(count, shards, size, results),
        REST,
    ]
    return "\n".join(parts)


def _written(rate: float, results: dict[str, Any]) -> str:
    return f"{rate * results['bytes_out_per_text'] / 1e6:,.0f}"


def _storage(count: int, shards: int, size: float, results: dict[str, Any]) -> str:
    total = count * results["bytes_out_per_text"]
    writes = shards * (2 + math.ceil(SHARD_ROWS * results["bytes_out_per_text"] / PART))
    reads = 2 * count * size / BLOCK + shards  # once to find the cuts, once to encode
    rows = [
        ["requests that write", f"{writes:,.0f}", f"{writes / 1000 * PER_1000_WRITES:,.2f}"],
        ["requests that read", f"{reads:,.0f}", f"{reads / 1000 * PER_1000_READS:,.2f}"],
        ["traffic within the region", _size(total + 2 * count * size), "0.00"],
        ["keeping the vectors a month", _size(total), f"{total / 1e9 * PER_GB_MONTH:,.2f}"],
        ["traffic out of the region, if any", _size(total), f"{total / 1e9 * PER_GB_OUT:,.2f}"],
    ]
    head = (
        f"## An object store\n\nAt {results['dim']} dimensions float32, by the list prices of S3 "
        "standard (us-east-1; not measured):\n"
    )
    return head + "\n" + _table(["", "amount", "US$"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _size(count: float) -> str:
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 1000 or unit == "TB":
            break
    return f"{count:,.1f} {unit}"


REST = """## What to mind

- **Parquet in.** A parquet file is cut by its footer. JSON lines are read once before the start, to
  find the cuts and line numbers; a .gz is one piece and one shard, so split large ones.
- **Fewer bytes first.** Vectors outweigh the texts: 256 dimensions as float16 are a quarter of the
  bytes of 512 as float32, and storage, not the cores, sets the pace of a large cluster.
- **Stopped, killed, lost.** The same command goes on with the shards that are missing. A shard is a
  function of its piece, the model and the options, to the byte; `_manifest.json` refuses anything
  else.
- **The model** goes to the nodes with the work up to 64 MB; a larger one must lie at the same path
  on each. The package must be installed there. A worker has one core and maps the table, which a
  node's workers share.
- **Memory** of a worker is that of a row group of vectors (32,768 rows) and a chunk of texts,
  whatever the corpus.
- **Local disk**: with a remote OUT, each worker holds the shard it writes in its temporary folder.
"""
