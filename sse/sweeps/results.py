"""The tables of a sweep: what its trials scored, and how their training looked.

OUT/results.parquet      one row per trial, collection and dimension:
    trial                       the name of its folder
    model.norm, data.pairs, ... every option of the trainer; lists as JSON
    collection, dim             what was searched, with how many dimensions
    ndcg@10, mrr@10, ...        `sse.evaluation.metrics.METRICS`, means over the queries
    query_ndcg@10               nDCG@10 of each query, in one order in all trials
    queries                     a digest of the queries' ids: only equal ones can be paired
    order                       a digest of the first epoch's batches: equal data, equal order
    pairs, steps, pairs_per_second, seconds_data, seconds_train, seconds_evaluate, seconds_total
    version.*, commit
OUT/diagnostics.parquet  the trials' `diagnostics.parquet`, with the trial's name first
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sse.common.errors import UserError, first_line
from sse.common.files import atomic_file
from sse.evaluation.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

SCORES, DONE = "metrics.json", "trial.json"  # of a run, and what the sweep adds
VERSION = b"1"
KEY = b"sse_results"
PER_QUERY = "ndcg@10"
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
              pa.ArrowException, yaml.YAMLError)  # fmt: skip
HELD_OUT = "held-out pairs"  # of the training data, so easier than a collection of their own


def collect(out: str | Path) -> Path:
    """Gather the finished trials' records into OUT's tables; the path of `results.parquet`.

    Raises:
        UserError: no finished trial, or a damaged one.
    """
    root = Path(out)
    rows: list[dict[str, Any]] = []
    diagnostics: list[pa.Table] = []
    for record in sorted(root.glob(f"trials/*/{DONE}")):
        try:
            facts = read_facts(record.parent)
            rows += _rows(record.parent, facts)
            file = record.parent / "diagnostics.parquet"
            if file.exists():
                table = pq.read_table(file)
                names = pa.array([facts["trial"]] * len(table))
                diagnostics.append(table.add_column(0, "trial", names))
        except UNREADABLE as error:
            raise UserError(
                f"{record.parent} is no whole trial ({first_line(error)}): remove it and run the "
                "sweep again"
            ) from error
    if not rows:
        raise UserError(f"{root}: no finished trial; run experiments/sweep.py --out {root}")
    _write(_table(rows), root / "results.parquet")
    if diagnostics:
        joined = pa.concat_tables(diagnostics, promote_options="default")
        _write(joined, root / "diagnostics.parquet")
    return root / "results.parquet"


def read_facts(folder: Path) -> dict[str, Any]:
    """What a finished trial's metrics.json and trial.json hold together."""
    facts: dict[str, Any] = {}
    for path in (folder / SCORES, folder / DONE):
        # The trial.json of earlier sweeps holds the scores too, so they may lack the other.
        if path == folder / DONE or path.exists():
            facts |= json.loads(path.read_text("utf-8"))
    return facts


def read_results(out: str | Path, name: str = "results") -> pd.DataFrame:
    """One of the tables as a data frame.

    Args:
        out: the sweep's folder.
        name: `results` or `diagnostics`; of an extract also `differences`.

    Raises:
        UserError: no such table, one of another version, or a file that is not parquet.
    """
    path = Path(out) / f"{name}.parquet"
    mend = f"python experiments/sweep.py --collect --out {out}"
    if not path.is_file():
        raise UserError(f"{path}: no such table: make it with `{mend}` after a sweep")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: not a whole parquet file ({reason}): `{mend}`") from error
    version = (table.schema.metadata or {}).get(KEY)
    if version != VERSION:
        has = f"version {version.decode()}" if version else "no version"
        raise UserError(
            f"{path} has {has}, this package reads version {VERSION.decode()}: `{mend}`"
        )
    return table.to_pandas()


def expected(out: str | Path) -> list[str]:
    """Names of the trials that the sweep of this folder has, finished or not."""
    path = Path(out) / "sweep.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the folder of a sweep")
    return [trial["trial"] for trial in json.loads(path.read_text("utf-8"))["trials"]]


def _rows(folder: Path, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    keys = {"trial": facts["trial"], **dict(_flat(config))}
    rest = {name: facts[name] for name in ("order", "pairs", "steps", "pairs_per_second")}
    rest |= {f"seconds_{name}": value for name, value in facts["times"].items()}
    rest |= {f"version.{name}": value for name, value in facts["versions"].items()}
    rest["commit"] = facts["commit"]
    scores, digests = _per_query(folder / "report" / "per_query.parquet")
    for collection, by_dim in facts["metrics"].get("trained", {}).items():
        for dim, values in by_dim.items():
            where = collection, int(dim)
            yield (
                keys
                | {"collection": collection, "dim": int(dim)}
                | {metric: values[metric] for metric in METRICS}
                | {f"query_{PER_QUERY}": scores[where], "queries": digests[where]}
                | rest
            )


def _per_query(path: Path) -> tuple[dict[tuple[str, int], Any], dict[tuple[str, int], str]]:
    """The queries' scores of the trained model, and their ids' digest, by collection and dim."""
    columns = ["collection", "dim", "query_id", PER_QUERY]
    table = pq.read_table(path, columns=columns, filters=[("system", "=", "trained")])
    scores, digests = {}, {}
    frame = table.to_pandas()
    for where, part in frame.groupby(["collection", "dim"], sort=False):
        scores[where] = part[PER_QUERY].to_numpy("float32")
        digests[where] = hashlib.sha256("\n".join(part.query_id).encode()).hexdigest()[:16]
    return scores, digests


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name == f"query_{PER_QUERY}":
            columns[name] = pa.array(values, pa.list_(pa.float32()))
            continue
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            values = [None if value is None else str(value) for value in values]
        elif kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        columns[name] = pa.array(values)
    return pa.table(columns)


def _write(table: pa.Table, path: Path) -> None:
    kept = table.replace_schema_metadata({KEY: VERSION})
    with atomic_file(path) as temporary:
        pq.write_table(kept, temporary, compression="zstd")
