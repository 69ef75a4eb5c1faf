"""One piece of a corpus to one shard of vectors: plain parquet, whole or absent.

- A shard is a function of its piece, the model and the options, to the byte.
- Rows set aside go to `_rejected/part-N.jsonl` before the shard appears, so whoever finds the
  shard has both. Unfinished files lie in `_partial` (names with `_` are skipped by readers).
- On a local disk a finished file is renamed into place; in an object store it is uploaded whole,
  which is atomic there; elsewhere it is uploaded under another name and then renamed.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from sse.common.errors import UserError
from sse.common.files import atomic_folder
from sse.model.quantise import width
from sse.serving.corpus_files import Columns, Piece, file_system, read_piece
from sse.serving.encoder import Encoder
from sse.serving.vector_files import GROUP, parquet_writer

VECTOR = "vector"
REJECTED, PARTIAL, MANIFEST = "_rejected", "_partial", "_manifest.json"
PRECISIONS = ("float32", "float16", "int8", "binary")
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


@dataclass(frozen=True)
class Job:
    """What is asked of every piece."""

    model: str
    out: str
    columns: Columns
    dim: int
    precision: str = "float32"
    prompt: str | None = None
    normalize: bool = True
    fast: bool = True

    @property
    def schema(self) -> pa.Schema:
        """The shards' columns: those kept, then the vector as a fixed-size list."""
        computed = "float32" if self.precision == "float16" else self.precision
        columns, dtype = width(self.dim, computed)
        kind = "float16" if self.precision == "float16" else dtype
        vector = pa.list_(pa.from_numpy_dtype(np.dtype(kind)), columns)
        return self.columns.kept.append(pa.field(VECTOR, vector))


@dataclass(frozen=True)
class Counts:
    """Rows of a shard and those set aside."""

    rows: int
    rejected: int


def shard_name(number: int) -> str:
    """`part-00007.parquet`."""
    return f"part-{number:05d}.parquet"


class Store:
    """The folder that takes the shards, local or remote."""

    def __init__(self, url: str) -> None:
        self.system, path = file_system(url)
        self.root = path.rstrip("/")
        self.local = isinstance(self.system, LocalFileSystem)
        protocol = self.system.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self.atomic = bool(names & OBJECT_STORES)

    def path(self, name: str) -> str:
        """The full path of a file in the folder."""
        return f"{self.root}/{name}"

    def names(self) -> set[str]:
        """What lies in the folder."""
        self.system.invalidate_cache()
        if not self.system.exists(self.root):
            return set()
        return {str(path).rpartition("/")[2] for path in self.system.ls(self.root, detail=False)}

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        data: bytes = self.system.cat_file(self.path(name))
        return data

    @contextlib.contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; on success its file appears as `name`, on failure it goes."""
        if self.local:
            folder = Path(self.path(PARTIAL))
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="sse-shard-"))
        path = folder / f"{name.replace('/', '-')}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            yield path
            self._publish(path, name)
        finally:
            path.unlink(missing_ok=True)
            if not self.local:
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, path: Path, name: str) -> None:
        target = self.path(name)
        if self.local:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            return
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self.atomic:
            self.system.put_file(str(path), target)
            return
        unfinished = self.path(f"{PARTIAL}/{path.name}")
        self.system.makedirs(self.path(PARTIAL), exist_ok=True)
        self.system.put_file(str(path), unfinished)
        self.system.mv(unfinished, target)

    def tidy(self) -> None:
        """Remove what a killed run left unfinished."""
        if self.local:  # a killed run's workers may be at it for a moment yet
            shutil.rmtree(self.path(PARTIAL), ignore_errors=True)
        elif self.system.exists(self.path(PARTIAL)):
            self.system.rm(self.path(PARTIAL), recursive=True)

    def counts(self, name: str) -> Counts:
        """What a shard's footer says."""
        self.system.invalidate_cache()  # a listing from before the shard hides it
        with self.system.open(self.path(name), "rb") as file:
            footer = pq.read_metadata(file)
        return Counts(footer.num_rows, int((footer.metadata or {}).get(b"sse.rejected", 0)))


def write_shard(job: Job, encoder: Encoder, piece: Piece, store: Store) -> Counts:
    """Encode a piece and publish its shard.

    Raises:
        UserError: the piece's file cannot be read.
        OSError: the shard cannot be written.
    """
    rows, rejected = 0, []
    with store.whole(shard_name(piece.number)) as path:
        with parquet_writer(path, job.schema, VECTOR) as writer:
            held: list[pa.Table] = []
            for chunk in read_piece(piece, job.columns):
                rejected += chunk.rejected
                held.append(_encoded(job, encoder, chunk.texts, chunk.kept))
                if sum(map(len, held)) >= GROUP:
                    writer.write_table(pa.concat_tables(held))
                    held = []
                rows += len(chunk.texts)
            if held or not rows:
                writer.write_table(pa.concat_tables([job.schema.empty_table(), *held]))
            writer.add_key_value_metadata({"sse.rejected": str(len(rejected))})
        if rejected:
            with store.whole(f"{REJECTED}/part-{piece.number:05d}.jsonl") as aside:
                lines = (json.dumps(entry, ensure_ascii=False, default=str) for entry in rejected)
                aside.write_text("".join(f"{line}\n" for line in lines), "utf-8", "replace")
    return Counts(rows, len(rejected))


def _encoded(job: Job, encoder: Encoder, texts: list[str], kept: pa.Table) -> pa.Table:
    half = job.precision == "float16"
    vectors = encoder.encode(
        texts,
        normalize=job.normalize,
        prompt_name=job.prompt,
        precision="float32" if half else job.precision,
    )
    flat = pa.array((vectors.astype(np.float16) if half else vectors).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, type=job.schema.field(VECTOR).type)
    return kept.append_column(job.schema.field(VECTOR), column)


class Worker:
    """One core's encoder, kept from piece to piece; what Ray runs as an actor.

    Args:
        job: the model and the options.
        files: the model's files by name, where no node but the caller's has them.
    """

    def __init__(self, job: Job, files: Any = None) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        model = job.model if files is None else _unpacked(files)
        self.job, self.store = job, Store(job.out)
        self.encoder = Encoder(model, job.dim, fast=job.fast, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one shard; a fault that a user can mend is told, not raised."""
        start = time.perf_counter()
        stop = int(row["stop"])
        piece = Piece(
            int(row["number"]),
            str(row["url"]),
            str(row["kind"]),
            int(row["start"]),
            None if stop < 0 else stop,
            int(row["first"]),
        )
        told = {"number": piece.number, "rows": 0, "rejected": 0, "fault": "", "errno": 0}
        try:
            counts = write_shard(self.job, self.encoder, piece, self.store)
            told |= {"rows": counts.rows, "rejected": counts.rejected}
        except (UserError, OSError) as error:
            told |= {"fault": str(error) or type(error).__name__}
            told["errno"] = getattr(error, "errno", None) or 0
        return told | {"seconds": time.perf_counter() - start}


def packed(folder: Path) -> dict[str, bytes]:
    """A model folder's files, to be sent to nodes that do not have it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def home_of(files: dict[str, bytes]) -> Path:
    """Where a node keeps the files it was sent."""
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        content.update(name.encode() + b"\0" + data)
    user = getpass.getuser()
    return Path(tempfile.gettempdir()) / f"sse-model-{user}-{content.hexdigest()[:24]}"


def _unpacked(files: Any) -> str:
    """A folder of these files, shared by a node's workers, who map the same table."""
    import ray

    found: dict[str, bytes] = ray.get(files)
    folder = home_of(found)
    if not folder.exists():
        with contextlib.suppress(OSError), atomic_folder(folder) as temporary:
            for name, data in found.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(data)
    return str(folder)
