"""The output of encoding a corpus: shards of vectors in plain parquet, whole or absent.

- A shard is a function of its input, the model and the options, to the byte; `_manifest.json` says
  what the shards are made of.
- Records set aside go to `_rejected/part-N.jsonl` before the shard appears, so whoever finds the
  shard has both. Unfinished files lie in `_partial` (names with `_` are skipped by readers).
- On a local disk a finished file is renamed into place; in an object store it is uploaded whole,
  which is atomic there; elsewhere it is uploaded under another name and then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from sse.common.errors import UserError
from sse.model.quantise import width
from sse.serving.corpus_batches import VECTOR, Columns, read_shard
from sse.serving.corpus_files import InputFile, Shard, shards_of
from sse.serving.encoder import Encoder
from sse.serving.vector_files import GROUP, parquet_writer
from sse.text.record_files import file_system

FORMAT = 2  # of the manifest
REJECTED, PARTIAL, MANIFEST = "_rejected", "_partial", "_manifest.json"
PRECISIONS = ("float32", "float16", "int8", "binary")
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


@dataclass(frozen=True)
class Job:
    """The model and the options, equal for every shard."""

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
    """Records of a shard, and those set aside."""

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


def write_shard(job: Job, encoder: Encoder, shard: Shard, store: Store) -> Counts:
    """Encode the records of a shard and publish it.

    Raises:
        UserError: the input file cannot be read.
        OSError: the shard cannot be written.
    """
    rows = rejected = 0
    # The inner stack ends first: what was set aside is there before the shard is.
    with store.whole(shard_name(shard.number)) as path, contextlib.ExitStack() as stack:
        aside: Any = None
        with parquet_writer(path, job.schema, VECTOR) as writer:
            held: list[pa.Table] = []
            for batch in read_shard(shard, job.columns):
                if batch.rejected and aside is None:
                    name = f"{REJECTED}/part-{shard.number:05d}.jsonl"
                    target = stack.enter_context(store.whole(name))
                    aside = stack.enter_context(
                        open(target, "w", encoding="utf-8", errors="replace")
                    )
                for entry in batch.rejected:
                    aside.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
                rejected += len(batch.rejected)
                held.append(_encoded(job, encoder, batch.texts, batch.kept))
                rows += len(batch.texts)
                if sum(map(len, held)) >= GROUP:
                    writer.write_table(pa.concat_tables(held))
                    held = []
            if held or not rows:
                writer.write_table(pa.concat_tables([job.schema.empty_table(), *held]))
            writer.add_key_value_metadata({"sse.rejected": str(rejected)})
    return Counts(rows, rejected)


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


def shards_to_write(
    store: Store, job: Job, files: Sequence[InputFile], shard_rows: int
) -> list[Shard]:
    """All shards of a run: those of the manifest where the run began before, or new ones.

    Raises:
        UserError: shards of another model, other input or other options; a folder not of shards.
    """
    names, manifest = store.names(), _manifest(job, files, shard_rows)
    if MANIFEST in names:
        return _shards_begun(store, manifest)
    if strange := sorted(name for name in names if not name.startswith((".", "_"))):
        raise UserError(f"{store.root} holds {strange[0]} and no {MANIFEST}: name a new folder")
    shards = shards_of(files, shard_rows)
    with store.whole(MANIFEST) as path:
        whole = manifest | {"shards": [list(asdict(shard).values()) for shard in shards]}
        path.write_text(json.dumps(whole), "utf-8")
    return shards


def _manifest(job: Job, files: Sequence[InputFile], shard_rows: int) -> dict[str, Any]:
    """What the shards are made of; two runs with equal manifests make equal shards."""
    folder, digest = Path(job.model), hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "format": FORMAT,
        "model": digest.hexdigest(),
        "dim": job.dim,
        "precision": job.precision,
        "prompt": job.prompt,
        "normalize": job.normalize,
        "text": job.columns.text,
        "columns": {field.name: str(field.type) for field in job.schema},
        "shard_rows": shard_rows,
        "inputs": [[file.url, file.size] for file in files],
    }


def _shards_begun(store: Store, manifest: dict[str, Any]) -> list[Shard]:
    place = f"{store.root}/{MANIFEST}"
    try:
        before = json.loads(store.read(MANIFEST))
        if (old := before.get("format")) != FORMAT:
            way_out = "choose another folder"
            raise UserError(f"{place} has format {old!r}, this version's is {FORMAT}: {way_out}")
        shards = [Shard(*values) for values in before["shards"]]
        difference = _difference(before, manifest)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{place} is damaged: choose another folder") from None
    if difference:
        raise UserError(
            f"{store.root} was begun with {difference}: choose another folder, or the same "
            "model, input and options"
        )
    return shards


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing in which two manifests differ, in words."""
    for key in now:
        old, new = before.get(key), now[key]
        if old == new:
            continue
        if key == "model":
            return "another model (its files' hash differs)"
        if key != "inputs":
            return f"{key} {old!r}, not {new!r}"
        sizes, present = dict(old or []), dict(new)
        for url in sorted({*sizes, *present}):
            if sizes.get(url) != present.get(url):
                was, has = (
                    "absent" if size is None else f"{size:,} bytes"
                    for size in (sizes.get(url), present.get(url))
                )
                return f"another input: {url} was {was} and is {has}"
    return None
