"""Text to vectors with numpy and tokenizers alone: no torch, no sentence-transformers.

- The table is memory-mapped, so a model opens at once and processes share its pages.
- A batch of texts goes through tokenizer, pooling, norm and L2 normalisation on one thread; several
  batches run on as many cores. nanotoken, pooling and norm release the GIL.
- Pooling and norm work on blocks of rows small enough for the cache.
- An `Encoder` never changes after loading, but for words it remembers: threads may share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.model.folder import read_folder
from sse.model.norm_forms import NORM_FORMS, normalise
from sse.model.quantise import PRECISIONS, quantise_rows, quantise_vectors, width
from sse.model.table import EmbeddingTable
from sse.serving.threads import batches, cores, in_order, told
from sse.text.tokenizer import load_tokenizer

Asked = tuple[int, bool, str, str]  # dim, normalize, prompt, precision
FEW = 64  # texts that go without generators and bars: a query should cost microseconds
BLOCK = 128  # rows pooled and normed at a time: 256 KB at 512 dimensions


class Encoder:
    """Texts to vectors, y = norm(mean(E[ids])): the torch model's to 1e-6, without torch.

    Args:
        folder: an exported model, a published SSE folder or a StaticEmbedding.
        dim: use the first `dim` dimensions only (Matryoshka).
        fast: tokenise with nanotoken where it is installed and proven equal.
        rows: hold the table as float32, float16, int8 or int4 rows; by default as stored.
        verify: compare the files with the digests that the folder lists.
        threads: cores that one call uses, all by default. Hugging Face's tokenizers follow
            TOKENIZERS_PARALLELISM besides.

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
        self._prefix_suffices = self._form.by_dimension
        self._vectors = model.vectors
        self.table = model.rows
        if rows is not None and rows != self.table.kind:
            self.table = EmbeddingTable(*quantise_rows(model.table, rows))
        self.full_dim = self.table.shape[1]
        self.dim = self._checked(dim)
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
            texts: one text, or any iterable of texts. Of iterators, only the vectors are kept.
            dim: the first `dim` dimensions; by default all that were loaded.
            normalize: scale each vector to length 1, after cutting it to `dim`.
            batch_size: texts a thread takes at a time, or fewer where that leaves cores idle.
            progress: show a bar.
            prompt_name: which of the model's prompts goes before each text, such as "query".
            precision: `float32`; `int8`, each vector scaled to its largest component; `binary`, the
                signs packed into (n, ceil(dim / 8)) uint8.

        Raises:
            UserError: a dim that is no prefix, an unknown prompt or precision, a text that is no
                str.
        """
        if isinstance(texts, str):
            return self._work(
                [texts], 0, False, *self._asked(dim, normalize, 1, prompt_name, precision)
            )[0]
        if isinstance(texts, list) and 0 < len(texts) <= min(batch_size, FEW):
            asked = self._asked(dim, normalize, batch_size, prompt_name, precision)
            return self._work(texts, 0, False, *asked)
        total = len(texts) if isinstance(texts, Sequence | np.ndarray) else None
        out = None if total is None else self._new(total, dim, precision)
        asked = self._asked(dim, normalize, batch_size, prompt_name, precision)
        parts = self._parts(texts, batch_size, asked, out)
        if progress:
            from tqdm.auto import tqdm  # slow to import

            bar = tqdm(total=total, desc="encoding", unit=" texts", unit_scale=True)
            parts = told(parts, bar)
        kept = [part for part in parts if out is None]
        if out is None:
            return np.concatenate(kept) if kept else self._new(0, dim, precision)
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
        """Vectors batch by batch, in order; memory stays at a few batches however many texts come.

        The arguments are `encode`'s.
        """
        asked = self._asked(dim, normalize, batch_size, prompt_name, precision)
        yield from self._parts(texts, batch_size, asked)

    def _parts(
        self, texts: Iterable[str], size: int, asked: Asked, out: NDArray[Any] | None = None
    ) -> Iterator[NDArray[Any]]:
        """Batch by batch, into `out` where there is one."""

        def work(part: Sequence[str], first: int, parallel: bool | None = False) -> NDArray[Any]:
            rows = None if out is None else out[first : first + len(part)]
            return self._work(part, first, parallel, *asked, rows)

        workers = self.threads or cores()
        parts = batches(texts, size, workers)
        head = list(islice(parts, 2))
        if len(head) < 2:  # threads would only cost
            yield from (work(part, 0, None if workers > 1 else False) for part in head)
        else:
            yield from in_order(work, chain(head, parts), workers)

    def _asked(
        self,
        dim: int | None,
        normalize: bool,
        batch_size: int,
        prompt_name: str | None,
        precision: str,
    ) -> Asked:
        """The arguments, checked."""
        if precision not in PRECISIONS:
            raise UserError(f"precision '{precision}': choose one of {', '.join(PRECISIONS)}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give at least 1")
        return self._checked(dim, self.dim), normalize, self._prompt(prompt_name), precision

    def _work(
        self,
        batch: Sequence[str],
        first: int,
        parallel: bool | None,
        dim: int,
        normalize: bool,
        prompt: str,
        precision: str,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """One batch, whose first text has the number `first`, into `out` or a new array."""
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
        """What is loaded, ready for JSON."""
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
        """Vectors of one batch into `out` (n, dim)."""
        batch, dim = self.tokenizer.encode(texts, parallel), out.shape[1]
        pooled = dim if self._prefix_suffices else self.full_dim
        for start in range(0, len(texts), BLOCK):
            block = out[start : start + BLOCK]
            x = block if pooled == dim else np.empty((len(block), pooled), np.float32)
            self.table.mean(batch.ids, batch.offsets[start : start + len(block) + 1], x)
            self._form.apply(x, self._vectors)
            if pooled != dim:
                block[...] = x[:, :dim]
            if normalize:
                normalise(block)

    def _new(self, rows: int, dim: int | None, precision: str) -> NDArray[Any]:
        columns, dtype = width(self._checked(dim, self.dim), precision)
        return np.empty((rows, columns), dtype)

    def _checked(self, dim: int | None, most: int | None = None) -> int:
        most = most or self.full_dim
        if dim is None:
            return most
        if not 1 <= dim <= most:
            raise UserError(f"dim {dim} is no prefix of the model's {most}: give 1 to {most}")
        return int(dim)

    def _prompt(self, name: str | None) -> str:
        name = name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UserError(f"prompt '{name}': {self.folder} has {known}")
        return self.prompts[name]


def _check_texts(texts: Sequence[str], first: int) -> None:
    if set(map(type, texts)) <= {str}:
        return
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"text {first + row} is {kind} {str(text)[:40]!r}, expected a str")
