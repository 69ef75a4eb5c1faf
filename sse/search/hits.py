"""Hits: passages out of the table, grouped by document, with the place to open them at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sse.documents.document import SEPARATOR

PLACES = ("source", "path", "title", "heading", "position", "unit")  # columns held in memory
AHEAD = 5  # passages looked at per hit, before all are
MORE = 3  # further places of a document that are told


class Ranked(NamedTuple):
    """Passages in the order of their scores: numbers, scores, cosines, all of shape (n,)."""

    rows: NDArray[np.int64]
    scores: NDArray[Any]
    cosines: NDArray[np.float32] | None  # None where no vector was compared


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        rank: from 1.
        score: 0 to 1 in mode hybrid; the cosine in mode dense; BM25 in mode keyword.
        text: the passage, without title and headings.
        where: the place: `path:line`, as an editor opens it.
        path: the document, below the folder that was indexed, as conditions have it.
        file: the document's whole path.
        title: the document's title.
        heading: the path of headings above the passage.
        cosine: of query and passage; None in mode keyword and for a query of unknown words.
        columns: the user's own columns.
        more: the places of further passages of the document, best first.
    """

    rank: int
    score: float
    text: str
    where: str
    path: str
    file: str
    title: str
    heading: str
    cosine: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()


def hits_of(
    table: Any, places: pa.Table, ranked: Ranked, k: int, grouped: bool, columns: Sequence[str]
) -> list[Hit]:
    """The first `k` passages, or with `grouped` the first passage of `k` documents.

    Args:
        table: the index's table; the texts and `columns` of the hits alone are read.
        places: its columns `PLACES`.
        ranked: the passages, best first.
        k: hits at most.
        grouped: one hit per document.
        columns: the user's own columns.
    """
    best = list(range(min(k, len(ranked.rows))))
    more: dict[int, list[str]] = {}
    if grouped:
        best, more = _first_of_documents(places, ranked.rows[: AHEAD * k], k)
        if len(best) < k:
            best, more = _first_of_documents(places, ranked.rows, k)
    if not best:
        return []
    rows = ranked.rows[best]
    texts = table.take(rows.tolist(), columns=["text", *columns]).to_pylist()
    return [
        _hit(rank, place | text, ranked, at, more.get(at, ()), columns)
        for rank, (at, place, text) in enumerate(
            zip(best, places.take(rows).to_pylist(), texts, strict=True)
        )
    ]


def _hit(
    rank: int, row: dict[str, Any], ranked: Ranked, at: int, more: Sequence[str],
    columns: Sequence[str],
) -> Hit:  # fmt: skip
    above = SEPARATOR.join(filter(None, (row["title"], row["heading"])))
    return Hit(
        rank + 1,
        float(ranked.scores[at]),
        row["text"].removeprefix(f"{above}\n") if above else row["text"],
        _where(row),
        row["path"],
        os.path.join(row["source"], row["path"]),
        row["title"],
        row["heading"],
        None if ranked.cosines is None else float(ranked.cosines[at]),
        {name: row[name] for name in columns},
        tuple(more),
    )


def _first_of_documents(
    places: pa.Table, rows: NDArray[np.int64], k: int
) -> tuple[list[int], dict[int, list[str]]]:
    """The places in `rows` of the first passage of each of `k` documents, and of further ones."""
    first: dict[Any, int] = {}
    more: dict[int, list[str]] = {}
    for at, row in enumerate(places.take(rows).to_pylist()):
        by_row = row["unit"] == "row"  # each row of a table is a document
        key = (row["source"], row["path"], row["position"] if by_row else None)
        if key in first:
            others = more.setdefault(first[key], [])
            if len(others) < MORE:
                others.append(_where(row))
        elif len(first) < k:
            first[key] = at
    return list(first.values()), more


def _where(row: dict[str, Any]) -> str:
    """Path and position as an editor takes them; the path as short as the terminal's folder has it.

    Where the files are elsewhere, as on another machine, the path is that below the folder.
    """
    path, whole = row["path"], os.path.join(row["source"], row["path"])
    if os.path.exists(whole):
        near = os.path.relpath(whole)
        path = whole if near.startswith(os.pardir) else near
    if row["unit"] in ("line", "row"):
        return f"{path}{'#' if path.endswith('.parquet') else ':'}{row['position']}"
    return f"{path} ({row['unit']} {row['position']})"
