"""Search an index by meaning, by words, or by both.

- By meaning: the inner products of the query's vector with those of all passages (`dense.py`).
- By words: BM25, by Lance's inverted index.
- Both, the default: their scores scaled per query and added, then once more with a query that is
  moved towards the best passages (`sse.common.fusion`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, first_line, one_of
from sse.common.fusion import WEIGHT, Hits, fuse, moved
from sse.search.dense import Vectors
from sse.search.hits import PLACES, Hit, Ranked, hits_of
from sse.search.models import open_model
from sse.search.snippets import stems as stems_of
from sse.search.store import BASE, WORDS, Store, damaged, reading, settings_of

EXACT = 2.0  # weight of exact forms beside stems, divided by the number of words in the query
DEPTH = 200  # passages taken from each search, or five for each hit that is asked for
MODES = ("hybrid", "dense", "keyword")
_NONE: Hits = (np.zeros(0, np.int64), np.zeros(0, np.float32))


class Index:
    """An index of `sse index`, opened. Threads may share it.

    Args:
        name: the index: a folder, or a URL of an object store.
        model: folder of its model; by default the copy in the index.
        fast: see `sse.Encoder`.
        verify: compare the files with their digests.

    Raises:
        UserError: no index there, a damaged one, or another model than the one it was made with.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        model: str | os.PathLike[str] | None = None,
        fast: bool = True,
        verify: bool = True,
    ) -> None:
        self._model, self._fast, self._verify = model, fast, verify
        self._store = Store(name)
        self.name = self._store.name
        self._table = self._store.current()
        settings = settings_of(self._table, self.name)
        if verify:
            self._store.verify(self._table)
        self.dim = settings.dim
        self.model = open_model(self._store, settings, model, fast)
        self.columns = [c for c in self._table.schema.names if c not in BASE]
        self._unknown = _unknown_token(self.model.tokenizer.tokenizer)
        self._lock = Lock()
        self._vectors: Vectors | None = None
        with reading(self.name):
            # Read once: picking rows of the table takes milliseconds, as long as the search itself.
            self._places = self._table.to_table(columns=["_rowid", *PLACES]).combine_chunks()
        self._ids = self._places["_rowid"].to_numpy()

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._ids)

    def search(
        self,
        queries: str | Iterable[str],
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        least: float | None = None,
        grouped: bool = True,
    ) -> list[list[Hit]]:
        """The best hits of each query, best first.

        Args:
            queries: one text or several.
            k: hits per query.
            mode: hybrid, dense or keyword.
            where: a condition in SQL on the columns path, title, heading, text and on those that
                were kept: `path LIKE 'git/%' AND year > 2020`.
            least: the least cosine of a hit, with mode keyword the least BM25 score.
            grouped: one hit per document, its best passage, with the places of further ones.

        Returns:
            A list per query. It is empty for an empty query, and where nothing is found.

        Raises:
            UserError: a k below 1, an unknown mode, a condition that is none, a damaged index.
        """
        if k < 1:
            raise UserError(f"k {k}: give at least 1")
        if mode not in MODES:
            raise UserError(f"mode '{mode}': {one_of(mode, MODES)}")
        queries = [queries] if isinstance(queries, str) else list(queries)
        with reading(self.name):
            rows = None if where is None else self._rows_where(where)
            return [self._search(q, k, mode, where, rows, least, grouped) for q in queries]

    def warm(self) -> None:
        """Do now what would hold up a search: read vectors and words, prove the fast tokenizer."""
        _ = self.model.tokenizer.engine
        with reading(self.name):
            self._loaded()
            for name in WORDS.values():
                self._table.prewarm_index(name)

    def latest(self) -> Index:
        """The newest version of the index, opened and warm; this object if it is the newest.

        Raises:
            UserError: the index is gone.
        """
        if self._store.version() == self._table.version:
            return self
        newer = Index(self.name, self._model, self._fast, self._verify)
        newer.warm()
        return newer

    def _search(
        self,
        query: str,
        k: int,
        mode: str,
        where: str | None,
        rows: NDArray[np.int64] | None,
        least: float | None,
        grouped: bool,
    ) -> list[Hit]:
        depth = max(DEPTH, 5 * k)
        vector = None if mode == "keyword" else self._query_vector(query)
        dense = _NONE if vector is None else self._dense(vector, depth, rows)
        keyword = _NONE if mode == "dense" else self._keyword(query, depth, where)
        if mode == "hybrid":
            again = None if vector is None else partial(self._again, vector)
            found, scores = fuse(dense, keyword, WEIGHT, again)
        else:
            found, scores = _sorted(dense, keyword)
        cosines = None if vector is None else self._loaded().all[found] @ vector
        if least is not None:
            good = (scores if cosines is None else cosines) >= least
            found, scores = found[good], scores[good]
            cosines = None if cosines is None else cosines[good]
        ranked = Ranked(found, scores, cosines)
        return hits_of(self._table, self._places, ranked, k, grouped, self.columns)

    def _query_vector(self, query: str) -> NDArray[np.float32] | None:
        """The query's vector (dim,); None where the model knows no token of it."""
        ids = self.model.tokenizer.encode([query]).ids
        if not (ids != self._unknown).any():
            return None
        prompt = "query" if "query" in self.model.prompts else None
        return self.model.encode(query, prompt_name=prompt)

    def _dense(
        self, vector: NDArray[np.float32], depth: int, rows: NDArray[np.int64] | None
    ) -> Hits:
        found, scores = self._loaded().nearest(vector, depth, rows)
        if not np.isfinite(scores).all():
            raise damaged(self.name, "vectors that are no numbers")
        return found, scores

    def _again(
        self, vector: NDArray[np.float32], rows: NDArray[np.int64], best: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The similarity of passages to a query that was moved towards the best of them."""
        vectors = self._loaded().all
        return vectors[rows] @ moved(vector, vectors, best)

    def _keyword(self, query: str, depth: int, where: str | None) -> Hits:
        """The passages with words of the query, by BM25 of their stems and of their exact forms.

        Stems find "bake" for "baking"; forms put the passage with "baking" before it.
        """
        if not query.strip():
            return _NONE
        stems, forms = (self._bm25(query, column, depth, where) for column in WORDS)
        found, place = np.unique(np.concatenate([stems[0], forms[0]]), return_inverse=True)
        of_stems, of_forms = np.split(place, [len(stems[0])])
        scores = np.zeros(len(found), np.float32)
        scores[of_stems] += stems[1]
        # Short queries name words; in a question their exact forms count for less than the topic.
        scores[of_forms] += EXACT / max(len(stems_of(query)), 1) * forms[1]
        best = np.argsort(-scores, kind="stable")[:depth]
        return found[best], scores[best]

    def _bm25(self, query: str, column: str, depth: int, where: str | None) -> Hits:
        """The best passages by the words in one column."""
        found = self._table.scanner(
            columns=["_rowid", "_score"], full_text_query={"query": query, "columns": [column]},
            limit=depth, filter=where, prefilter=where is not None,
        ).to_table()  # fmt: skip
        return self._numbers(found["_rowid"].to_numpy()), found["_score"].to_numpy()

    def _rows_where(self, where: str) -> NDArray[np.int64]:
        """The numbers of the passages that meet a condition."""
        try:
            found = self._table.scanner(columns=["_rowid"], filter=where).to_table()
        except (OSError, ValueError, RuntimeError) as error:
            reason = first_line(error).split(", /")[0]  # the rest is a line of Lance's source
            names = ", ".join(("path", "title", "heading", "text", *self.columns))
            raise UserError(f"`where` {where!r}: {reason}; columns are {names}") from None
        return np.sort(self._numbers(found["_rowid"].to_numpy()))

    def _numbers(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Lance's identities of rows as numbers in the order of the table."""
        return np.searchsorted(self._ids, ids)

    def _loaded(self) -> Vectors:
        """The vectors, read at the first use."""
        with self._lock:
            if self._vectors is None:
                column = self._table.to_table(columns=["vector"])["vector"].combine_chunks()
                flat = column.flatten().to_numpy()
                if len(flat) != len(self) * self.dim:
                    raise damaged(self.name, "vectors are missing")
                self._vectors = Vectors(flat.reshape(len(self), self.dim))
            return self._vectors


def _sorted(dense: Hits, keyword: Hits) -> Hits:
    """The hits of the only search that ran, best first."""
    found, scores = dense if len(dense[0]) else keyword
    order = np.lexsort((found, -scores))
    return found[order], scores[order]


def _unknown_token(tokenizer: Any) -> int:
    """The id that stands for unknown tokens; -1 if there is none."""
    name = getattr(tokenizer.model, "unk_token", None)
    id = tokenizer.token_to_id(name) if name else None
    return -1 if id is None else int(id)
