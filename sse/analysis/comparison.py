"""What the trials of a sweep show: means over seeds, and paired differences from a reference.

Both functions take the table of `sse.sweeps.results.read_results`, with a row per trial, collection
and dimension, and the options to group by. A group must have one trial per seed. Both return
tables, to print (`sse.analysis.comparison_table`) or to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sse.analysis.selection import SEED, describe, label, level, select
from sse.analysis.statistics import (
    Differences,
    crossed,
    effect_sizes,
    holm,
    seed_means,
    t_interval,
)
from sse.common.errors import UserError

MEAN = "mean"
ALPHA = 0.05
MEND = (
    "run `python experiments/sweep.py --config SWEEP.yaml --out OUT` again as before (with --retry "
    "if it broke), it trains only what is missing; or leave the level out"
)

# What a row is about, and its differences by collection.
Comparison = tuple[dict[str, Any], Differences]


def summarise(
    table: pd.DataFrame,
    by: Sequence[str],
    metric: str = "ndcg@10",
    *,
    dims: Sequence[int] | None = None,
    collections: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Mean and 95% t-interval over seeds, of each collection and of the mean over them.

    Args:
        table: what `read_results` read.
        by: options to group by, such as `model.norm`.
        metric: one of `sse.evaluation.metrics.METRICS`.
        dims: dimensions to keep; all by default.
        collections: collections to keep; by default all but the held-out pairs, where others are.
        where: options that must have a value, as text.

    Returns:
        A row per group, collection (`mean` last) and dim: the options, `collection`, `dim`,
        `mean`, `low`, `high`, `sd`, `n`. `low` to `sd` are NaN where n is 1.

    Raises:
        UserError: unknown names, or trials of one group and seed that differ in another option.
    """
    rows = select(table, by, metric, dims=dims, collections=collections, where=where)
    order = list(dict.fromkeys(rows["collection"]))
    lines = []
    for (group, dim), part in rows.groupby(["group", "dim"], sort=False):
        at = dict(zip(by, group, strict=True)) | {"dim": dim}
        wide = part.pivot(index=SEED, columns="collection", values=metric).reindex(columns=order)
        gaps = np.argwhere(wide.isna().to_numpy())
        if len(gaps):
            seed, name = wide.index[gaps[0][0]], order[gaps[0][1]]
            here = describe(at | {SEED: seed})
            raise UserError(f"missing trial: {here} has no {name}, which others have: {MEND}")
        for name, values in [*wide.items(), (MEAN, wide.mean(axis=1))]:
            e = t_interval(values.to_numpy())
            numbers = {"mean": e.mean, "low": e.low, "high": e.high, "sd": e.sd, "n": e.n}
            lines.append({**at, "collection": name, **numbers})
    return pd.DataFrame(lines)


def compare(
    table: pd.DataFrame,
    by: str,
    reference: str,
    metric: str = "ndcg@10",
    *,
    within: Sequence[str] = (),
    dims: Sequence[int] | None = None,
    collections: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Each level of the option `by` minus the reference level, paired by seed and by query.

    The difference is the mean over collections of the mean over queries of the per-query
    difference, averaged over seeds. It is `noise` unless its p over seeds and queries
    (`sse.analysis.statistics.crossed`), Holm-corrected over all rows returned, is below .05 and the
    t-interval over seeds excludes 0. With one seed, whose noise nobody knows, all is noise.

    Args:
        table: what `read_results` read, with per-query scores.
        by: the option compared.
        reference: its level that the others are compared with, as text.
        metric: one of `sse.evaluation.metrics.METRICS`.
        within: options at each combination of whose levels the comparison is made.
        dims: as in `summarise`.
        collections: as in `summarise`.
        where: as in `summarise`.

    Returns:
        A row per combination of `within`, dim and level, with `level`, `reference`, `dim`, the
        options of `within`, `n` seeds, `queries`, `difference`, `low` and `high` (t over seeds),
        `p`, `p_holm`, `dz_seeds`, `dz_queries`, `better`, `worse`, `equal` (see `effect_sizes`)
        and `noise`.

    Raises:
        UserError: unknown names, no per-query scores, a missing trial, unequal queries.
    """
    scores = f"query_{metric}"
    rows = select(table, [by, *within], metric, dims=dims, collections=collections, where=where)
    if scores not in rows or rows[scores].isna().any():
        raise UserError(
            f"no per-query scores of {metric} in the results: without them only means can be "
            "compared; read the folder that the sweep wrote, not an extract"
        )
    levels = list(dict.fromkeys(group[0] for group in rows["group"]))
    chosen = level(reference, levels, by)
    pairs = _pairs(rows, by, chosen, within, scores)
    if not pairs:
        raise UserError(f"{by}: nothing to compare {label(chosen)} with; give another option")
    frame = pd.DataFrame([_test(*pair) for pair in pairs])
    frame["p_holm"] = holm(frame["p"])
    outside = (frame["low"] > 0) | (frame["high"] < 0)
    frame["noise"] = ~(outside & (frame["p_holm"] < ALPHA))
    return frame


def _pairs(
    rows: pd.DataFrame, by: str, chosen: Any, within: Sequence[str], scores: str
) -> list[Comparison]:
    """Every cell with the reference's, at the dimensions that both have."""
    cells = dict(iter(rows.groupby(["group", "dim"], sort=False)))
    groups = {group for group, _ in cells}
    pairs = []
    for (group, dim), part in cells.items():
        base_group = (chosen, *group[1:])
        if group[0] == chosen or (base_group in groups and (base_group, dim) not in cells):
            continue
        base = cells.get((base_group, dim), rows.iloc[:0])
        at = dict(zip(within, group[1:], strict=True))
        _check_balance({by: group[0], **at}, part, {by: chosen, **at}, base)
        key = {"level": group[0], "reference": chosen, **at, "dim": dim}
        pairs.append((key, _differences(part, base, scores)))
    return pairs


def _test(at: dict[str, Any], differences: Differences) -> dict[str, Any]:
    """A row of `compare` but for what depends on the other rows."""
    estimate = t_interval(seed_means(differences))
    return (
        at
        | {"n": estimate.n, "queries": sum(map(len, differences.values()))}
        | {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
        | {"p": crossed(differences)[0]}
        | effect_sizes(differences)
    )


def _differences(part: pd.DataFrame, base: pd.DataFrame, scores: str) -> Differences:
    """Score minus the reference's score, (Q, S) per collection."""
    differences = {}
    for name, mine in part.groupby("collection", sort=False):
        theirs = base[base["collection"] == name].set_index(SEED)
        mine = mine.set_index(SEED)
        if len({*mine["queries"], *theirs["queries"]}) > 1:
            a, b = mine["trial"].iloc[0], theirs["trial"].iloc[0]
            raise UserError(
                f"{name}: trials {a} and {b} were evaluated on different queries and cannot be "
                "paired: evaluate both on the same, or choose other collections"
            )
        columns = [mine.at[s, scores] - theirs.at[s, scores].astype(np.float64) for s in mine.index]
        differences[str(name)] = np.stack(columns, axis=1)
    return differences


def _check_balance(
    mine: Mapping[str, Any], part: pd.DataFrame, theirs: Mapping[str, Any], base: pd.DataFrame
) -> None:
    """Raise UserError where one side of a comparison lacks a trial that the other has."""
    ours, other = (set(zip(x[SEED], x["collection"], strict=True)) for x in (part, base))
    for lacking, having, gap in ((mine, theirs, other - ours), (theirs, mine, ours - other)):
        if gap:
            seed, name = min(gap)
            seeds = {seed for seed, _ in (ours if lacking is mine else other)}
            what = f"seed {seed}" if seed not in seeds else f"{name} with seed {seed}"
            raise UserError(
                f"missing trial: {describe(lacking)} has no {what}, which {describe(having)} "
                f"has: {MEND}"
            )
