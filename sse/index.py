"""A searchable collection in one file: texts, vectors and where they came from. faiss searches it.

- The file is Arrow IPC, memory-mapped: opening costs nothing, processes share its pages.
- `exact`: float32 vectors, inner products of all of them.
- `binary`: the vectors' signs (32 times fewer bytes) find candidates by Hamming distance, float16
  vectors rescore them.
- The top k are faiss's work, chunk by chunk of the file, merged by its heap.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.encoder import Encoder
from sse.errors import UserError
from sse.files import atomic_file
from sse.numpy_norms import normalise
from sse.texts import Row

KINDS = ("exact", "binary")
FORMAT = 1
CHUNK = 65_536  # rows of the file that are searched at a time
OVERSAMPLING = 10  # candidates a result, for binary
PROBE = "The quick brown fox jumps over the lazy dog, 1234567890 times."
INSTALL = "pip install 'stable-static-embedding[search]'"


@dataclass(frozen=True)
class Hit:
    """One result: its rank from 1, its cosine, the text and where it came from."""

    rank: int
    score: float
    text: str
    where: str


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(f"searching needs faiss: {INSTALL}") from None
    return faiss


@contextlib.contextmanager
def threads_for(faiss: Any, queries: int) -> Iterator[None]:
    """No more of faiss's threads than queries, for this thread and this while.

    It shares out queries, so further threads only wait for each other: on a busy machine one query
    took 30 ms with two threads and 4 ms with one.
    """
    most = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(most, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(most)


def build_index(
    rows: Iterable[Row],
    model: Encoder,
    target: str | os.PathLike[str],
    kind: str = "exact",
    told: Callable[[int], object] = lambda n: None,
    batch_size: int = 1024,
) -> int:
    """Encode `rows` and write them to `target`, whole or not at all.

    Args:
        rows: the texts; read once, never held together.
        model: what encodes them, and later the queries.
        target: the file.
        kind: exact or binary.
        told: called with the number of texts done since the last call.
        batch_size: texts a thread takes at a time.

    Returns:
        How many were written.

    Raises:
        UserError: an unknown kind, or no texts.
    """
    import pyarrow as pa

    if kind not in KINDS:
        raise UserError(f"index kind '{kind}': choose one of {', '.join(KINDS)}")
    waiting: deque[Row] = deque()

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield row.text

    count, held = 0, 0
    parts: list[Any] = []
    schema = _schema(kind, model)
    with atomic_file(target) as path, pa.ipc.new_file(str(path), schema) as file:
        for vectors in model.stream(texts(), batch_size=batch_size):
            taken = [waiting.popleft() for _ in range(len(vectors))]
            parts.append(_batch(taken, vectors, schema, kind))
            count, held = count + len(taken), held + len(taken)
            if held >= CHUNK:
                file.write_table(pa.Table.from_batches(parts).combine_chunks(), held)
                parts, held = [], 0
            told(len(vectors))
        if not count:
            raise UserError("no texts to index")
        if parts:
            file.write_table(pa.Table.from_batches(parts).combine_chunks(), held)
    return count


def _schema(kind: str, model: Encoder) -> Any:
    import pyarrow as pa

    fields = [pa.field("where", pa.string()), pa.field("text", pa.string())]
    element = pa.float32() if kind == "exact" else pa.float16()
    fields.append(pa.field("vector", pa.list_(element, model.dim)))
    if kind == "binary":
        fields.append(pa.field("code", pa.binary((model.dim + 7) // 8)))
    about = {
        "format": FORMAT,
        "kind": kind,
        "dim": model.dim,
        "model": str(model.folder.resolve()),
        "probe": model.encode(PROBE)[:32].tolist(),
    }
    return pa.schema(fields, {"sse": json.dumps(about)})


def _batch(rows: list[Row], vectors: NDArray[np.float32], schema: Any, kind: str) -> Any:
    import pyarrow as pa

    texts = [row.text.encode("utf-8", "replace").decode() for row in rows]
    stored = vectors if kind == "exact" else vectors.astype(np.float16)
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(stored.ravel()), type=schema.field("vector").type
    )
    columns = [pa.array([row.where for row in rows]), pa.array(texts), lists]
    if kind == "binary":
        codes = np.packbits(vectors > 0, axis=1)
        columns.append(
            pa.FixedSizeBinaryArray.from_buffers(
                schema.field("code").type, len(codes), [None, pa.py_buffer(codes.tobytes())]
            )
        )
    return pa.record_batch(columns, schema=schema)


class Index:
    """A file of `build_index`, opened.

    Args:
        path: the file.
        model: folder of the model; by default the one it was made with, where that stood then.
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
        import pyarrow as pa

        self._faiss = _faiss()
        if not Path(path).is_file():
            raise UserError(f"{path}: no such index: make one with 'sse index'")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            about = json.loads((reader.schema.metadata or {})[b"sse"])
            self._chunks = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            self.kind, self.dim, folder = about["kind"], int(about["dim"]), about["model"]
            if about["format"] != FORMAT:
                raise UserError(f"{path} has format {about['format']}, this version reads {FORMAT}")
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"{path}: no index, or a damaged one ({reason})") from None
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])
        folder = model or folder
        if model is None and not Path(folder).is_dir():
            raise UserError(f"{path} was made with {folder}, which is gone: give the model with -m")
        self.model = Encoder(folder, fast=fast)
        if self.dim > self.model.full_dim:
            raise UserError(f"{path} was made with another model than {folder}: index again")
        self.model.dim = self.dim
        if not np.allclose(self.model.encode(PROBE)[:32], about["probe"], atol=1e-3):
            raise UserError(f"{path} was made with another model than {folder}: index again")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(
        self, queries: list[str], k: int = 10, oversampling: int = OVERSAMPLING
    ) -> list[list[Hit]]:
        """The `k` best texts of each query, best first, by the cosine.

        Args:
            queries: the texts to search for.
            k: results a query.
            oversampling: candidates a result that a binary index rescores.
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
        """Scores and rows, both (q, min(k, n)), of query vectors (q, dim) of length 1."""
        if k < 1 or oversampling < 1:
            raise UserError(f"k {k}, oversampling {oversampling}: give at least 1")
        k = min(k, len(self))
        if self.kind == "exact":
            metric = self._faiss.METRIC_INNER_PRODUCT
            return self._top(
                k, True, len(queries),
                lambda chunk, n: self._faiss.knn(queries, _vectors(chunk), n, metric=metric),
            )  # fmt: skip
        codes = np.packbits(queries > 0, axis=1)
        _, rows = self._top(
            min(k * oversampling, len(self)), False, len(queries),
            lambda chunk, n: self._faiss.knn_hamming(codes, _codes(chunk), n),
        )  # fmt: skip
        scores = np.stack([self._gather(r) @ q for r, q in zip(rows, queries, strict=True)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def _top(
        self, k: int, largest: bool, queries: int, knn: Callable[[Any, int], tuple[Any, Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best `k` over all chunks."""
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
        """The vectors of `rows`, float32 and of length 1 again."""
        out = np.empty((len(rows), self.dim), np.float32)
        homes = np.searchsorted(self._starts, rows, "right") - 1
        for home in np.unique(homes):
            here = homes == home
            out[here] = _vectors(self._chunks[home])[rows[here] - self._starts[home]]
        normalise(out)
        return out

    def _text(self, row: int) -> tuple[str, str]:
        home = int(np.searchsorted(self._starts, row, "right")) - 1
        chunk, at = self._chunks[home], row - int(self._starts[home])
        return chunk.column("text")[at].as_py(), chunk.column("where")[at].as_py()


def _vectors(chunk: Any) -> NDArray[Any]:
    """The chunk's vectors (n, dim), without a copy."""
    column = chunk.column("vector")
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(chunk), -1)


def _codes(chunk: Any) -> NDArray[np.uint8]:
    """The chunk's bits (n, dim / 8), without a copy."""
    column = chunk.column("code")
    width = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], np.uint8)
    return flat[column.offset * width :][: len(chunk) * width].reshape(len(chunk), width)
