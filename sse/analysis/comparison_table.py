"""Comparisons as Markdown, ready for a paper: means, differences, and what is only noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sse.analysis.comparison import ALPHA, MEAN
from sse.analysis.selection import label
from sse.evaluation.metrics import metric_label

NOISE = "within noise"
ONE_SEED = "1 seed: undecided"


def to_markdown(
    summary: pd.DataFrame,
    differences: pd.DataFrame | None = None,
    *,
    by: str,
    within: str | None = None,
    metric: str = "ndcg@10",
) -> str:
    """Rows: the levels of `by`, then their differences; columns: dims, or the levels of `within`.

    Args:
        summary: `summarise`'s table, grouped by `by` (and `within`).
        differences: `compare`'s table; its p are corrected over all of its rows, so pass it whole.
        by: the option in the rows.
        within: the option in the columns, one dimension only; None for the dimensions.
        metric: for the caption.

    Returns:
        A caption that states every choice, and the table. A bold difference is significant; one
        that is not says "within noise".
    """
    column = within or "dim"
    rows = summary[summary["collection"] == MEAN]
    keys = _order(rows[column])
    head = [by, *(f"{key} dims" for key in keys)]
    if within:
        head = [f"{by}, by {within}", *map(label, keys)]
    lines = []
    first = [] if differences is None else differences["reference"]
    for value in dict.fromkeys([*first, *rows[by]]):
        of = {row[column]: row for _, row in rows[rows[by] == value].iterrows()}
        lines.append([label(value), *(_mean(of.get(key)) for key in keys)])
    if differences is not None:
        for value in dict.fromkeys(differences["level"]):
            part = differences[differences["level"] == value]
            of = {row[column]: row for _, row in part.iterrows()}
            name = f"{label(value)} − {label(part['reference'].iloc[0])}"
            lines.append([name, *(_difference(of.get(key)) for key in keys)])
    return f"{_caption(summary, differences, metric)}\n\n{markdown(head, lines)}"


def details(differences: pd.DataFrame, within: Sequence[str] = ()) -> str:
    """Every number behind the differences, one row per comparison."""
    head = [
        "comparison", *within, "dims", "difference", "95% over seeds (t)", "p", "p, Holm",
        "d_z seeds", "d_z queries", "better / worse / equal", "n", "verdict",
    ]  # fmt: skip
    lines = []
    for _, row in differences.iterrows():
        moved = " / ".join(f"{row[name]:.0%}" for name in ("better", "worse", "equal"))
        lines.append([
            f"{label(row['level'])} − {label(row['reference'])}",
            *(label(row[option]) for option in within),
            label(row["dim"]),
            signed(row["difference"]),
            _bounds(row["low"], row["high"]),
            *(_p(row[name]) for name in ("p", "p_holm")),
            *(_number(row[name]) for name in ("dz_seeds", "dz_queries")),
            moved,
            f"{row['n']} seed{'s' * (row['n'] > 1)}, {row['queries']:,} queries",
            verdict(row),
        ])  # fmt: skip
    return markdown(head, lines)


def by_collection(summary: pd.DataFrame, by: Sequence[str]) -> str:
    """Mean and half-interval, one row per group and collection."""
    dims = _order(summary["dim"])
    if summary["collection"].nunique() == 2:  # one, and its mean
        summary = summary[summary["collection"] != MEAN]
    lines = []
    for key, part in summary.groupby([*by, "collection"], sort=False, dropna=False):
        of = {row["dim"]: row for _, row in part.iterrows()}
        lines.append([*map(label, key), *(_mean(of.get(dim)) for dim in dims)])
    return markdown([*by, "collection", *(f"{dim} dims" for dim in dims)], lines)


def verdict(row: pd.Series) -> str:
    """`within noise`, `better` or `worse` than the reference; with one seed, undecided."""
    if row["n"] < 2:
        return ONE_SEED
    if row["noise"]:
        return NOISE
    return "better" if row["difference"] > 0 else "worse"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column flush right."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *lines))


def signed(value: float) -> str:
    """A difference to four places with its sign, a proper minus."""
    return f"{value:+.4f}".replace("-", "−")


def _caption(summary: pd.DataFrame, differences: pd.DataFrame | None, metric: str) -> str:
    names = [name for name in dict.fromkeys(summary["collection"]) if name != MEAN]
    over = (
        f"mean over {len(names)} collections ({', '.join(names)})" if len(names) > 1 else names[0]
    )
    ns = sorted(set(summary["n"]))
    seeds = " or ".join(str(n) for n in ns)
    one = "; n = 1 has no interval" if 1 in ns else ""
    text = (
        f"{metric_label(metric)}, {over}; n = {seeds} {'seed' if ns == [1] else 'seeds'}, "
        f"± half the 95% t-interval over seeds{one}."
    )
    if differences is None:
        return text
    return (
        f"{text} Differences are paired by seed and query; p is Clark's min F' over seeds and "
        f"queries, Holm-corrected over the {len(differences)} shown. **Bold**: p < {ALPHA} and the "
        f'95% t-interval over seeds excludes 0; else "{NOISE}".'
    )


def _mean(row: pd.Series | None) -> str:
    if row is None:
        return "–"
    if not np.isfinite(row["low"]):
        return f"{row['mean']:.4f} (n = 1)"
    return f"{row['mean']:.4f} ± {(row['high'] - row['low']) / 2:.4f}"


def _difference(row: pd.Series | None) -> str:
    if row is None:
        return "–"
    if row["n"] < 2:
        return f"{signed(row['difference'])} ({ONE_SEED})"
    value = signed(row["difference"])
    p = f"p {_p(row['p_holm'], equals=True)}"
    return f"{value} ({p}, {NOISE})" if row["noise"] else f"**{value}** ({p})"


def _p(value: float, equals: bool = False) -> str:
    if not np.isfinite(value):
        return "–"
    sign = "= " if equals else ""
    return "< .001" if value < 0.001 else f"{sign}{f'{value:.3f}'.lstrip('0')}"


def _bounds(low: float, high: float) -> str:
    return f"[{signed(low)}, {signed(high)}]" if np.isfinite(low) else "none (1 seed)"


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if np.isfinite(value) else "–"


def _order(values: pd.Series) -> list[Any]:
    """Levels as columns: dimensions from large to small, other numbers ascending, else as met."""
    levels = list(dict.fromkeys(values))
    if values.name == "dim":
        return sorted(levels, reverse=True)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in levels)
    return sorted(levels) if numbers else levels
