"""The table that a run starts from, made of a teacher's vectors of our tokens.

- A transformer reads each token alone; `token_vectors` says how. The vectors become rows by
  `distil`: centred, whitened, and weighted by idf.
- A static table gives its rows; `static_rows` says how. They carry weights already.
- A model of this project is copied, so training goes on from it.

CACHE/starts/KEY.safetensors  a transformer's vectors of a vocabulary
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from sse.common.digests import digest_file, is_whole, write_digest
from sse.common.files import atomic_file
from sse.teacher.folder import files_of, kind_of, teacher_folder
from sse.teacher.static_rows import Rows, own_rows, static_rows
from sse.teacher.token_vectors import token_vectors
from sse.teacher.tokens import Tokens, check_known
from sse.text.frequencies import Frequencies
from sse.text.tokenizer import TextTokenizer

FORMAT = 1  # raise it when the same teacher and vocabulary give other vectors
LEAST_VARIANCE = 1e-6  # of the largest: an axis below it is rounding

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        table: (V, D) token rows.
        vectors: the norm's vectors, each (D,), of a model of this project with the same norm.
        account: what was done, in one line.
    """

    table: Array
    vectors: dict[str, Array] = field(default_factory=dict)
    account: str = ""

    def save(self, path: Path) -> None:
        """Write it with its digest, whole or not at all."""
        tensors = {"table": self.table} | {f"norm.{k}": v for k, v in self.vectors.items()}
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)
        write_digest(path)

    @staticmethod
    def read(path: Path) -> Start:
        """What `save` wrote."""
        tensors = load_file(path)
        table = tensors.pop("table")
        return Start(table, {k.removeprefix("norm."): v for k, v in tensors.items()})


def make_start(
    teacher: str,
    tokenizer: TextTokenizer,
    dim: int,
    *,
    norm: str = "none",
    std: float = 1.0,
    seed: int = 0,
    frequencies: Frequencies | None = None,
    cache: Path,
) -> Start:
    """The start that `teacher` gives the tokens of `tokenizer`.

    Args:
        teacher: a sentence-transformers folder or hub name, a model2vec folder, or one of ours.
        tokenizer: of the table to start.
        dim: D.
        norm: name of the norm; the vectors of a model with this norm and dimension are taken over.
        std: spread of the table; a model of this project keeps its own.
        seed: of the random numbers, which stand where the teacher has no column or no row.
        frequencies: of the tokens in the texts, for a transformer's rows; None for equal weights.
        cache: folder in which a transformer's vectors are kept.

    Raises:
        UserError: no teacher there, one without a tokenizer, one that knows few of the tokens, or
            one that gives NaN or infinite values.
    """
    folder = teacher_folder(teacher)
    noise = random_rows(tokenizer.vocab_size, dim, seed)
    kind = kind_of(folder)
    if kind == "transformer":
        vectors, seconds = _cached_vectors(folder, teacher, tokenizer, cache)
        how = f"read alone in {seconds:.0f} s" if seconds else "from the cache"
        done = [how, f"{vectors.shape[1]} dimensions, whitened"]
        done += ["the other columns random"] if dim > vectors.shape[1] else []
        done += ["rows x idf"] if frequencies is not None else []
        account = f"start from {teacher}: {len(noise):,} tokens, {', '.join(done)}"
        return Start(std * distil(vectors, noise, frequencies), account=account)
    rows = (own_rows if kind == "own" else static_rows)(folder, tokenizer)
    check_known(rows.known, teacher)
    table, account = _from_rows(rows, noise, std)
    account = f"start from {teacher}: {account}"
    if rows.norm == norm and rows.table.shape[1] == dim and rows.norm_vectors:
        return Start(table, rows.norm_vectors, f"{account}, and the vectors of its norm {norm}")
    return Start(table, account=account)


def distil(vectors: Array, noise: Array, frequencies: Frequencies | None = None) -> Array:
    """Rows (V, D) of a teacher's vectors T (V, W), whitened as the texts use them.

    With p_t = df_t idf_t^2, scaled to sum 1, and i over the tokens:

        X = T - sum_t p_t T_t                  C = sum_t p_t X_t^T X_t = A diag(l) A^T
        R_i = sqrt(k) r_i / |r_i|,  r = X A diag(l)^-1/2           (k axes of l above 0)
        U S W^T = R^T X',  X'_i = X_i / |X_i|                      (svd)
        E[:, :k] = R U / rms(R U)    E[:, k:] = noise[:, k:]    E = E * idf / mean(idf)

    - A text's vector is a sum of rows. Whitening by p makes such sums spread evenly over all
      directions, so two texts seldom agree by chance.
    - The rotation U changes no cosine of whole rows. It puts the directions that agree with the
      teacher's own cosines first, for the small prefixes.

    Args:
        vectors: T; a row of NaN is a token that the teacher does not know, and gets noise.
        noise: (V, D) of spread 1.
        frequencies: of the tokens in the texts; None for equal p and no idf.
    """
    known = np.isfinite(vectors[:, 0])
    idf = np.ones(len(vectors)) if frequencies is None else frequencies.idf()
    share = idf**2 if frequencies is None else idf**2 * frequencies.found
    rows = _whitened(vectors[known].astype(np.float64), share[known])[:, : noise.shape[1]]
    table = noise.copy()
    table[known, : rows.shape[1]] = rows
    if idf.any():
        table *= (idf / idf.mean()).astype(np.float32)[:, None]
    return table


def _whitened(vectors: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """R U of `distil`, of spread 1."""
    share = (share if share.any() else np.ones(len(share))).astype(np.float64)
    share = share / share.sum()
    centred = vectors - share @ vectors
    variances, axes = np.linalg.eigh((centred * share[:, None]).T @ centred)
    kept = variances > LEAST_VARIANCE * variances[-1]
    rows = _unit(centred @ (axes[:, kept] / np.sqrt(variances[kept])))
    rotated: NDArray[np.float64] = rows @ np.linalg.svd(rows.T @ _unit(centred))[0]
    rotated /= max(float(np.sqrt(np.mean(rows**2))), 1e-12)
    return rotated


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.maximum(lengths, 1e-12)
    return unit


def _from_rows(rows: Rows, noise: Array, std: float) -> tuple[Array, str]:
    """A static teacher's first D columns, noise of the same spread where it has none."""
    given = rows.table[:, : noise.shape[1]]
    spread = float(np.sqrt(np.mean(given[rows.known] ** 2)))
    scale = 1.0 if rows.keep_scale else std / max(spread, 1e-12)
    table = noise * (spread * scale)
    table[rows.known, : given.shape[1]] = given[rows.known] * scale
    known, more = int(rows.known.sum()), noise.shape[1] - given.shape[1]
    account = f"rows of {known:,} of {len(noise):,} tokens, {given.shape[1]} columns"
    return table, account + (f" and {more} random ones" if more else "")


def _cached_vectors(
    folder: Path, teacher: str, tokenizer: TextTokenizer, cache: Path
) -> tuple[Array, float]:
    """The transformer's vectors of the vocabulary, and the seconds that they took; 0 if cached."""
    tokens = Tokens(tokenizer.tokenizer, tokenizer.vocab_size)
    content = [FORMAT, tokens.fingerprint]
    content += [[str(path.relative_to(folder)), digest_file(path)] for path in files_of(folder)]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    path = cache / "starts" / f"{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if is_whole(path):
            return load_file(path)["vectors"], 0.0
        began = time.perf_counter()
        vectors = token_vectors(folder, teacher, tokens)
        with atomic_file(path) as temporary:
            save_file({"vectors": vectors}, temporary)
        write_digest(path)
        return vectors, time.perf_counter() - began


def random_rows(rows: int, dim: int, seed: int) -> Array:
    """The random start of spread 1, as `SSE` draws it from the same seed."""
    noise = torch.empty(rows, dim)
    drawn = noise.normal_(generator=torch.Generator().manual_seed(seed))
    return np.asarray(drawn.numpy(), np.float32)
