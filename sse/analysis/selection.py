"""Rows of a sweep's table by option, level, dimension and collection, as a user names them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sse.common.errors import UserError, one_of
from sse.evaluation.metrics import METRICS
from sse.sweeps.results import HELD_OUT

SEED = "seed_everything"

# Columns of the table that are no options, and options that say nothing of the experiment.
_FACTS = {"trial", "collection", "dim", "queries", "order", "commit", "pairs", "steps"}
_FACTS |= {"pairs_per_second", SEED, "model.seed", "data.seed", "out", "resume", "group"}


def select(
    table: pd.DataFrame,
    options: Sequence[str],
    metric: str,
    *,
    dims: Sequence[int] | None = None,
    collections: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The wanted rows, with their `group` (a tuple of the options' levels).

    Raises:
        UserError: an unknown metric, option, level, dim or collection, or trials of one group and
            seed that differ in another option.
    """
    if metric not in METRICS or metric not in table:
        known = [name for name in METRICS if name in table]
        raise UserError(f"unknown metric {metric!r}: {one_of(metric, known)}")
    for option in [*options, SEED]:
        if option not in table:
            raise UserError(f"no option {option!r} in the results; {varied(table)}")
    table = restrict(table, where or {})
    names = list(dict.fromkeys(table["collection"]))
    default = [name for name in names if name != HELD_OUT] or names
    table = _keep(table, "collection", collections or default)
    table = _keep(table, "dim", dims or list(dict.fromkeys(table["dim"])))
    groups = zip(*([plain(value) for value in table[option]] for option in options), strict=True)
    table = table.assign(group=list(groups) if options else [()] * len(table))
    twice = table[table.duplicated(["group", SEED, "collection", "dim"], keep=False)]
    if len(twice):
        one = twice.iloc[0]
        first = twice[(twice["group"] == one["group"]) & (twice[SEED] == one[SEED])]
        raise UserError(
            f"trials {', '.join(dict.fromkeys(first['trial']))} share seed and "
            f"{', '.join(options) or 'group'}: not one trial per seed; {varied(first)}: compare "
            "within one of them, or choose one value of it"
        )
    return table


def restrict(table: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """The rows whose options have these values, written as text; UserError if one is unknown."""
    for option, text in where.items():
        if option not in table:
            raise UserError(f"no option {option!r} in the results; {varied(table)}")
        wanted = level(text, list(dict.fromkeys(map(plain, table[option]))), option)
        table = table[[plain(value) == wanted for value in table[option]]]
    return table


def pair(text: str) -> tuple[str, str]:
    """`OPTION=VALUE` of a --where."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--where {text}: give OPTION=VALUE, as data.batch_size=512")
    return name, value


def level(text: str, levels: Iterable[Any], option: str) -> Any:
    """The level that `text` names; UserError if there is none."""
    known = {label(value): value for value in levels}
    if text in known:
        return known[text]
    for value in known.values():
        with_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if with_number and _number(text) == value:
            return value
    raise UserError(f"{option} has no level {text!r} in the results: {one_of(text, known)}")


def plain(value: Any) -> Any:
    """A cell as a level: `null`, and an int for a whole number, which a null made a float."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"  # equal to itself in a data frame too, which None and NaN are not
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label(value: Any) -> str:
    """A level as text: `null`, `true`, `100000`, `0.5`, `dyt`."""
    value = plain(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe(levels: Mapping[str, Any]) -> str:
    """`model.norm=dyt, data.pairs=1000`."""
    return ", ".join(f"{option}={label(value)}" for option, value in levels.items())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _keep(table: pd.DataFrame, column: str, wanted: Sequence[Any]) -> pd.DataFrame:
    known = list(dict.fromkeys(table[column]))
    for value in wanted:
        if value not in known:
            names = ", ".join(map(str, known))
            raise UserError(f"no {column} {value!r} in the results: choose from {names}")
    return table[table[column].isin(list(wanted))]


def subject(table: pd.DataFrame) -> str:
    """The option that a sweep is about: `model.norm`, or the only one that varies.

    Raises:
        UserError: several vary, or none.
    """
    if len(set(table.get("model.norm", []))) > 1:
        return "model.norm"
    options = varied_options(table, besides=("data.pairs",))
    if len(options) != 1:
        raise UserError(f"say which option to compare with --by; {varied(table)}")
    return options[0]


def varied(table: pd.DataFrame) -> str:
    """The options with more than one level, in words."""
    names = ", ".join(varied_options(table))
    return f"what differs among trials is {names or 'the seed alone'}"


def varied_options(table: pd.DataFrame, besides: Sequence[str] = ()) -> list[str]:
    """The options with more than one level."""
    skip = {*_FACTS, *METRICS, *besides}
    return [
        name
        for name in table
        if name not in skip
        and not name.startswith(("query_", "version.", "seconds_"))
        and len({label(value) for value in table[name]}) > 1
    ]
