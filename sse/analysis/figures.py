"""What the figures of quality and of training share: looks, titles, lines with bands, axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from sse.analysis.study import Study
from sse.evaluation.palette import COLOURS, MARKERS

DPI = 85
LETTERS, LEGEND = 10, 1.6  # of a title per inch; inches of the legend beside it
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


def new_figure(width: float, height: float, finding: str) -> Figure:
    """A figure, in inches, whose title is what it shows."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    wrapped = textwrap.fill(finding, int((width - LEGEND) * LETTERS))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def legend(figure: Figure, study: Study, levels: Sequence[str]) -> None:
    """One legend to the right of all panels."""
    handles = [Line2D([], [], label=v, linewidth=1.5, **style(study, v)) for v in levels]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title=study.by)


def clean(axes: Any, grid: str = "y") -> None:
    """Only the lines that are read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def conditions(figure: Figure, study: Study, texts: str = "") -> None:
    """Say below all panels what they rest on: `800,000 pairs, 3 seeds (band: least to most)`."""
    band = " (band: least to most)" if study.seeds > 1 else ""
    of = f"{texts} of the sample; " if texts else ""
    figure.supxlabel(f"{of}{study.sizes[-1]:,} pairs, {study.seeds_there}{band}", fontsize=9)


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


def ratio_axis(axes: Any, name: str) -> None:
    """A y axis of ratios: logarithmic, with plain numbers, where they span a factor of 4."""
    bottom, top = axes.get_ylim()
    if 0 < 4 * bottom < top or bottom <= 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        name += " (log scale)"
    axes.set_ylabel(name)
