"""The figures of training: is the gate saturated, and what does that do to gradients?

All are at the largest size of the data. `sse.training.diagnostics.diagnose` defines each quantity.
Texts are a sample of held-out pairs; short ones have at most `SHORT_TOKENS` tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sse.analysis import findings
from sse.analysis.figures import (
    clean,
    conditions,
    draw_band,
    draw_curves,
    legend,
    new_figure,
    ratio_axis,
    style,
)
from sse.analysis.study import Study
from sse.text.token_batch import SHORT_TOKENS

LENGTHS = {"short": f"at most {SHORT_TOKENS} tokens", "long": f"more than {SHORT_TOKENS} tokens"}
SIDES = {"anchor": "queries", "positive": "documents"}


def z_over_steps(study: Study, side: str = "anchor") -> Figure:
    """Percentiles of z = αx + bias over the steps: short and long texts, a column per gate."""
    levels = findings.gated(study)
    finding = findings.z_range(study, side)
    figure = new_figure(max(7.0, 1.2 + 1.75 * len(levels)), 5, finding)
    grid = figure.subplots(2, len(levels), sharex=True, sharey=True, squeeze=False)
    for row, (length, name) in zip(grid, LENGTHS.items(), strict=True):
        of = {p: study.curve(f"z_p{p:02}", side, length) for p in (1, 5, 25, 50, 75, 95, 99)}
        for axes, level in zip(row, levels, strict=True):
            z = {p: curve[curve["level"] == level] for p, curve in of.items()}
            step, colour = z[50]["step"], style(study, level)["color"]
            for low, high, alpha in ((1, 99, 0.15), (5, 95, 0.25), (25, 75, 0.35)):
                axes.fill_between(step, z[low]["mean"], z[high]["mean"], color=colour,
                                  alpha=alpha, linewidth=0)  # fmt: skip
            axes.plot(step, z[50]["mean"], color=colour, linewidth=1.4)
            for limit in (-1, 1):
                axes.axhline(limit, color="black", linewidth=0.8, linestyle="--")
            clean(axes)
        row[0].set_ylabel(f"z, {SIDES[side]} of\n{name}")
    for axes, level in zip(grid[0], levels, strict=True):
        axes.set_title(level, fontsize=10)
    figure.supxlabel(
        "optimiser step\nbands: 1–99%, 5–95%, 25–75% of texts × dimensions; line: median; "
        "dashed: |z| = 1",
        fontsize=9,
    )
    return figure


def shares(study: Study, side: str = "anchor") -> Figure:
    """How many z lie beyond 1 and beyond 3, for short and long texts."""
    figure = new_figure(10.5, 6.2, findings.shares(study))
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    levels = findings.gated(study)
    for row, limit in zip(grid, (1, 3), strict=True):
        for axes, (length, name) in zip(row, LENGTHS.items(), strict=True):
            curve = study.curve(f"share_abs_z_above_{limit}", side, length)
            curve = curve[curve["level"].isin(levels)]
            curve[["mean", "low", "high"]] *= 100
            draw_curves(axes, study, curve)
            axes.set_ylim(bottom=0)
            if limit == 1:
                axes.set_title(f"{SIDES[side]} of {name}", fontsize=10)
                axes.set_xlabel("")
        row[0].set_ylabel(f"|z| > {limit},\n% of texts × dimensions")
    conditions(figure, study)
    legend(figure, study, levels)
    return figure


def gate_slopes(study: Study) -> Figure:
    """Each dimension's mean slope of the gate after training, dimensions sorted by it."""
    figure = new_figure(10.5, 4.4, findings.slopes(study))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (side, name) in zip(panels, SIDES.items(), strict=True):
        for level, values in study.per_dim("gate_slope_mean", side).items():
            _sorted_dims(axes, study, level, values)
        axes.set_title(f"{name}, last step", fontsize=10)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel(
        "mean slope of the gate over its largest\n(tanh: sech² z; 1 linear, 0 flat)"
    )
    conditions(figure, study)
    legend(figure, study, findings.gated(study))
    return figure


def gradients(study: Study, side: str = "anchor") -> Figure:
    """The loss's gradient after the gate, before it, and the part that passes."""
    figure = new_figure(13, 4.4, findings.gradients(study))
    panels = figure.subplots(1, 3)
    what = {
        "gradient_y_norm": "|∂L/∂y|, after the norm",
        "gradient_x_norm": "|∂L/∂x|, before the norm",
        "gradient_passed": "|∂L/∂x| / |∂L/∂y|",
    }
    for axes, (quantity, name) in zip(panels, what.items(), strict=True):
        draw_curves(axes, study, study.curve(quantity, side))
        ratio_axis(axes, name)
    panels[2].axhline(1, color="black", linewidth=0.8, linestyle="--")
    conditions(figure, study, SIDES[side])
    legend(figure, study, study.levels)
    return figure


def alphas(study: Study) -> Figure:
    """Where α goes from its start: its mean over the steps, and every dimension at the end."""
    figure = new_figure(10.5, 4.4, findings.alphas(study))
    left, right = figure.subplots(1, 2)
    curve = study.curve("alpha_mean")
    levels = [level for level in study.levels if level in set(curve["level"])]
    draw_curves(left, study, curve)
    left.set_ylabel("α, mean over dimensions")
    for level, values in study.per_dim("alpha_mean").items():
        if values.shape[1] > 1:  # one for all dimensions is in the left panel
            _sorted_dims(right, study, level, values)
    right.set_ylabel("α of each dimension, last step")
    conditions(figure, study)
    legend(figure, study, levels)
    return figure


def row_growth(study: Study) -> Figure:
    """How much longer the table's rows become: over the steps, and by how frequent a token is."""
    figure = new_figure(13, 4.4, findings.growth(study))
    left, middle, right = figure.subplots(1, 3)
    percentile = findings.percentile(study)
    draw_curves(left, study, study.curve(f"token_norm_growth_p{percentile}"))
    row = "the median row" if percentile == 50 else f"{percentile}th percentile of rows"
    left.set_ylabel(f"length / length at the start,\n{row}")
    conditions(figure, study)
    _growth_of_rows(middle, study)
    thirds = {t: study.last(f"token_norm_growth_{t}") for t in ("frequent", "middle", "rare")}
    for level in study.levels:
        values = [of.get(level, np.nan) for of in thirds.values()]
        right.plot(range(3), values, linewidth=1.4, **style(study, level))
    right.set_xticks(range(3), ["frequent", "middle", "rare"])
    right.set_xlabel("thirds of the tokens, by frequency")
    right.set_ylabel("length / length at the start, median")
    right.set_title("last step", fontsize=10)
    clean(right)
    legend(figure, study, study.levels)
    return figure


def _growth_of_rows(axes: Any, study: Study) -> None:
    """The 5th, 50th and 95th percentile of all rows after the last step, a line per level."""
    parts = {p: study.last(f"token_norm_growth_p{p:02}") for p in (5, 50, 95)}
    for y, level in enumerate(study.levels):
        if level not in parts[50]:  # no trial of the size shown
            continue
        look = style(study, level)
        axes.plot([parts[5][level], parts[95][level]], [y, y], color=look["color"])
        axes.plot(parts[50][level], y, **look)
    axes.set_yticks(range(len(study.levels)), study.levels)
    axes.invert_yaxis()
    axes.set_xlabel("length / length at the start,\n5th, 50th, 95th percentile of rows")
    axes.set_title("last step, all rows", fontsize=10)
    clean(axes, "x")


def _sorted_dims(axes: Any, study: Study, level: str, values: np.ndarray) -> None:
    """(seeds, D) values, sorted in each seed: the seeds' mean, and a band over them."""
    ranked = np.sort(values, axis=1)
    x = 100 * (np.arange(ranked.shape[1]) + 0.5) / ranked.shape[1]
    draw_band(axes, study, level, x, ranked.mean(0), ranked.min(0), ranked.max(0))
    axes.set_xlabel("dimensions, sorted, %")
    clean(axes)
