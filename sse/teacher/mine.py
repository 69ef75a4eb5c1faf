"""Hard negatives: documents that look like an anchor's answer and are none.

For each anchor, the best documents by BM25, by a model's cosine, or by both in turn. Of these go

- every positive of the same anchor, and every text equal to the anchor or to such a positive;
- the first `skip`, and those from rank `depth` on;
- those that score above `margin` times the score of the pair's own positive;
- with a teacher, those above `margin` times the teacher's cosine of the pair.

The documents are the set's positives. Case and white space make no text another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.evaluation.bm25 import BM25

BLOCK = 256  # anchors scored at once, and fewer where they would give more than ...
SCORES = 20_000_000  # ... scores in memory (80 MB)

Floats = NDArray[np.float32]


Scorer = Callable[[NDArray[np.int64]], Floats]  # anchors (b,) -> scores (b, N) of the documents


@dataclass(frozen=True)
class Filters:
    """Which candidates may be negatives.

    Attributes:
        skip: leave out so many of the best.
        depth: look at so many of the best.
        margin: a negative scores at most this share of its positive's score.
    """

    skip: int = 0
    depth: int = 50
    margin: float = 0.95


@dataclass(frozen=True)
class Mined:
    """Negatives of some pairs.

    Attributes:
        documents: (P, K) rows of `Texts.documents`.
        random: how many of them were drawn at random, as too few passed the filters.
        scores: (P, 1 + K) the teacher's cosines of the positive and the negatives.
    """

    documents: NDArray[np.int64]
    random: int
    scores: Floats | None = None


class Texts:
    """The anchors and documents of a set, each text once.

    Attributes:
        anchors, documents: the distinct texts.
        anchor_of, document_of: (P,) row of each pair's anchor and positive.
        forbidden: for each anchor, the rows of documents that are no negatives of it.
    """

    def __init__(self, anchors: Sequence[str], positives: Sequence[str]) -> None:
        self.anchors, self.anchor_of, of_anchor = _distinct(anchors)
        self.documents, self.document_of, of_document = _distinct(positives)
        if len(self.documents) < 2:
            raise UserError("all positives are one text: there is no negative to mine")
        forbidden: list[set[int]] = [set() for _ in self.anchors]
        for anchor, document in zip(self.anchor_of, self.document_of, strict=True):
            forbidden[anchor].add(int(document))
        for key, anchor in of_anchor.items():
            if key in of_document:
                forbidden[anchor].add(of_document[key])
        self.forbidden = [np.array(sorted(rows)) for rows in forbidden]


def mine(
    texts: Texts,
    scorers: Sequence[Scorer],
    count: int,
    filters: Filters,
    *,
    teacher: tuple[Floats, Floats] | None = None,
    seed: int = 0,
    step: Callable[[int], object] = lambda pairs: None,
) -> Mined:
    """`count` negatives of each pair, the best first.

    Where too few documents pass, documents that are no positives of the anchor are drawn at
    random, so that every pair has its negatives.

    Args:
        texts: the set.
        scorers: what to mine by; several take turns.
        count: K.
        filters: what may be a negative.
        teacher: unit vectors of `texts.anchors` and of `texts.documents`.
        seed: of the random documents.
        step: takes the number of pairs that were mined.

    Raises:
        UserError: an anchor whose positives leave fewer than K documents.
    """
    draw = np.random.default_rng(seed)
    documents = np.zeros((len(texts.anchor_of), count), np.int64)
    drawn = 0
    block = max(1, min(BLOCK, SCORES // len(texts.documents)))
    for start in range(0, len(documents), block):
        rows = np.arange(start, min(start + block, len(documents)))
        anchors, own = texts.anchor_of[rows], texts.document_of[rows]
        lists = [list(_passing(score(anchors), own, filters)) for score in scorers]
        for i, row in enumerate(rows):
            ranked = np.array(list(_in_turn([each[i] for each in lists])), np.int64)
            ranked = ranked[~np.isin(ranked, texts.forbidden[anchors[i]])]
            if teacher is not None:
                queries, vectors = teacher
                query, limit = queries[anchors[i]], filters.margin
                ranked = ranked[vectors[ranked] @ query <= limit * (vectors[own[i]] @ query)]
            ranked = ranked[:count]
            rest = _random(len(texts.documents), texts.forbidden[anchors[i]], ranked, count, draw)
            documents[row] = np.concatenate([ranked, rest])
            drawn += len(rest)
        step(len(rows))
    scores = None if teacher is None else _teacher_scores(texts, documents, *teacher)
    return Mined(documents, drawn, scores)


def bm25_scorer(texts: Texts) -> Scorer:
    """Scores by BM25."""
    index = BM25(texts.documents)
    return lambda rows: index.scores([texts.anchors[row] for row in rows])


def cosine_scorer(anchors: Floats, documents: Floats) -> Scorer:
    """Cosines, of unit vectors."""
    return lambda rows: anchors[rows] @ documents.T


def _passing(
    scores: Floats, own: NDArray[np.int64], filters: Filters
) -> Iterator[NDArray[np.int64]]:
    """Of each row, the documents that pass rank and margin, the best first."""
    depth = min(filters.skip + filters.depth, scores.shape[1])
    best = np.argpartition(scores, -depth, axis=1)[:, -depth:]
    for row, columns, positive in zip(scores, best, own, strict=True):
        order = np.lexsort((columns, -row[columns]))  # equal scores by number: repeatable
        ranked = columns[order][filters.skip :]
        limit = filters.margin * row[positive]
        yield ranked[(row[ranked] <= limit) & (row[ranked] > 0)]


def _in_turn(lists: Sequence[NDArray[np.int64]]) -> Iterator[int]:
    """The first of each list, then the second of each, every document once."""
    seen: set[int] = set()
    for place in range(max(map(len, lists), default=0)):
        for ranked in lists:
            if place < len(ranked) and (document := int(ranked[place])) not in seen:
                seen.add(document)
                yield document


def _random(
    total: int,
    forbidden: NDArray[np.int64],
    taken: NDArray[np.int64],
    count: int,
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    """Further documents for `taken` to have `count`."""
    out = {*forbidden.tolist(), *taken.tolist()}
    if total - len(out) < count - len(taken):
        raise UserError(
            f"an anchor has {len(forbidden)} positives of {total} documents, which leaves fewer "
            f"than {count} negatives: ask for less"
        )
    found: list[int] = []
    while len(found) < count - len(taken):
        document = int(draw.integers(total))
        if document not in out:
            out.add(document)
            found.append(document)
    return np.array(found, np.int64)


def _teacher_scores(
    texts: Texts, documents: NDArray[np.int64], queries: Floats, vectors: Floats
) -> Floats:
    scores = np.empty((len(documents), 1 + documents.shape[1]), np.float32)
    for start in range(0, len(documents), BLOCK):
        rows = slice(start, start + BLOCK)
        columns = np.column_stack([texts.document_of[rows], documents[rows]])
        scores[rows] = np.einsum("pkd,pd->pk", vectors[columns], queries[texts.anchor_of[rows]])
    return scores


def _distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64], dict[str, int]]:
    """The first of equal texts each, the row of every text among them, and {key: row}."""
    rows: dict[str, int] = {}
    first: list[str] = []
    numbers = np.empty(len(texts), np.int64)
    for i, text in enumerate(texts):
        key = " ".join(text.split()).casefold()
        if key not in rows:
            rows[key] = len(first)
            first.append(text)
        numbers[i] = rows[key]
    return first, numbers, rows
