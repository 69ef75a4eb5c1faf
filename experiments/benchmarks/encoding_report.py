"""The encoding benchmark's tables and figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.encoding_peers import BASELINE
from sse.common.files import atomic_file

COLOURS = {"sse": "#0072B2", "other": "#999999"}  # ours against the rest, also in grey


def ratios(of: list[float], base: list[float]) -> float:
    """The median over rounds of each round's ratio."""
    return float(np.median(np.array(of) / np.array(base)))


def tables(results: dict[str, Any]) -> str:
    """Markdown."""
    parts = []
    for part in ("passages", "queries"):
        if part in results:
            parts.append(_rates(results, part))
    if "latency" in results:
        base = results["latency"].get(BASELINE, {}).get("p50")
        rows = [
            [name, f"{v['p50']:,.0f}", f"{v['p99']:,.0f}", f"{base / v['p50']:.2f}" if base else ""]
            for name, v in results["latency"].items()
        ]
        parts.append(_markdown(["one query", "p50 us", "p99 us", "x"], rows))
    if "cold" in results:
        base = results["cold"].get(BASELINE, {}).get("seconds")
        rows = []
        for name, v in results["cold"].items():
            x = f"{1 / ratios(v['seconds'], base):.1f}" if base else ""
            peak = f"{np.median(v['peak_mib']):,.0f}"
            rows.append([name, f"{np.median(v['seconds']):.2f}", x, peak])
        parts.append(_markdown(["cold process, one sentence", "s", "x", "peak MiB"], rows))
    if "search" in results:
        dims = list(next(iter(results["search"].values())))
        rows = [
            [name, *(f"{v[d]:,.0f}" for d in dims), _gain(v)]
            for name, v in results["search"].items()
        ]
        parts.append(_markdown(["queries/s", *(f"{d} d" for d in dims), "512 / 1024"], rows))
    if "rows" in results:
        parts.append(_small(results["rows"]))
    for name, reason in results.get("left_out", {}).items():
        parts.append(f"left out: {name} ({reason})")
    return "\n\n".join(parts)


def _gain(by_dim: dict[str, float]) -> str:
    return f"{by_dim['512'] / by_dim['1024']:.1f}x" if {"512", "1024"} <= set(by_dim) else ""


def _rates(results: dict[str, Any], part: str) -> str:
    made, differences = results[part], results.get("vectors", {})
    base = made.get(BASELINE)
    rows = []
    for name, v in made.items():
        x = [f"{ratios(v[k], base[k]):.2f}" if base else "" for k in ("wall", "cpu")]
        cpu = 1e6 / np.median(v["cpu"])
        off = f"{differences[name]:.0e}" if name in differences else ""
        rows.append([name, f"{np.median(v['wall']):,.0f}", x[0], f"{cpu:,.1f}", x[1], off])
    head = [part, "per second", "x", "CPU us", "x CPU", "largest difference"]
    return _markdown(head, rows)


def _small(made: dict[str, dict[str, Any]]) -> str:
    full = next(iter(made.values()))
    dims = list(full.get("ndcg@10", {}))
    rows = []
    for name, v in made.items():
        size = f"{v['bytes'] / 2**20:,.1f}" if "bytes" in v else ""
        speed = f"{v['passages_per_second']:,.0f}" if "passages_per_second" in v else ""
        scores = [f"{v['ndcg@10'][d]:.4f}" for d in dims]
        rows.append([name, size, speed, *scores])
    head = ["rows or vectors", "MiB", "passages/s", *(f"nDCG@10 {d} d" for d in dims)]
    return _markdown(head, rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Throughput bars, one panel a kind of text, on a logarithmic axis."""
    parts = [part for part in ("passages", "queries") if part in results]
    if not parts:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for place, part in enumerate(parts):
        axes = figure.add_subplot(1, len(parts), place + 1)
        names = list(results[part])[::-1]
        values = [float(np.median(results[part][name]["wall"])) for name in names]
        colours = [COLOURS["sse" if name.startswith("sse") else "other"] for name in names]
        bars = axes.barh(names if not place else range(len(names)), values, color=colours)
        axes.bar_label(bars, [f"{v:,.0f}" for v in values], padding=2, fontsize=8)
        axes.set(xscale="log", xlabel=f"{part} per second", xlim=(min(values) / 3, max(values) * 4))
        axes.spines[["top", "right"]].set_visible(False)
        if place:
            axes.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
