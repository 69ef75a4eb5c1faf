"""Text to vectors with numpy and tokenizers alone, without torch.

- The table is memory-mapped: a model opens at once, and processes share its pages.
- A thread takes one batch through tokenizer, pooling, norm and L2 normalisation. Batches run on
  several cores, since nanotoken, pooling and norm release the GIL.
- Threads may share an `Encoder`: only its cache of words changes after loading.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, one_of
from sse.common.machine import cores
from sse.model.folder import read_folder
from sse.model.norm_forms import NORM_FORMS, normalise
from sse.model.quantise import PRECISIONS, quantise_rows, quantise_vectors, width
from sse.model.table import EmbeddingTable
from sse.serving.threads import batches, counted, in_order
from sse.text.tokenizer import load_tokenizer

FEW = 64  # texts encoded without generators, which cost more than a query
BLOCK = 128  # rows pooled and normed at a time: they fit the processor's cache


class Request(NamedTuple):
    """The checked arguments of one call."""

    dim: int
    normalize: bool
    prompt: str
    precision: str


class Encoder:
    """y = norm(mean(E[ids])), the torch model's vectors to 1e-6.

    Args:
        folder: an exported model, a published SSE folder, or another library's static table (see
            `sse.model.folder`); or a model's name on the hub, OWNER/NAME.
        dim: the first `dim` dimensions only (Matryoshka).
        fast: use nanotoken where it is installed and proven equal.
        rows: convert the table to float32, float16, int8 or int4 rows; by default as stored.
        verify: see `sse.model.folder.read_folder`.
        threads: cores per call, all by default. Hugging Face's tokenizers have threads of their
            own, by TOKENIZERS_PARALLELISM.

    Raises:
        UserError: no model there, a damaged file, or parts that do not fit each other.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        dim: int | None = None,
        fast: bool = True,
        rows: str | None = None,
        verify: bool = True,
        threads: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.threads = threads
        model = read_folder(self.folder, verify)
        self._digests = model.digests
        self.norm = model.norm
        self._form = NORM_FORMS[self.norm]
        self._vectors = model.vectors
        self.table = model.rows
        if rows is not None and rows != self.table.kind:
            self.table = EmbeddingTable(*quantise_rows(model.table, rows))
        self.full_dim = self.table.shape[1]
        self.dim = self._prefix(dim, self.full_dim)
        self.tokenizer = load_tokenizer(
            str(model.tokenizer), max_tokens=model.max_tokens, fast=fast
        )
        model.check_tokenizer(self.tokenizer.vocab_size)
        self.prompts: dict[str, str] = dict(model.settings.get("prompts") or {})
        self.default_prompt_name: str | None = model.settings.get("default_prompt_name")

    def encode(
        self,
        texts: str | Iterable[str],
        dim: int | None = None,
        normalize: bool = True,
        batch_size: int = 1024,
        progress: bool = False,
        prompt_name: str | None = None,
        precision: str = "float32",
    ) -> NDArray[Any]:
        """Vectors of `texts`: (n, dim), or (dim,) of a single text.

        Args:
            texts: one text, or any iterable of texts.
            dim: the first `dim` dimensions; by default the encoder's `dim`.
            normalize: scale each vector to length 1, after the cut to `dim`.
            batch_size: texts per batch at most; a short list makes smaller ones for all cores.
            progress: show a bar on a terminal.
            prompt_name: the model's prompt to put before each text, such as "query".
            precision: float32; int8, each vector scaled by its largest component; binary, the signs
                packed into (n, dim / 8) uint8.

        Raises:
            UserError: a dim that is no prefix, an unknown prompt or precision, or a text that is
                no str.
        """
        request = self._request(dim, normalize, prompt_name, precision)
        if isinstance(texts, str):
            vector: NDArray[np.float32] = self._work([texts], 0, False, request)[0]
            return vector
        if not isinstance(texts, Iterable) or (isinstance(texts, np.ndarray) and not texts.ndim):
            raise UserError(f"`texts` is {str(texts)[:50]}: give one text, or several")
        if isinstance(texts, list) and 0 < len(texts) <= min(batch_size, FEW):
            return self._work(texts, 0, False, request)
        total = len(texts) if isinstance(texts, Sequence | np.ndarray) else None
        columns, dtype = width(request.dim, precision)
        out = np.empty((total or 0, columns), dtype)
        parts = self._parts(texts, batch_size, request, None if total is None else out)
        if progress:
            from tqdm.auto import tqdm  # slow to import

            bar = tqdm(total=total, desc="encoding", unit=" texts", unit_scale=True, disable=None)
            parts = counted(parts, bar)
        if total is None:
            return np.concatenate([out, *parts])
        for _ in parts:  # each is written into `out`
            pass
        return out

    def stream(
        self,
        texts: Iterable[str],
        dim: int | None = None,
        normalize: bool = True,
        batch_size: int = 1024,
        prompt_name: str | None = None,
        precision: str = "float32",
    ) -> Iterator[NDArray[Any]]:
        """Vectors batch by batch, in order, with few batches in memory.

        The arguments are `encode`'s.
        """
        request = self._request(dim, normalize, prompt_name, precision)
        yield from self._parts(texts, batch_size, request)

    def _parts(
        self, texts: Iterable[str], size: int, request: Request, out: NDArray[Any] | None = None
    ) -> Iterator[NDArray[Any]]:
        """The vectors of each batch, as rows of `out` if it is given."""
        if size < 1:
            raise UserError(f"batch_size is {size}: give at least 1")

        def work(part: Sequence[str], first: int, parallel: bool | None = False) -> NDArray[Any]:
            rows = None if out is None else out[first : first + len(part)]
            return self._work(part, first, parallel, request, rows)

        workers = self.threads or cores()
        parts = batches(texts, size, workers)
        head = list(islice(parts, 2))
        if len(head) < 2:  # threads of ours would only cost
            yield from (work(part, 0, None if workers > 1 else False) for part in head)
        else:
            yield from in_order(work, chain(head, parts), workers)

    def _request(
        self, dim: int | None, normalize: bool, prompt_name: str | None, precision: str
    ) -> Request:
        if precision not in PRECISIONS:
            raise UserError(f"precision '{precision}': {one_of(precision, PRECISIONS)}")
        dim = self._prefix(dim, self.dim)
        return Request(dim, normalize, self._prompt(prompt_name), precision)

    def _work(
        self,
        batch: Sequence[str],
        first: int,
        parallel: bool | None,
        request: Request,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The vectors of one batch, in `out` or a new array; `first` numbers its first text."""
        dim, normalize, prompt, precision = request
        _check_texts(batch, first)
        if prompt:
            batch = [prompt + text for text in batch]
        direct = out if out is not None and precision == "float32" else None
        if direct is None:
            direct = np.empty((len(batch), dim), np.float32)
        self._encode(batch, direct, normalize, parallel)
        if out is None or out is direct:
            return quantise_vectors(direct, precision)
        out[...] = quantise_vectors(direct, precision)
        return out

    def info(self) -> dict[str, Any]:
        """Facts on the model, its tokenizer and its pooling, ready for JSON."""
        engine = self.tokenizer.engine
        return {
            "folder": str(self.folder),
            "norm": self.norm,
            "dim": self.dim,
            "full_dim": self.full_dim,
            "vocabulary": self.table.shape[0],
            "rows": self.table.kind,
            "table_bytes": self.table.nbytes,
            "max_tokens": self.tokenizer.max_tokens,
            "prompts": self.prompts,
            "tokenizer": engine.name,
            "tokenizer_because": engine.reason,
            "digests": self._digests,
            "pooling": "compiled" if self.table.compiled else "numpy",
        }

    def _encode(
        self, texts: Sequence[str], out: NDArray[np.float32], normalize: bool, parallel: bool | None
    ) -> None:
        """Write the vectors of one batch into `out` (n, dim)."""
        batch, dim = self.tokenizer.encode(texts, parallel), out.shape[1]
        pooled = dim if self._form.by_dimension else self.full_dim
        for start in range(0, len(texts), BLOCK):
            block = out[start : start + BLOCK]
            x = block if pooled == dim else np.empty((len(block), pooled), np.float32)
            self.table.mean(batch.ids, batch.offsets[start : start + len(block) + 1], x)
            self._form.apply(x, self._vectors)
            if pooled != dim:
                block[...] = x[:, :dim]
            if normalize:
                normalise(block)

    @staticmethod
    def _prefix(dim: int | None, most: int) -> int:
        """`dim`, by default `most`; raises UserError outside 1 to `most`."""
        if dim is None:
            return most
        if not isinstance(dim, int | np.integer) or isinstance(dim, bool) or not 1 <= dim <= most:
            raise UserError(f"dim {dim} is no prefix of the model's {most}: give 1 to {most}")
        return int(dim)

    def _prompt(self, name: str | None) -> str:
        """The prompt of that name, by default the model's default prompt or none."""
        name = name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(f"prompt '{name}': {self.folder} has {known}")
        return self.prompts[name]


def _check_texts(texts: Sequence[str], first: int) -> None:
    """Raise UserError for a text that is no str; `first` numbers the first text."""
    if set(map(type, texts)) <= {str}:
        return
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"text {first + row} is {kind} {str(text)[:40]!r}, expected a str")
