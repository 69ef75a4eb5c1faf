"""A searchable collection in one file: texts, their vectors and where they came from.

- The file (`index_file.py`) is memory-mapped, so it opens at once and processes share its pages.
- `exact`: inner products with all vectors, float32.
- `binary`: the signs of the vectors find candidates by Hamming distance, and float16 vectors
  rescore them. Signs take 32 times fewer bytes than float32.
- faiss finds the best rows of each chunk of the file, and its heap merges them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, import_extra
from sse.common.files import atomic_file
from sse.model.norm_forms import normalise
from sse.serving.encoder import Encoder
from sse.serving.index_file import index_writer, open_chunks
from sse.text.records import Record

INDEX_KINDS = ("exact", "binary")
CHUNK = 65_536  # rows searched at a time
CHUNK_CHARACTERS = 250_000_000  # per chunk: Arrow counts its bytes in 31 bits
OVERSAMPLING = 10  # candidates per result of a binary index
PROBE = "The quick brown fox jumps over the lazy dog, 1234567890 times."


@dataclass(frozen=True)
class Hit:
    """One result: its rank from 1, its cosine, the text and the place that it came from."""

    rank: int
    score: float
    text: str
    where: str


@contextlib.contextmanager
def threads_for(faiss: Any, queries: int) -> Iterator[None]:
    """Let faiss use at most one thread per query meanwhile.

    faiss divides the queries among its threads, so more threads only wait for each other.
    """
    most = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(most, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(most)


def build_index(
    rows: Iterable[Record],
    model: Encoder,
    target: str | os.PathLike[str],
    kind: str = "exact",
    progress: Callable[[int], object] = lambda n: None,
    batch_size: int = 1024,
) -> int:
    """Encode `rows` and write them to `target`, whole or not at all.

    Args:
        rows: the texts; read once, a chunk in memory at a time.
        model: the encoder of the texts, and later of the queries.
        target: the file.
        kind: exact or binary.
        progress: called with the number of texts encoded since the last call.
        batch_size: texts a thread encodes at a time.

    Returns:
        The number of texts.

    Raises:
        UserError: an unknown kind, or no texts.
    """
    if kind not in INDEX_KINDS:
        raise UserError(f"index kind '{kind}': choose one of {', '.join(INDEX_KINDS)}")
    rows, ahead = tee(rows)  # the encoder reads some texts ahead
    about = {"model": str(model.folder.resolve()), "probe": model.encode(PROBE)[:32].tolist()}
    with atomic_file(target) as path, index_writer(path, kind, model.dim, about) as file:
        chunk: list[Record] = []
        parts: list[NDArray[np.float32]] = []
        size = 0
        for vectors in model.stream((row.text for row in ahead), batch_size=batch_size):
            new = list(islice(rows, len(vectors)))
            chunk, size = chunk + new, size + sum(len(row.text) for row in new)
            parts.append(vectors)
            if len(chunk) >= CHUNK or size >= CHUNK_CHARACTERS:
                file.write(chunk, np.concatenate(parts))
                chunk, parts, size = [], [], 0
            progress(len(vectors))
        if chunk:
            file.write(chunk, np.concatenate(parts))
        if not file.rows:
            raise UserError("no texts to index")
    return file.rows


class Index:
    """A file of `build_index`, opened.

    Args:
        path: the file.
        model: folder of its model; by default the folder that the index was made with.
        fast: see `sse.Encoder`.

    Raises:
        UserError: no index there, a damaged one, or another model than the one it was made with.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str | os.PathLike[str] | None = None,
        fast: bool = True,
    ) -> None:
        self._faiss = import_extra("faiss")
        if not Path(path).is_file():
            raise UserError(f"{path}: no such index: make one with 'sse index'")
        about, self._chunks = open_chunks(Path(path))
        self.kind, self.dim, folder = about["kind"], about["dim"], model or str(about.get("model"))
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])
        if model is None and not Path(folder).is_dir():
            way_out = "give its new folder as `model`"
            raise UserError(f"{path} was made with {folder}, which is gone: {way_out}")
        self.model = Encoder(folder, fast=fast)
        fits = self.dim <= self.model.full_dim
        if not fits or not _agree(self.model.encode(PROBE, self.dim)[:32], about.get("probe")):
            raise UserError(f"{path} was made with another model than {folder}: index again")
        self.model.dim = self.dim

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(
        self, queries: list[str], k: int = 10, oversampling: int = OVERSAMPLING
    ) -> list[list[Hit]]:
        """The `k` best texts of each query by cosine, best first.

        Args:
            queries: the texts to search for.
            k: results per query.
            oversampling: candidates per result that a binary index rescores.
        """
        prompt = "query" if "query" in self.model.prompts else None
        vectors = self.model.encode(queries, prompt_name=prompt)
        scores, rows = self.search_vectors(vectors, k, oversampling)
        return [
            [Hit(i + 1, float(s[i]), *self._text(int(r[i]))) for i in range(len(r))]
            for s, r in zip(scores, rows, strict=True)
        ]

    def search_vectors(
        self, queries: NDArray[np.float32], k: int = 10, oversampling: int = OVERSAMPLING
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and row numbers, both (q, min(k, n)), for query vectors (q, dim) of length 1."""
        if k < 1 or oversampling < 1:
            raise UserError(f"k {k}, oversampling {oversampling}: give at least 1")
        k = min(k, len(self))
        if self.kind == "exact":
            metric = self._faiss.METRIC_INNER_PRODUCT
            return self._top(
                k, True, len(queries),
                lambda chunk, n: self._faiss.knn(queries, chunk.scanned(), n, metric=metric),
            )  # fmt: skip
        codes = np.packbits(queries > 0, axis=1)
        _, rows = self._top(
            min(k * oversampling, len(self)), False, len(queries),
            lambda chunk, n: self._faiss.knn_hamming(codes, chunk.scanned(), n),
        )  # fmt: skip
        scores = np.stack([self._gather(r) @ q for r, q in zip(rows, queries, strict=True)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def _top(
        self, k: int, largest: bool, queries: int, knn: Callable[[Any, int], tuple[Any, Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and row numbers of the best `k` rows over all chunks, by `knn(chunk, k)`."""
        heap = self._faiss.ResultHeap(queries, k, keep_max=largest)
        for start, chunk in zip(self._starts.tolist(), self._chunks, strict=False):
            with threads_for(self._faiss, queries):
                scores, rows = knn(chunk, min(k, len(chunk)))
            heap.add_result(
                np.ascontiguousarray(scores, np.float32), np.asarray(rows, np.int64) + start
            )
        heap.finalize()
        return heap.D, heap.I

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of `rows`, float32, of length 1 again."""
        out = np.empty((len(rows), self.dim), np.float32)
        numbers = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(numbers):
            within = numbers == number
            out[within] = self._chunks[number].vectors(rows[within] - self._starts[number])
        normalise(out)
        return out

    def _text(self, row: int) -> tuple[str, str]:
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._chunks[number].text(row - int(self._starts[number]))


def _agree(ours: NDArray[np.float32], theirs: Any) -> bool:
    """Whether the probe's vector is the one that the index recorded."""
    try:
        return bool(np.allclose(ours, np.array(theirs, np.float32), atol=1e-3))
    except (TypeError, ValueError):
        return False
