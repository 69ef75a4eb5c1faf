"""The notebooks' figures of quality: what a level scores, and how far that is from the reference.

Every function takes a `sse.analysis.study.Study`. Its figure can be read without the text around
it: axes have names with units, the title states sizes, seeds and intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sse.analysis.comparison import MEAN
from sse.analysis.study import METRIC, SIZE, Study
from sse.evaluation.metrics import metric_label
from sse.evaluation.palette import COLOURS, MARKERS

SCORE = metric_label(METRIC)
DPI = 85
UNUSED = 0.01  # of an equal share of the variance: such a dimension counts for nothing
FLOOR = 1e-4  # of the variance's axis
_HUES = COLOURS[:-1]  # the last, black, is the reference's


def style(study: Study, level: str) -> dict[str, Any]:
    """One look per level in all figures: black for the reference, then hues, then dashed hues."""
    i = study.levels.index(level)
    colour = COLOURS[-1] if i == 0 else _HUES[(i - 1) % len(_HUES)]
    dashed = i > len(_HUES)
    return {
        "color": colour,
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": (0, (4, 1.5)) if dashed else "-",
        "markersize": 5,
        "markerfacecolor": "white" if dashed else colour,
    }


def new_figure(width: float, height: float) -> Figure:
    """A figure whose parts make room for each other; inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def legend(figure: Figure, study: Study, levels: Sequence[str]) -> None:
    """One legend to the right of all panels."""
    handles = [Line2D([], [], label=v, linewidth=1.5, **style(study, v)) for v in levels]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title=study.by)


def clean(axes: Any, grid: str = "y") -> None:
    """Only the lines that are read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def quality_by_size(study: Study) -> Figure:
    """nDCG@10 against the pairs trained on, and the difference from the reference beside it."""
    where = f" at {study.dims[0]} dimensions"
    figure, panels = _means_and_differences(study, study.by_size, SIZE, where, study.over)
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(study.sizes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
    figure.supxlabel("pairs to train on (log scale); bars: 95% t-intervals over seeds", fontsize=9)
    return figure


def forest(study: Study) -> Figure:
    """Paired differences with t-intervals, one panel per size; hollow where within noise."""
    rows = study.family("size")
    levels = study.levels[1:]
    sizes = study.sizes
    height = 1.7 + 0.34 * len(levels)
    figure = new_figure(1.8 + 3.2 * len(sizes), height)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        here = rows[rows[SIZE] == size]
        for _, row in here.iterrows():
            y = levels.index(row["level"])
            colour = style(study, row["level"])["color"]
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
            face = "white" if row["noise"] else colour
            axes.plot(row["difference"], y, "o", color=colour, markerfacecolor=face, markersize=6)
        axes.set_title(f"{size:,} pairs, n = {here['n'].min()} seeds", fontsize=10)
        # An interval of two or three seeds may dwarf all else: the axis shows the means whole.
        reach = 3 * float(here["difference"].abs().max())
        widest = 1.05 * float(here[["low", "high", "difference"]].abs().max().max())
        limit = min(reach, widest) or 1.0
        axes.set_xlim(-limit, limit)
        axes.locator_params(axis="x", nbins=5)
        clean(axes, "both")
        axes.margins(y=0.08)
    panels[0].set_yticks(range(len(levels)), levels)
    panels[0].invert_yaxis()
    figure.supxlabel(
        f"{SCORE} at {study.dims[0]} dimensions minus that of {study.reference}, "
        f"{study.over}; each panel has its own scale\n"
        "bars: 95% t-intervals over seeds; hollow: within noise (Holm)",
        fontsize=9,
    )
    return figure


def quality_by_dim(study: Study) -> Figure:
    """nDCG@10 against the dimensions kept, and the difference from the reference beside it."""
    title = f"{study.sizes[-1]:,} pairs; {study.over}"
    figure, panels = _means_and_differences(study, study.by_dim, "dim", "", title)
    for axes in panels:
        _dims_axis(axes, study.dims)
    note = "first dimensions kept (log scale); bars: 95% t-intervals over seeds"
    figure.supxlabel(note, fontsize=9)
    return figure


def truncation_cost(study: Study) -> Figure:
    """The share of the full dimension's score that each prefix keeps."""
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    kept = retained(study)
    for level in kept.index:  # those with trials of the size shown
        axes.plot(study.dims, 100 * kept.loc[level, study.dims], linewidth=1.5,
                  **style(study, level))  # fmt: skip
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_ylabel(f"{SCORE} kept, % of that at {study.dims[0]} dimensions")
    axes.set_xlabel("first dimensions kept (log scale)")
    axes.set_title(f"{study.sizes[-1]:,} pairs; {study.over}", fontsize=10)
    _dims_axis(axes, study.dims)
    legend(figure, study, study.levels)
    return figure


def retained(study: Study) -> pd.DataFrame:
    """Score at each dimension over that at the full one: levels by dims."""
    rows = study.by_dim[study.by_dim["collection"] == MEAN]
    wide = rows.pivot(index=study.by, columns="dim", values="mean")
    return wide.div(wide[study.dims[0]], axis=0)


def variance_by_dim(study: Study) -> Figure:
    """Each dimension's share of the vectors' variance after training, a panel per level."""
    variances = study.per_dim("y_variance_mean", "positive")
    dead = unused(study)
    columns = min(3, len(variances))
    rows = -(-len(variances) // columns)
    figure = new_figure(1 + 3.1 * columns, 0.9 + 1.9 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(variances) :]:
        axes.set_visible(False)
    for axes, (level, values) in zip(panels, variances.items(), strict=False):
        share = values / values.mean(axis=1, keepdims=True)  # (seeds, D), 1 is an equal share
        x = np.tile(np.arange(1, share.shape[1] + 1), (len(share), 1))
        look = {"s": 6, "color": style(study, level)["color"], "linewidths": 0}
        seen = share >= FLOOR
        axes.scatter(x[seen], share[seen], alpha=0.4, **look)
        axes.scatter(x[~seen], np.full((~seen).sum(), FLOOR), marker="v", **look | {"s": 20})
        for dim in study.dims[1:]:
            axes.axvline(dim + 0.5, color="#888888", linewidth=0.6, linestyle=":")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_title(f"{level}: {dead[level]:.1f} below {UNUSED:.0%}", fontsize=9)
        axes.set_yscale("log")
        clean(axes)
    for axes in panels[len(variances) - columns :]:  # the lowest that is drawn in each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel(
        f"dimension (dotted: the trained prefixes; triangles: at or below {FLOOR:g})", fontsize=9
    )
    figure.supylabel("variance over documents, 1 = an equal share (log scale)", fontsize=9)
    figure.suptitle(
        f"last step, {study.sizes[-1]:,} pairs, a dot per seed; "
        f"dimensions below {UNUSED:.0%} of an equal share, mean over seeds",
        fontsize=10,
    )
    return figure


def unused(study: Study) -> dict[str, float]:
    """Dimensions with less than 1% of an equal share of the documents' variance, seeds' mean."""
    return {
        level: float((v < UNUSED * v.mean(axis=1, keepdims=True)).sum(axis=1).mean())
        for level, v in study.per_dim("y_variance_mean", "positive").items()
    }


def ranks(study: Study) -> Figure:
    """How many dimensions the document vectors use while they are trained."""
    figure = new_figure(10.5, 4.2)
    panels = figure.subplots(1, 2)
    what = {
        "y_effective_rank": "effective rank,\nexp(entropy of the singular values)",
        "y_variance_participation": "participation of dimensions, (Σv)² / Σv²",
    }
    for axes, (quantity, name) in zip(panels, what.items(), strict=True):
        draw_curves(axes, study, study.curve(quantity, "positive"))
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
    figure.suptitle(f"document vectors of the sample, {training(study)}", fontsize=10)
    legend(figure, study, study.levels)
    return figure


def training(study: Study) -> str:
    """`800,000 pairs, 3 seeds (band: least to most)`."""
    return f"{study.sizes[-1]:,} pairs, {study.seeds} seeds (band: least to most)"


def draw_curves(axes: Any, study: Study, curve: pd.DataFrame) -> None:
    """A line per level over the steps, with a band from the seeds' least to their most."""
    for level in study.levels:
        part = curve[curve["level"] == level]
        if len(part):
            draw_band(axes, study, level, *(part[name] for name in ("step", "mean", "low", "high")))
    axes.set_xlabel("optimiser step")
    clean(axes)


def draw_band(
    axes: Any, study: Study, level: str, x: Sequence[Any], mean: Any, low: Any, high: Any
) -> None:
    """A level's line `mean` over `x`, with a band from `low` to `high`."""
    look = style(study, level) | {"markersize": 4, "markevery": max(1, len(x) // 8)}
    axes.plot(x, mean, linewidth=1.4, **look)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)


def _means_and_differences(
    study: Study, means: pd.DataFrame, x: str, where: str, title: str
) -> tuple[Figure, Sequence[Any]]:
    """Means on the left, differences from the reference on the right, both against `x`."""
    figure = new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    _errorbars(left, study, means[means["collection"] == MEAN], x)
    left.set_ylabel(f"{SCORE}{where}")
    left.set_title(title, fontsize=10)
    rows = study.family(x).rename(columns={"difference": "mean", "level": study.by})
    _errorbars(right, study, rows, x)
    right.axhline(0, color="black", linewidth=0.8)
    right.set_ylabel(f"{SCORE} minus that of {study.reference}")
    right.set_title(f"paired by seed: difference from {study.reference}", fontsize=10)
    legend(figure, study, study.levels)
    return figure, (left, right)


def _errorbars(axes: Any, study: Study, rows: pd.DataFrame, x: str) -> None:
    """Means with t-intervals; levels stand a little apart so that their bars do not hide others."""
    for i, level in enumerate(study.levels):
        part = rows[rows[study.by] == level].sort_values(x)
        if not len(part):
            continue
        apart = 1 + 0.035 * (i - (len(study.levels) - 1) / 2)
        half = ((part["high"] - part["low"]) / 2).fillna(0)
        axes.errorbar(part[x] * apart, part["mean"], yerr=half, capsize=2, linewidth=1.2,
                      elinewidth=0.9, **style(study, level))  # fmt: skip
    # Intervals of two seeds may dwarf all else: the axis shows the means, and what fits of these.
    low, high = float(rows["mean"].min()), float(rows["mean"].max())
    reach = 1.5 * max(high - low, 0.01)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - reach), min(top, high + reach))
    clean(axes)


def log_axis(axes: Any) -> None:
    """A logarithmic y axis with plain numbers, also between the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _dims_axis(axes: Any, dims: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    clean(axes)
