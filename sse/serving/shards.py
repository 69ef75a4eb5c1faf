"""The output of encoding a corpus: shards of vectors in parquet, each whole or absent.

- Input, model and options decide a shard to the byte. `_manifest.json` records them.
- Rejected records go to `_rejected/part-N.jsonl` before their shard appears.
- Unfinished files lie in `_partial`. Readers of parquet folders skip names with `_`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from sse.common.errors import UserError
from sse.model.quantise import width
from sse.serving.corpus_batches import VECTOR, CorpusColumns, read_shard
from sse.serving.corpus_files import InputFile, Shard, shards_of
from sse.serving.encoder import Encoder
from sse.serving.vector_files import GROUP, parquet_writer
from sse.text.record_files import file_system

MANIFEST_FORMAT = 2
REJECTED, PARTIAL, MANIFEST = "_rejected", "_partial", "_manifest.json"
SHARD_PRECISIONS = ("float32", "float16", "int8", "binary")
# Protocols whose uploads appear at once and whole.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


@dataclass(frozen=True)
class Job:
    """The model, the output folder and the options, which all shards share."""

    model: str
    out: str
    columns: CorpusColumns
    dim: int
    precision: str = "float32"
    prompt: str | None = None
    normalize: bool = True
    fast: bool = True

    @property
    def encoder_precision(self) -> str:
        """The encoder's precision; float16 vectors are rounded from float32."""
        return "float32" if self.precision == "float16" else self.precision

    @property
    def schema(self) -> pa.Schema:
        """The shards' columns; the last is the vector as a fixed-size list."""
        columns, dtype = width(self.dim, self.encoder_precision)
        kind = "float16" if self.precision == "float16" else dtype
        vector = pa.list_(pa.from_numpy_dtype(np.dtype(kind)), columns)
        return self.columns.schema.append(pa.field(VECTOR, vector))


@dataclass(frozen=True)
class Counts:
    """Numbers of a shard's rows and of its rejected records."""

    rows: int
    rejected: int


def shard_name(number: int) -> str:
    """The name of a shard, such as `part-00007.parquet`."""
    return f"part-{number:05d}.parquet"


class Store:
    """The folder of the shards, local or remote."""

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
        """The names in the folder; none if there is no folder."""
        self.system.invalidate_cache()
        if not self.system.exists(self.root):
            return set()
        return {str(path).rpartition("/")[2] for path in self.system.ls(self.root, detail=False)}

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        return bytes(self.system.cat_file(self.path(name)))

    @contextlib.contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; its file becomes `name` on success and is removed on failure."""
        with contextlib.ExitStack() as stack:
            if self.local:
                folder = self.path(PARTIAL)
                Path(folder).mkdir(parents=True, exist_ok=True)
            else:
                temporary = TemporaryDirectory(prefix="sse-shard-", ignore_cleanup_errors=True)
                folder = stack.enter_context(temporary)
            path = Path(folder) / f"{name.replace('/', '-')}.{os.urandom(4).hex()}.tmp"
            stack.callback(path.unlink, missing_ok=True)
            yield path
            self._publish(path, name)

    def _publish(self, path: Path, name: str) -> None:
        """Move a finished local file to `name`; it never appears there in part."""
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
        """Remove the unfinished files of a killed run."""
        if self.local:  # the killed run's workers may still write for a moment
            shutil.rmtree(self.path(PARTIAL), ignore_errors=True)
        elif self.system.exists(self.path(PARTIAL)):
            self.system.rm(self.path(PARTIAL), recursive=True)

    def counts(self, name: str) -> Counts:
        """The numbers in a shard's footer."""
        self.system.invalidate_cache()  # a listing from before the shard hides it
        with self.system.open(self.path(name), "rb") as file:
            footer = pq.read_metadata(file)
        return Counts(footer.num_rows, int((footer.metadata or {}).get(b"sse.rejected", 0)))


def write_shard(job: Job, encoder: Encoder, shard: Shard, store: Store) -> Counts:
    """Encode the records of a shard and write it.

    UserError: the input file cannot be read. OSError: the shard cannot be written.
    """
    rows = rejected = 0
    # The inner stack ends first, so the rejected records appear before the shard.
    with store.whole(shard_name(shard.number)) as path, contextlib.ExitStack() as stack:
        rejects: Any = None
        with parquet_writer(path, job.schema, VECTOR) as writer:
            group: list[pa.Table] = []
            for batch in read_shard(shard, job.columns):
                if batch.rejected and rejects is None:
                    name = f"{REJECTED}/part-{shard.number:05d}.jsonl"
                    target = stack.enter_context(store.whole(name))
                    rejects = stack.enter_context(
                        open(target, "w", encoding="utf-8", errors="replace")
                    )
                for entry in batch.rejected:
                    rejects.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
                rejected += len(batch.rejected)
                group.append(_encode(job, encoder, batch.texts, batch.columns))
                rows += len(batch.texts)
                if sum(map(len, group)) >= GROUP:
                    writer.write_table(pa.concat_tables(group))
                    group = []
            if group or not rows:
                writer.write_table(pa.concat_tables([job.schema.empty_table(), *group]))
            writer.add_key_value_metadata({"sse.rejected": str(rejected)})
    return Counts(rows, rejected)


def _encode(job: Job, encoder: Encoder, texts: list[str], columns: pa.Table) -> pa.Table:
    """`columns` with the vectors of `texts` beside them."""
    precision = job.encoder_precision
    vectors = encoder.encode(
        texts, None, job.normalize, prompt_name=job.prompt, precision=precision
    )
    if job.precision == "float16":
        vectors = vectors.astype(np.float16)
    field = job.schema.field(VECTOR)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=field.type)
    return columns.append_column(field, column)


def shards_to_write(
    store: Store, job: Job, files: Sequence[InputFile], shard_rows: int
) -> list[Shard]:
    """All shards of a run: those of the folder's manifest, or new ones and their manifest.

    Raises:
        UserError: the folder's shards are of another model, input or options, or it holds other
            files and no shards.
    """
    names, manifest = store.names(), _manifest(job, files, shard_rows)
    if MANIFEST in names:
        return _shards_begun(store, manifest)
    if others := sorted(name for name in names if not name.startswith((".", "_"))):
        raise UserError(f"{store.root} holds {others[0]} and no {MANIFEST}: name a new folder")
    shards = shards_of(files, shard_rows)
    with store.whole(MANIFEST) as path:
        whole = manifest | {"shards": [list(asdict(shard).values()) for shard in shards]}
        path.write_text(json.dumps(whole), "utf-8")
    return shards


def _manifest(job: Job, files: Sequence[InputFile], shard_rows: int) -> dict[str, Any]:
    """Everything that decides the shards: two runs with equal manifests make equal shards."""
    folder, digest = Path(job.model), hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    manifest = {
        "format": MANIFEST_FORMAT,
        "model": digest.hexdigest(),
        "dim": job.dim,
        "precision": job.precision,
        "prompt": job.prompt,
        "normalize": job.normalize,
        "text": job.columns.text,
        "columns": {field.name: str(field.type) for field in job.schema},
        "inputs": [[file.url, file.size] for file in files],
    }
    if files[0].kind == "parquet":  # JSON lines are not cut
        manifest["shard_rows"] = shard_rows
    return manifest


def _shards_begun(store: Store, manifest: dict[str, Any]) -> list[Shard]:
    """The shards of the folder's manifest, which must agree with `manifest`."""
    place, way_out = f"{store.root}/{MANIFEST}", "choose another folder"
    try:
        before = json.loads(store.read(MANIFEST))
        if (number := before.get("format")) != MANIFEST_FORMAT:
            reason = f"has format {number!r}, this version's is {MANIFEST_FORMAT}"
            raise UserError(f"{place} {reason}: {way_out}")
        shards = [Shard(*values) for values in before["shards"]]
        difference = _difference(before, manifest)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{place} is damaged: {way_out}") from None
    if difference:
        raise UserError(
            f"{store.root} was begun with {difference}: {way_out}, or the same model, input "
            "and options"
        )
    return shards


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing in which two manifests differ, in words."""
    for key, new in now.items():
        old: Any = before.get(key)
        if old == new:
            continue
        if key == "model":
            return "another model (its files' hash differs)"
        if key != "inputs":
            return f"`{key}` {old!r}, not {new!r}"
        url, _ = min({*map(tuple, old)} ^ {*map(tuple, new)})
        return f"another input: {url} was {_size(old, url)} and is {_size(new, url)}"
    return None


def _size(inputs: list[list[Any]], url: str) -> str:
    size = dict(inputs).get(url)
    return "absent" if size is None else f"{size:,} bytes"
