"""What the notebooks' figures show, in words and numbers computed from the same tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sse.analysis.comparison_table import markdown, signed
from sse.analysis.quality_figures import SCORE, UNUSED, retained, sample, unused
from sse.analysis.saturation_figures import gated
from sse.analysis.study import SIZE, Study

KNEE = 1 / math.cosh(1) ** 2  # tanh's slope at |z| = 1, where it leaves its linear part


def saturation(study: Study) -> str:
    """A table of the last step, and which gates are saturated: mean slope below sech²(1)."""
    columns: dict[str, dict[str, float]] = {}
    for limit in (1, 3):
        for length in ("short", "long"):
            name = f"z beyond ±{limit}, {length} texts"
            columns[name] = study.last(f"share_abs_z_above_{limit}", "anchor", length)
    slope = study.last("gate_slope_mean", "anchor")
    short = study.last("gate_slope_mean", "anchor", "short")
    columns["mean slope"] = slope
    columns["lowest dimension"] = study.last("gate_slope_lowest_dim", "anchor")
    lines = [
        [level, *(_share(of.get(level)) if "beyond" in name else _plain(of.get(level))
                  for name, of in columns.items())]
        for level in gated(study)
    ]  # fmt: skip
    passed = study.curve("gradient_passed", "anchor")
    growth = study.last("token_norm_growth_p50")
    parts = [markdown(["queries, last step", *columns], lines)]
    said = [
        _split(slope, "queries of any length"),
        _split(short, "short queries") if short else "",
        _drift(study),
    ]
    for level in study.levels:
        part = passed[passed["level"] == level]
        if len(part) and level in gated(study):
            first, last = part["mean"].iloc[0], part["mean"].iloc[-1]
            said.append(
                f"{level}: |∂L/∂x| is {first:.3g} times |∂L/∂y| at the first step and {last:.3g} "
                "times at the last."
            )
    if growth:
        low, high = min(growth, key=growth.__getitem__), max(growth, key=growth.__getitem__)
        said.append(
            f"The median row of the table grows least with {low} ({growth[low]:.2f} times its "
            f"length at the start) and most with {high} ({growth[high]:.2f} times)."
        )
    parts.append(_bullets(said))
    return "\n\n".join([*parts, basis(study)])


def ablation(study: Study) -> str:
    """Which levels differ from the reference by more than noise, at each size."""
    rows = study.family("size")
    said = [
        _verdicts(rows[rows[SIZE] == size], f"With {size:,} pairs", study.reference)
        for size in study.sizes
    ]
    widest = rows.loc[rows["difference"].abs().idxmax()]
    said.append(
        f"The largest difference is that of {widest['level']} with {int(widest[SIZE]):,} pairs: "
        f"{signed(widest['difference'])} {SCORE}, better on {widest['better']:.0%} of the queries "
        f"and worse on {widest['worse']:.0%}."
    )
    return f"{_bullets(said)}\n\n{basis(study)}"


def matryoshka(study: Study) -> str:
    """What truncation costs, where levels differ in it, and how many dimensions are in use."""
    kept = 100 * retained(study)
    said = []
    for dim in study.dims[1:]:
        of = kept[dim]
        said.append(
            f"{dim} of {study.dims[0]} dimensions keep {of.min():.1f}% ({of.idxmin()}) to "
            f"{of.max():.1f}% ({of.idxmax()}) of {SCORE}."
        )
    rows = study.family("dim")
    for dim in study.dims:
        said.append(_verdicts(rows[rows["dim"] == dim], f"At {dim} dimensions", study.reference))
    rank = study.last("y_effective_rank", "positive")
    if rank:
        low, high = min(rank, key=rank.__getitem__), max(rank, key=rank.__getitem__)
        said.append(
            f"The documents' effective rank ends between {rank[low]:.0f} ({low}) and "
            f"{rank[high]:.0f} ({high}) of {study.dims[0]}."
        )
    dead = {level: count for level, count in unused(study).items() if count}
    named = [f"{level} {count:.1f}" for level, count in dead.items()]
    said.append(
        f"Dimensions with less than {UNUSED:.0%} of an equal share of the documents' variance: "
        f"{_and(named)} (mean over seeds); none elsewhere."
        if dead
        else f"No dimension has less than {UNUSED:.0%} of an equal share of the variance."
    )
    return f"{_bullets(said)}\n\n{basis(study)}"


def _verdicts(rows: pd.DataFrame, where: str, reference: str) -> str:
    shown = rows[~rows["noise"]]
    parts = []
    for word, part in (
        ("better", shown[shown["difference"] > 0]),
        ("worse", shown[shown["difference"] < 0]),
    ):
        named = [f"{row['level']} ({signed(row['difference'])})" for _, row in part.iterrows()]
        if named:
            parts.append(
                f"{_and(named)} {'is' if len(named) == 1 else 'are'} {word} than {reference}"
            )
    noise = list(rows[rows["noise"]]["level"])
    if noise:
        parts.append(
            f"{_and(noise)} {'is' if len(noise) == 1 else 'are'} within noise of {reference}"
        )
    return f"{where}, {'; '.join(parts)}."


def _split(slopes: dict[str, float], of: str) -> str:
    flat = [level for level, value in slopes.items() if value < KNEE]
    rest = [level for level in slopes if level not in flat]
    parts = [f"below it, saturated, for {_and(flat)}"] if flat else []
    parts += [f"above it for {_and(rest)}"] if rest else []
    return (
        f"tanh's slope at |z| = 1 is {KNEE:.2f}: over {of}, the gate's mean slope is "
        f"{'; '.join(parts)}."
    )


def _drift(study: Study) -> str:
    curve = study.curve("alpha_mean")
    moved = [
        f"{level} {part['mean'].iloc[0]:.3g} to {part['mean'].iloc[-1]:.3g}"
        for level in study.levels
        if len(part := curve[curve["level"] == level])
    ]
    return f"Mean α, first to last step: {'; '.join(moved)}." if moved else ""


def basis(study: Study) -> str:
    """What all of this rests on."""
    commits = _and(list(dict.fromkeys(study.results["commit"].astype(str))))
    text = (
        f"Basis: {sample(study)}, sizes {_and([f'{s:,}' for s in study.sizes])}, commit {commits}."
    )
    return f"{text} {study.left_out[:1].upper()}{study.left_out[1:]}".strip()


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines if line)


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
