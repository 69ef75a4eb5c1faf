"""Evaluated systems side by side: a table to read, parquet to compute with, a figure.

`results` maps a system's name to its `Result`; the first is the one the report is about, the
others are what it stands beside. All must have been evaluated on the same collections.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sse.common.files import atomic_file
from sse.evaluation.metrics import METRICS, metric_label
from sse.evaluation.palette import COLOURS, MARKERS
from sse.evaluation.results import NO_DIM, Result, Scores, difference

Results = dict[str, Result]

REPORT = ("report.txt", "per_query.parquet", "quality.png")

SUMMARY = ("ndcg@10", "mrr@10", "map@100", "accuracy@1", "recall@10")


def write_report(results: Results, folder: str | Path, figure: bool = True) -> list[Path]:
    """Write `report.txt`, `per_query.parquet` and, with `figure`, `quality.png` into `folder`."""
    files = REPORT if figure else REPORT[:-1]
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    # All are made before the first appears, so that a failure leaves an older report whole.
    with tempfile.TemporaryDirectory(prefix=".report.", dir=root) as name:
        made = Path(name)
        with atomic_file(made / "report.txt") as temporary:
            temporary.write_text(format_table(results) + "\n", "utf-8")
        write_per_query(results, made / "per_query.parquet")
        if figure:
            plot(results, made / "quality.png")
        for file in files:
            os.replace(made / file, root / file)
    return [root / file for file in files]


def format_table(results: Results, metric: str = "ndcg@10") -> str:
    """The readable report: `metric` per collection, then the summary metrics per dimension."""
    first = next(iter(results.values()))
    parts = [
        f"{metric_label(metric)} at the largest dimension [95% bootstrap interval over queries]",
        _align(_by_collection(results, metric)),
    ]
    n = len(first.scores)
    over = f"Mean over {n} collections" if n > 1 else f"By dimension on {next(iter(first.scores))}"
    parts += [over, _align(_by_dim(results))]
    return "\n\n".join(parts)


def write_per_query(results: Results, path: str | Path) -> None:
    """One parquet row per system, collection, dimension and query, one column per metric."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for system, result in results.items():
        for collection, by_dim in result.scores.items():
            ids = result.query_ids[collection]
            for dim, row in by_dim.items():
                keys = {"system": system, "collection": collection, "dim": dim}
                columns = {k: pa.array([v] * len(ids)) for k, v in keys.items()}
                columns |= {"query_id": pa.array(ids, pa.string())}
                parts.append(pa.table(columns | {m: row.per_query[m] for m in METRICS}))
    with atomic_file(path) as temporary:
        pq.write_table(pa.concat_tables(parts), temporary)


def plot(results: Results, path: str | Path, metric: str = "ndcg@10") -> None:
    """Draw `metric` against dimension: the mean large, each collection small beside it."""
    from matplotlib.figure import Figure

    names = list(next(iter(results.values())).scores)
    small = names if len(names) > 1 else []
    columns = -(-len(small) // 3)
    figure = Figure(figsize=(6 + 2.4 * columns, 4.8), layout="constrained")
    grid = figure.add_gridspec(3, 3 + columns)
    large = figure.add_subplot(grid[:, :3])
    title = f"mean over {len(names)} collections" if small else names[0]
    _panel(large, {n: r.mean for n, r in results.items()}, metric, title)
    large.set_xlabel("dimension (log scale)")
    large.set_ylabel(f"{metric_label(metric)} (band: 95% bootstrap interval)")
    large.legend(frameon=False, loc="lower right")
    for i, name in enumerate(small):
        axes = figure.add_subplot(grid[i % 3, 3 + i // 3])
        _panel(axes, {n: r.scores[name] for n, r in results.items()}, metric, name, small=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


def _panel(
    axes: Any, systems: dict[str, dict[int, Scores]], metric: str, title: str, small: bool = False
) -> None:
    """One line per system; a system without a dimension is a dashed level."""
    dims = sorted({dim for rows in systems.values() for dim in rows if dim != NO_DIM})
    for i, (name, rows) in enumerate(systems.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        x = sorted(rows)
        y = [rows[dim].values[metric] for dim in x]
        low, high = zip(*(rows[dim].intervals[metric] for dim in x), strict=True)
        if x == [NO_DIM]:
            axes.axhline(y[0], color=colour, linestyle="--", linewidth=1.5, label=name)
            axes.axhspan(low[0], high[0], color=colour, alpha=0.10, linewidth=0)
            continue
        axes.plot(x, y, color=colour, marker=marker, markersize=3 if small else 6, label=name)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for dim, value in zip(x, y, strict=True):
            if not small and i == 0:
                axes.annotate(f"{value:.3f}", (dim, value), (0, 7), textcoords="offset points",
                              ha="center", fontsize=8)  # fmt: skip
    axes.set_title(title, fontsize=8 if small else 11)
    if dims:
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims if not small else [dims[0], dims[-1]])
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7 if small else 9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)


def _by_collection(results: Results, metric: str) -> list[list[str]]:
    """Rows of the first table: every system at its largest dimension, and what the first gains."""
    names = list(results)
    first = results[names[0]]
    top = {name: max(result.dims) for name, result in results.items()}
    heads = [f"{name} {top[name] or ''}".strip() for name in names]
    rows = [["collection", "documents", "queries", *heads]]
    rows[0] += [f"{names[0]} - {name}" for name in names[1:]]
    gains = [difference(first, results[name], metric) for name in names[1:]]
    for collection in first.scores:
        cells = [_value(results[n].scores[collection][top[n]], metric) for n in names]
        sizes = [f"{first.sizes[collection]:,}", f"{len(first.query_ids[collection]):,}"]
        rows.append([collection, *sizes, *cells, *(_signed(*g[collection]) for g in gains)])
    if len(first.scores) > 1:
        cells = [_value(results[n].mean[top[n]], metric) for n in names]
        rows.append(["mean", "", "", *cells, *(_signed(*g["mean"]) for g in gains)])
    return rows


def _by_dim(results: Results) -> list[list[str]]:
    """Rows of the second table: the mean over collections at each dimension."""
    rows = [["system", "dim", *map(metric_label, SUMMARY)]]
    for name, result in results.items():
        for i, (dim, row) in enumerate(result.mean.items()):
            cells = [_value(row, SUMMARY[0]), *(f"{row.values[m]:.4f}" for m in SUMMARY[1:])]
            rows.append([name if i == 0 else "", str(dim or "-"), *cells])
    return rows


def _value(row: Scores, metric: str) -> str:
    low, high = row.intervals[metric]
    return f"{row.values[metric]:.4f} [{low:.3f}, {high:.3f}]"


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.4f} [{low:+.3f}, {high:+.3f}]"


def _align(rows: list[list[str]]) -> str:
    """Columns of equal width, the first flush left, under a ruled header."""
    widths = np.array([[len(cell) for cell in row] for row in rows]).max(axis=0)
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
