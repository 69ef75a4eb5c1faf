"""What a study shows, in sentences: the report's summary and the titles of the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from sse.analysis.comparison import MEAN
from sse.analysis.study import METRIC, SIZE, Study
from sse.evaluation.metrics import metric_label

SCORE = metric_label(METRIC)
UNUSED = 0.01  # of an equal share of the variance: such a dimension counts for nothing
FLAT = 0.42  # the slope of tanh at |z| = 1
MOST_NAMES = 4
UNTOUCHED = 0.005  # of a row's length


def summary(study: Study) -> list[str]:
    """Three sentences: what was run, on what data, and what came out."""
    trials, steps = study.results["trial"].nunique(), study.results["steps"]
    names = ", ".join(study.levels)
    sizes = joined(f"{size:,}" for size in study.sizes)
    paths = list(dict.fromkeys(map(str, study.results.get("data.paths", []))))
    of = f" of {paths[0]}" if len(paths) == 1 and paths[0] not in ("None", "nan") else ""
    given = "data.pairs" in study.results and study.results["data.pairs"].notna().all()
    low, high = f"{int(steps.min()):,}", f"{int(steps.max()):,}"
    length = f"{low} steps" if low == high else f"{low} to {high} steps"
    return [
        f"{trials} trainings compare {len(study.levels)} levels of {study.by} ({names}), "
        f"with {study.seeds_there} each.",
        f"They {'train on' if given else 'see'} {sizes} pairs{of} for {length}; "
        f"{SCORE} is {_where(study)}.",
        f"{_best(study)}. {by_size(study)}.",
    ]


def _where(study: Study) -> str:
    names = [name for name in dict.fromkeys(study.by_dim["collection"]) if name != MEAN]
    if len(names) == 1:
        return f"that on {names[0]}"
    return f"the mean over {len(names)} collections ({', '.join(names)})"


def _best(study: Study) -> str:
    rows = study.by_dim[study.by_dim["collection"] == MEAN]
    rows = rows[rows["dim"] == study.dims[0]].set_index(study.by)["mean"]
    best = str(rows.idxmax())
    text = f"With {study.sizes[-1]:,} pairs and {study.dims[0]} dimensions "
    if best == study.reference:
        return f"{text}{best} scores best, {rows[best]:.3f}"
    reference = f"{study.reference} {rows[study.reference]:.3f}"
    return f"{text}{best} scores {rows[best]:.3f} and {reference}"


def by_size(study: Study) -> str:
    """Which levels differ from the reference, and with how many pairs."""
    return _beyond_noise(study, "size", "with {:,} pairs", "number of pairs")


def by_dim(study: Study) -> str:
    """Which levels differ from the reference, and at which dimensions."""
    return _beyond_noise(study, "dim", "at {} dimensions", "dimension")


def largest(study: Study) -> str:
    """The largest difference from the reference."""
    rows = study.family("size").reset_index(drop=True)
    row = rows.loc[rows["difference"].abs().idxmax()]
    certain = "within noise" if row["noise"] else "beyond noise"
    value = f"{row['difference']:+.4f}".replace("-", "−")
    return (
        f"The largest difference from {study.reference} is {value} ({certain}): "
        f"{row['level']} with {int(row[SIZE]):,} pairs"
    )


def truncation(study: Study) -> str:
    """What the first half of the dimensions keeps, and what the fewest keep."""
    kept = retained(study)
    dims = list(dict.fromkeys([study.dims[min(1, len(study.dims) - 1)], study.dims[-1]]))
    parts = [f"{dim} keep {spread(100 * kept[dim], '{:.0f}%')}" for dim in dims]
    return f"Of {study.dims[0]} dimensions {joined(parts)} of {SCORE}"


def retained(study: Study) -> pd.DataFrame:
    """Score at each dimension over that at the full one: levels by dims."""
    rows = study.by_dim[study.by_dim["collection"] == MEAN]
    wide = rows.pivot(index=study.by, columns="dim", values="mean")
    wide = wide.loc[[level for level in study.levels if level in wide.index]]
    return wide.div(wide[study.dims[0]], axis=0)


def variance(study: Study) -> str:
    """How many dimensions carry next to nothing."""
    return (
        f"{spread(unused(study), '{:.0f}')} of {study.dims[0]} dimensions are nearly unused: "
        f"less than {UNUSED:.0%} of an equal share of the variance"
    )


def unused(study: Study) -> dict[str, float]:
    """Dimensions with less than 1% of an equal share of the documents' variance, seeds' mean."""
    return {
        level: float((v < UNUSED * v.mean(axis=1, keepdims=True)).sum(axis=1).mean())
        for level, v in study.per_dim("y_variance_mean", "positive").items()
    }


def ranks(study: Study) -> str:
    """How many dimensions the vectors use."""
    values = spread(study.last("y_effective_rank", "positive"), "{:.0f}")
    return f"Document vectors have an effective rank of {values}, of {study.dims[0]} dimensions"


def gated(study: Study) -> list[str]:
    """The levels with a gate, whose slope can vanish."""
    gates = set(study.curve("gate_slope_mean", "anchor")["level"])
    return [level for level in study.levels if level in gates]


def z_range(study: Study, side: str) -> str:
    """How much of z lies beyond 1 at the end."""
    texts = {"anchor": "queries", "positive": "documents"}[side]
    parts = []
    for length in ("short", "long"):
        beyond = study.last("share_abs_z_above_1", side, length)
        gates = {level: 100 * beyond[level] for level in gated(study) if level in beyond}
        if gates:
            parts.append(f"{spread(gates, '{:.0f}%')} of the z of {length} {texts}")
    return f"After the last step |z| exceeds 1 in {joined(parts)}"


def shares(study: Study) -> str:
    """When most of z lies beyond 1."""
    for length in ("short", "long"):  # a sample without short texts is possible
        curve = study.curve("share_abs_z_above_1", "anchor", length)
        curve = curve[curve["level"].isin(gated(study))].reset_index(drop=True)
        if len(curve):
            break
    row = curve.loc[curve["mean"].idxmax()]
    return (
        f"At most {row['mean']:.0%} of the z of {length} queries lie beyond ±1: "
        f"{row['level']} at step {int(row['step']):,}"
    )


def slopes(study: Study) -> str:
    """Whether a dimension's gate is flat."""
    lowest = study.last("gate_slope_lowest_dim", "anchor")
    level = min(lowest, key=lowest.__getitem__)
    what = "No dimension's gate is flat" if lowest[level] > FLAT else "Some gates are flat"
    return (
        f"{what}: the lowest mean slope over queries is {lowest[level]:.2f} ({level}), "
        f"where 1 is linear and {FLAT} is tanh's slope at ±1"
    )


def gradients(study: Study) -> str:
    """Which part of the gradient passes the norm."""
    passed = spread(study.last("gradient_passed", "anchor"), "{:.2f}")
    return f"After the last step the norm passes {passed} of the gradient of queries"


def alphas(study: Study) -> str:
    """Where α ends."""
    curve = study.curve("alpha_mean")
    start = curve.loc[curve["step"].idxmin(), "mean"]
    return f"α starts at {start:.2f} and ends at {spread(study.last('alpha_mean'), '{:.2f}')}"


def growth(study: Study) -> str:
    """How much longer the rows become."""
    values = spread(study.last(f"token_norm_growth_p{percentile(study)}"), "{:.2f}")
    if percentile(study) == 50:
        return f"The median row becomes {values} times as long"
    return f"The median row stays as it was; the 95th percentile becomes {values} times as long"


def percentile(study: Study) -> int:
    """50, or 95 where half of the rows belong to tokens that never occurred."""
    middle = study.last("token_norm_growth_p50").values()
    return 50 if any(abs(value - 1) > UNTOUCHED for value in middle) else 95


def spread(values: Mapping[str, float] | pd.Series, form: str) -> str:
    """The least and the most of values by level, such as `206 (gain) to 222 (rmsnorm)`."""
    of = {str(level): float(value) for level, value in values.items()}
    low, high = min(of, key=of.__getitem__), max(of, key=of.__getitem__)
    least, most = form.format(of[low]), form.format(of[high])
    return most if least == most else f"{least} ({low}) to {most} ({high})"


def joined(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _beyond_noise(study: Study, family: str, where: str, axis: str) -> str:
    """Which levels score higher or lower than the reference, and where."""
    rows, column = study.family(family), SIZE if family == "size" else "dim"
    if rows["n"].max() < 2:
        return "With one seed no difference can be told from noise"
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for level in study.levels[1:]:
        mine = rows[(rows["level"] == level) & ~rows["noise"]]
        for word, part in (
            ("higher", mine[mine["difference"] > 0]),
            ("lower", mine[mine["difference"] < 0]),
        ):
            if len(part):
                key = word, tuple(sorted(map(int, part[column])))
                found.setdefault(key, []).append(level)
    several = f" at any {axis}" if rows[column].nunique() > 1 else ""
    if not found:
        return f"No level differs from {study.reference} by more than noise{several}"
    parts = []
    for (word, places), levels in found.items():
        names = joined(levels) if len(levels) <= MOST_NAMES else f"{len(levels)} levels"
        scores = "scores" if len(levels) == 1 else "score"
        here = joined(where.format(place) for place in places) if several else ""
        parts.append(f"{names} {scores} {word} than {study.reference} {here}".strip())
    rest = "" if sum(map(len, (p for _, p in found))) == len(rows) else "; all else is within noise"
    return f"{joined(parts)}{rest}"
