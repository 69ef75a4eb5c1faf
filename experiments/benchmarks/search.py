"""Queries per second of search engines, by dimension: the 10 best of normalised vectors.

    python -m experiments.benchmarks.search [--documents N] [--rounds N]

Queries go one at a time and 100 together. `sse` is what `sse.Index` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks import harness
from sse.common.errors import one_line
from sse.search.dense import Vectors

K = 10
DIMS = (1024, 512, 256, 128)
Find = Callable[[NDArray[np.float32]], Any]


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write JSON."""
    made = harness.parser("search", __doc__)
    made.add_argument("--documents", type=int, default=100_000, help="vectors to search in")
    made.add_argument("--rounds", type=int, default=5)
    args = harness.parse(made, arguments, {"documents": 2000, "rounds": 1}, "documents", "rounds")
    results = {**harness.what_ran(), "search": searches(args.documents, args.rounds)}
    harness.finish(results, table(results["search"]), args.json)


def searches(documents: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Queries per second by engine and dimension, a value per call."""
    generator = np.random.default_rng(0)
    out: dict[str, dict[str, list[float]]] = {}
    for dim in DIMS:
        vectors, queries = (
            generator.standard_normal((n, dim), np.float32) for n in (documents, 100)
        )
        for x in (vectors, queries):
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        for name, find in engines(vectors).items():
            one = [harness.seconds(lambda q=q, f=find: f(q[None])) for q in queries[: 5 * rounds]]
            many = [harness.seconds(lambda q=queries, f=find: f(q)) for _ in range(rounds)]
            out.setdefault(f"{name}, one at a time", {})[str(dim)] = [1 / s for s in one]
            out.setdefault(f"{name}, 100 together", {})[str(dim)] = [100 / s for s in many]
        harness.say(f"searched {documents:,} vectors of {dim}")
    return out


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """A row per engine, of medians."""
    middle = {name: {d: median(v) for d, v in by.items()} for name, by in found.items()}
    head = ["queries/s", *(f"{d} d" for d in DIMS), "512 / 1024"]
    rows = [
        [name, *(f"{v[str(d)]:,.0f}" for d in DIMS), f"{v['512'] / v['1024']:.1f}x"]
        for name, v in middle.items()
    ]
    return harness.markdown(head, rows)


def engines(vectors: NDArray[np.float32]) -> dict[str, Find]:
    """Each installed engine over `vectors` (n, d); the others are named in the progress."""
    made: dict[str, Find] = {}
    for name, make in (
        ("numpy", _numpy),
        ("torch", _torch),
        ("sse", _sse),
        ("faiss exact", _faiss_exact),
        ("usearch exact", _usearch),
    ):
        try:
            made[name] = make(vectors)
        except ImportError as error:
            harness.say(f"left out: {name} ({error})")
    return made


def _numpy(vectors: NDArray[np.float32]) -> Find:
    def find(queries: NDArray[np.float32]) -> Any:
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        return np.take_along_axis(best, order, 1)

    return find


def _torch(vectors: NDArray[np.float32]) -> Find:
    import torch

    table = torch.from_numpy(vectors)
    return lambda queries: (torch.from_numpy(queries) @ table.T).topk(K)


def _sse(vectors: NDArray[np.float32]) -> Find:
    engine = Vectors(vectors)
    return lambda queries: [engine.nearest(query, K) for query in queries]


def _faiss_exact(vectors: NDArray[np.float32]) -> Find:
    import faiss

    return lambda queries: faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)


def _usearch(vectors: NDArray[np.float32]) -> Find:
    from usearch.index import MetricKind, search

    return lambda queries: search(vectors, queries, K, MetricKind.IP, exact=True)


if __name__ == "__main__":
    sys.exit(main())
