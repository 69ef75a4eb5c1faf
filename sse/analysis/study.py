"""What the notebooks and the report read: a sweep of an option, or a small extract of one.

A folder holds the sweep's `results.parquet` and `diagnostics.parquet`. An extract holds the same
tables with less in them, and `differences.parquet`, as it has no scores of single queries:

    python -m sse.analysis.study runs/norms notebooks/results
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sse.analysis.comparison import MEAN, compare, summarise
from sse.analysis.selection import (
    SEED,
    describe,
    label,
    pair,
    plain,
    restrict,
    subject,
    varied,
)
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import atomic_file
from sse.model.norm_forms import NORM_FORMS
from sse.sweeps.results import KEY, VERSION, read_results

VARIABLE = "SSE_RESULTS"
DEFAULT = "notebooks/results"
CONFIG = "experiments/configs/sweeps/norms.yaml"
SIZE = "size"  # pairs to train on: data.pairs, or the pairs seen where that is unset
METRIC = "ndcg@10"

# Of the diagnostics, what the notebooks need; per dimension, the last step's alone.
QUANTITIES = (
    *("z_p01", "z_p05", "z_p25", "z_p50", "z_p75", "z_p95", "z_p99", "tokens_mean", "texts"),
    *("share_abs_z_above_1", "share_abs_z_above_3", "gate_slope_mean", "gate_slope_lowest_dim"),
    *("gradient_y_norm", "gradient_x_norm", "gradient_passed", "alpha_mean", "alpha_std"),
    *("token_norm_growth_p05", "token_norm_growth_p50", "token_norm_growth_p95"),
    *("token_norm_growth_frequent", "token_norm_growth_middle", "token_norm_growth_rare"),
    *("y_variance_mean", "y_effective_rank", "y_variance_participation"),
)
COLUMNS = ("trial", SEED, "data.pairs", "pairs", "steps", "collection", "dim", METRIC, "commit")


@dataclass(frozen=True)
class Study:
    """The trials of a sweep that can be compared, by one option, at each size of the data.

    Args:
        results: a row per trial, collection and dimension; with `size`.
        measured: the diagnostics, with `level`, `size` and `seed` of their trial.
        differences: `compare`'s tables of two families of comparisons, named in `family`: `size`,
            at the largest dimension, and `dim`, at the largest size.
        by: the option compared.
        reference: its level that others are compared with.
        levels: the levels, the reference first.
        left_out: names what had no equal in the reference's seeds; empty where nothing.
    """

    results: pd.DataFrame
    measured: pd.DataFrame
    differences: pd.DataFrame
    by: str
    reference: str
    levels: list[str]
    left_out: str

    @property
    def sizes(self) -> list[int]:
        """Pairs to train on, ascending."""
        return sorted({int(size) for size in self.results[SIZE]})

    @property
    def dims(self) -> list[int]:
        """Dimensions, descending."""
        return sorted({int(dim) for dim in self.results["dim"]}, reverse=True)

    @property
    def seeds(self) -> int:
        """Seeds at the largest size."""
        return int(self.results[self.results[SIZE] == self.sizes[-1]][SEED].nunique())

    @cached_property
    def by_size(self) -> pd.DataFrame:
        """`summarise`'s table at the largest dimension, at each size."""
        return summarise(self.results, [self.by, SIZE], METRIC, dims=self.dims[:1])

    @cached_property
    def by_dim(self) -> pd.DataFrame:
        """`summarise`'s table at the largest size, at each dimension."""
        rows = self.results[self.results[SIZE] == self.sizes[-1]]
        return summarise(rows, [self.by], METRIC)

    @property
    def over(self) -> str:
        """What the means are over: `mean over 6 collections, 3 seeds`."""
        names = [name for name in dict.fromkeys(self.by_dim["collection"]) if name != MEAN]
        over = f"mean over {len(names)} collections" if len(names) > 1 else names[0]
        return f"{over}, {self.seeds_there}"

    @property
    def seeds_there(self) -> str:
        """`3 seeds`."""
        return f"{self.seeds} seed{'s' * (self.seeds > 1)}"

    @property
    def basis(self) -> str:
        """What all figures rest on: collections, seeds, sizes, commits, and what was left out."""
        sizes = ", ".join(f"{size:,}" for size in self.sizes)
        commits = ", ".join(dict.fromkeys(self.results["commit"].astype(str)))
        return f"{self.over}; pairs: {sizes}; commits: {commits}. {self.left_out}".strip()

    def family(self, name: str) -> pd.DataFrame:
        """The comparisons by `size` or by `dim`."""
        return self.differences[self.differences["family"] == name]

    def curve(self, quantity: str, side: str = "model", length: str = "all") -> pd.DataFrame:
        """A diagnostic at the largest size: `level`, `step`, `mean`, `low`, `high` over seeds.

        `low` and `high` are the seeds' least and most.
        """
        rows = self._rows(quantity, side, length)
        curve = rows.groupby(["level", "step"], sort=True)["value"].agg(["mean", "min", "max"])
        return curve.rename(columns={"min": "low", "max": "high"}).reset_index()

    def last(self, quantity: str, side: str = "model", length: str = "all") -> dict[str, float]:
        """A diagnostic's mean over seeds after the last step, by level."""
        curve = self.curve(quantity, side, length)
        ends = {level: part["mean"].iloc[-1] for level, part in curve.groupby("level")}
        return {level: float(ends[level]) for level in self.levels if level in ends}

    def per_dim(self, quantity: str, side: str = "model") -> dict[str, np.ndarray]:
        """A diagnostic's values per dimension after the last step, by level: (seeds, D) each."""
        rows = self._rows(quantity, side, "all")
        rows = rows[rows["per_dim"].notna()]
        last = rows[rows["step"] == rows.groupby("trial")["step"].transform("max")]
        parts = dict(iter(last.groupby("level")))
        return {v: np.stack(parts[v]["per_dim"].tolist()) for v in self.levels if v in parts}

    def _rows(self, quantity: str, side: str, length: str) -> pd.DataFrame:
        m = self.measured
        here = (m["quantity"] == quantity) & (m["side"] == side) & (m["length"] == length)
        return m[here & (m[SIZE] == self.sizes[-1])]


def read_study(
    folder: str | Path | None = None,
    by: str | None = None,
    reference: str | None = None,
    *,
    where: Mapping[str, str] | None = None,
) -> Study:
    """Read a sweep's folder or an extract, and make its comparisons.

    Trials whose level lacks, at their size, a seed of the reference are left out and named.

    Args:
        folder: by default $SSE_RESULTS, else notebooks/results.
        by: the option compared; by default `model.norm` or, where all have one, what varies.
        reference: its level that others are compared with; by default `none` or the first.
        where: options that must have a value, as text, where a sweep varies more than `by`.

    Raises:
        UserError: no results, or none of the reference.
    """
    root = Path(folder or os.environ.get(VARIABLE) or Path(__file__).parents[2] / DEFAULT)
    if not (root / "results.parquet").is_file():
        raise UserError(
            f"{root}: no sweep's results here: make them with `python experiments/sweep.py "
            f"--config {CONFIG} --out {root}`, or set {VARIABLE} to a sweep's folder"
        )
    results = restrict(read_results(root), where or {}).reset_index(drop=True)
    by = by or subject(results)
    if by not in results:
        raise UserError(f"{root}: no option {by!r} in the results; {varied(results)}")
    pairs = results.get("data.pairs", pd.Series(np.nan, index=results.index))
    # Pairs seen differ a little between seeds, and where data.pairs is unset there is one size.
    results[SIZE] = pd.to_numeric(pairs).fillna(results["pairs"].max()).astype(int)
    results[by] = [label(value) for value in results[by]]
    if reference is None:
        reference = "none" if "none" in set(results[by]) else results[by].iloc[0]
    if reference not in set(results[by]):
        there = ", ".join(dict.fromkeys(results[by]))
        raise UserError(f"{root}: no trial with {by}={reference}; there are {there}")
    results, left_out = _comparable(results, by, reference)
    levels = _order(list(dict.fromkeys(results[by])), reference)
    if f"query_{METRIC}" in results:
        differences = _compare(results, by, reference)
    else:
        differences = read_results(root, "differences")
    measured = _diagnostics(root)
    of_trial = results.drop_duplicates("trial").set_index("trial")
    measured = measured[measured["trial"].isin(of_trial.index)]
    measured = measured.assign(
        level=measured["trial"].map(of_trial[by]),
        size=measured["trial"].map(of_trial[SIZE]),
        seed=measured["trial"].map(of_trial[SEED]),
    )
    return Study(results, measured, differences, by, reference, levels, left_out)


def write_extract(study: Study, folder: str | Path) -> Path:
    """Write what `read_study` needs of `study`, without scores of queries."""
    root = Path(folder)
    results = study.results[[name for name in (*COLUMNS, study.by) if name in study.results]]
    m = study.measured
    kept = m[m["quantity"].isin(QUANTITIES)].drop(columns=["level", SIZE, "seed"])
    largest = m.loc[kept.index, SIZE] == study.sizes[-1]
    last = kept["step"] == kept.groupby("trial")["step"].transform("max")
    kept = kept[largest].assign(per_dim=kept["per_dim"].where(last), value=kept["value"])
    for name, table in (
        ("results", results),
        ("diagnostics", kept.astype({"value": "float32"})),
        ("differences", study.differences),
    ):
        made = pa.Table.from_pandas(table, preserve_index=False)
        with atomic_file(root / f"{name}.parquet") as temporary:
            pq.write_table(
                made.replace_schema_metadata({KEY: VERSION}), temporary, compression="zstd"
            )
    return root


def _diagnostics(root: Path) -> pd.DataFrame:
    """What was measured while the trials trained; no rows where nothing was."""
    if (root / "diagnostics.parquet").is_file():
        return read_results(root, "diagnostics")
    names = ("trial", "step", "side", "length", "quantity", "value", "per_dim")
    return pd.DataFrame(columns=list(names))


def _compare(results: pd.DataFrame, by: str, reference: str) -> pd.DataFrame:
    """Two families of comparisons, each corrected on its own."""
    largest = results[results[SIZE] == results[SIZE].max()]
    families = {
        "size": compare(
            results, by, reference, METRIC, within=[SIZE], dims=[int(results["dim"].max())]
        ),
        "dim": compare(largest, by, reference, METRIC),
    }
    tables = [table.assign(family=name) for name, table in families.items()]
    return pd.concat(tables, ignore_index=True)


def _comparable(results: pd.DataFrame, by: str, reference: str) -> tuple[pd.DataFrame, str]:
    """The rows whose level has all of the reference's seeds at their size; the others, named."""
    seeds = results.groupby([by, SIZE])[SEED].agg(set).to_dict()
    kept, dropped = [], []
    for (level, size), there in seeds.items():
        wanted = seeds.get((reference, size))
        if wanted is not None and wanted <= there:
            here = (results[by] == level) & (results[SIZE] == size)
            kept.append(results[here & results[SEED].isin(wanted)])
        else:
            dropped.append(describe({by: level, SIZE: plain(size)}))
    left_out = f"Left out, as the seeds of {reference} are not all there: {'; '.join(dropped)}"
    return pd.concat(kept, ignore_index=True), left_out if dropped else ""


def _order(levels: list[str], reference: str) -> list[str]:
    """The reference, then the registry's order for norms, else as met."""
    known = {name: i for i, name in enumerate(NORM_FORMS)}
    return sorted(levels, key=lambda v: (v != reference, known.get(v, len(known))))


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(prog="python -m sse.analysis.study", description="Extract a sweep's tables.")
    add = parser.add_argument
    add("out", help="the sweep's folder")
    add("folder", help="where to write the extract")
    add("--by", default="model.norm", help="the option compared")
    add("--reference", default="none", help="its level to compare with")
    add("--where", action="append", default=[], metavar="OPTION=VALUE", help="only such trials")
    args = parser.parse_args(arguments)
    study = read_study(args.out, args.by, args.reference, where=dict(map(pair, args.where)))
    root = write_extract(study, args.folder)
    size = sum(file.stat().st_size for file in root.glob("*.parquet"))
    print(f"{root}: {size / 2**20:.1f} MiB. {study.left_out}".strip())  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(run())
