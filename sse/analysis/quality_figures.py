"""The figures of quality: what a level scores, and how far that is from the reference.

Every function takes a `sse.analysis.study.Study`. Its figure can be read without the text around
it: the title is the finding, axes have names with units, panels state sizes, seeds and intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sse.analysis import findings
from sse.analysis.comparison import MEAN
from sse.analysis.figures import clean, conditions, draw_curves, legend, new_figure, style
from sse.analysis.findings import SCORE
from sse.analysis.study import SIZE, Study

FLOOR = 1e-4  # of the variance's axis


def quality_by_size(study: Study) -> Figure:
    """nDCG@10 against the pairs trained on, and the difference from the reference beside it.

    With one size there is no curve: a row per level.
    """
    where, finding = f" at {study.dims[0]} dimensions", findings.by_size(study)
    if len(study.sizes) == 1:
        return _by_level(study, f"{SCORE}{where}", finding)
    figure, panels = _means_and_differences(study, study.by_size, SIZE, where, study.over, finding)
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(study.sizes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.margins(x=0.1)
    figure.supxlabel("pairs to train on (log scale); bars: 95% t-intervals over seeds", fontsize=9)
    return figure


def _by_level(study: Study, name: str, finding: str) -> Figure:
    """Means with their intervals, a row per level."""
    figure = new_figure(8.5, 1.6 + 0.34 * len(study.levels), finding)
    axes = figure.subplots()
    rows = study.by_size[study.by_size["collection"] == MEAN].set_index(study.by)
    for y, level in enumerate(study.levels):
        row, look = rows.loc[level], style(study, level)
        if np.isfinite(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color=look["color"], linewidth=1.2)
        axes.plot(row["mean"], y, **look)
    axes.set_yticks(range(len(study.levels)), study.levels)
    axes.invert_yaxis()
    _bound(axes, rows["mean"], "x")
    axes.set_title(f"{study.sizes[0]:,} pairs; {study.over}", fontsize=10)
    bars = "; bars: 95% t-intervals over seeds" if study.seeds > 1 else ""
    axes.set_xlabel(f"{name}{bars}")
    clean(axes, "both")
    axes.margins(y=0.1)
    return figure


def forest(study: Study) -> Figure:
    """Paired differences with t-intervals, one panel per size; hollow where within noise."""
    rows = study.family("size")
    levels, sizes = study.levels[1:], study.sizes
    width = max(7.5, 1.8 + 3.2 * len(sizes))
    figure = new_figure(width, 1.9 + 0.34 * len(levels), findings.largest(study))
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
        n = int(here["n"].min())
        axes.set_title(f"{size:,} pairs, {n} seed{'s' * (n > 1)}", fontsize=10)
        # An interval of two or three seeds may dwarf all else: the axis shows the means whole.
        reach = 3 * float(here["difference"].abs().max())
        widest = 1.05 * float(here[["low", "high", "difference"]].abs().max().max())
        limit = min(reach, widest) or 1.0
        axes.set_xlim(-limit, limit)
        axes.locator_params(axis="x", nbins=5)
        clean(axes, "both")
        axes.margins(y=0.1)
    panels[0].set_yticks(range(len(levels)), levels)
    panels[0].invert_yaxis()
    scales = "; each panel has its own scale" if len(sizes) > 1 else ""
    figure.supxlabel(
        f"{SCORE} at {study.dims[0]} dimensions minus that of {study.reference}, {study.over}\n"
        f"bars: 95% t-intervals over seeds; hollow: within noise (Holm){scales}",
        fontsize=9,
    )
    return figure


def quality_by_dim(study: Study) -> Figure:
    """nDCG@10 against the dimensions kept, and the difference from the reference beside it."""
    title, finding = f"{study.sizes[-1]:,} pairs; {study.over}", findings.by_dim(study)
    figure, panels = _means_and_differences(study, study.by_dim, "dim", "", title, finding)
    for axes in panels:
        _dims_axis(axes, study.dims)
    note = "first dimensions kept (log scale); bars: 95% t-intervals over seeds"
    figure.supxlabel(note, fontsize=9)
    return figure


def truncation_cost(study: Study) -> Figure:
    """The share of its own full quality that each level keeps, in percent."""
    figure = new_figure(7.5, 4.2, findings.truncation(study))
    axes = figure.subplots()
    kept = 100 * findings.retained(study)
    for level in kept.index:  # those with trials of the size shown
        row = kept.loc[level].sort_index()
        axes.plot(row.index, row, linewidth=1.4, **style(study, level))
    axes.set_ylabel(f"{SCORE} kept, % of that at {study.dims[0]} dimensions")
    axes.set_xlabel("first dimensions kept (log scale)")
    axes.set_title(f"{study.sizes[-1]:,} pairs; {study.over}", fontsize=10)
    _dims_axis(axes, study.dims)
    legend(figure, study, study.levels)
    return figure


def variance_by_dim(study: Study) -> Figure:
    """Each dimension's share of the vectors' variance after training, a panel per level."""
    variances = study.per_dim("y_variance_mean", "positive")
    dead = findings.unused(study)
    columns = min(3, len(variances))
    rows = -(-len(variances) // columns)
    figure = new_figure(max(7.0, 1 + 3.1 * columns), 2 + 1.8 * rows, findings.variance(study))
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
        axes.set_title(f"{level}: {dead[level]:.0f} dimensions nearly unused", fontsize=9)
        axes.set_yscale("log")
        clean(axes)
    for axes in panels[len(variances) - columns :]:  # the lowest that is drawn in each column
        axes.tick_params(labelbottom=True)
    figure.supylabel("share of the variance,\n1 = an equal share (log)", fontsize=9)
    figure.supxlabel(
        f"dimension (dotted: the trained prefixes; triangles: at or below {FLOOR:g})\n"
        f"variance over documents, last step, {study.sizes[-1]:,} pairs, a dot per seed",
        fontsize=9,
    )
    return figure


def ranks(study: Study) -> Figure:
    """How many dimensions the document vectors use while they are trained."""
    figure = new_figure(10.5, 4.2, findings.ranks(study))
    panels = figure.subplots(1, 2)
    what = {
        "y_effective_rank": "effective rank,\nexp(entropy of the singular values)",
        "y_variance_participation": "participation of dimensions,\n(Σv)² / Σv²",
    }
    for axes, (quantity, name) in zip(panels, what.items(), strict=True):
        draw_curves(axes, study, study.curve(quantity, "positive"))
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
    conditions(figure, study, "document vectors")
    legend(figure, study, study.levels)
    return figure


def _means_and_differences(
    study: Study, means: pd.DataFrame, x: str, where: str, title: str, finding: str
) -> tuple[Figure, Sequence[Any]]:
    """Means on the left, differences from the reference on the right, both against `x`."""
    figure = new_figure(10.5, 4.4, finding)
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
    places = np.sort(rows[x].unique()).astype(float)
    nearest = float((places[1:] / places[:-1]).min()) if len(places) > 1 else 2.0
    gap = min(0.035, (nearest - 1) / (2 * len(study.levels)))
    for i, level in enumerate(study.levels):
        part = rows[rows[study.by] == level].sort_values(x)
        if not len(part):
            continue
        apart = 1 + gap * (i - (len(study.levels) - 1) / 2)
        half = ((part["high"] - part["low"]) / 2).fillna(0)
        axes.errorbar(part[x] * apart, part["mean"], yerr=half, capsize=2, linewidth=1.2,
                      elinewidth=0.9, **style(study, level))  # fmt: skip
    _bound(axes, rows["mean"], "y")
    clean(axes)


def _bound(axes: Any, means: pd.Series, axis: str) -> None:
    """Show the means, and what fits of their intervals: those of two seeds may dwarf all else."""
    low, high = float(means.min()), float(means.max())
    reach = 1.5 * max(high - low, 0.01)
    first, last = getattr(axes, f"get_{axis}lim")()
    getattr(axes, f"set_{axis}lim")(max(first, low - reach), min(last, high + reach))


def _dims_axis(axes: Any, dims: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    clean(axes)
