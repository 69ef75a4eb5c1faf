"""A folder of documents as a set of pairs: see `sse.documents.pairs` for how they are made.

The set knows each pair's document, so that whole documents are held out. The cache keeps the pairs
until a file is added, removed or changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from sse.common.digests import is_whole, write_digest
from sse.common.errors import UserError
from sse.common.files import atomic_file
from sse.data.columns import Column
from sse.data.pair_set import PairSet, make_pair_set
from sse.documents.document import Document
from sse.documents.files import find_files
from sse.documents.left_out import LeftOut
from sse.documents.pairs import KINDS, make_pairs
from sse.documents.read import read_document

FORMAT = 1  # raise it when the same files give other pairs
SCHEMA = pa.schema([(name, pa.string()) for name in ("anchor", "positive", "kind")])
SCHEMA = SCHEMA.append(pa.field("document", pa.uint64()))
ROWS = 10_000  # of one row group, the most that are in memory while they are made


def document_pairs(
    path: str,
    cache: Path,
    kinds: Sequence[str] = KINDS,
    strict: bool = False,
    say: Callable[[str], None] = print,
) -> PairSet:
    """The pairs of the documents in a folder, or of one document.

    Args:
        path: the folder or the file.
        cache: a folder that keeps the pairs for the next run with the same files.
        kinds: which kinds of pairs, of `KINDS`.
        strict: refuse a folder of which something cannot be read.
        say: takes two lines: what was read and left out, and the pairs of each kind.

    Raises:
        UserError: no such path, no document, no pairs, or with `strict` anything left out.
    """
    import datasets

    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"`document_pairs` has '{kind}': choose of {', '.join(KINDS)}")
    left_out = LeftOut()
    files = list(find_files(Path(path).expanduser(), left_out))
    store = cache / f"documents-{_key(files, kinds)}.parquet"
    if not is_whole(store):
        _write(store, files, kinds, left_out)
        write_digest(store)
    table = pq.read_table(store)
    facts = json.loads(pq.read_metadata(store).metadata[b"facts"])
    _tell(path, facts, say)
    if strict and facts["left_out"]:
        raise UserError(f"{path}: {facts['left_out']}: mend or move them, or drop `strict`")
    if not len(table):
        raise UserError(
            f"{path}: {facts['documents']:,} documents and no pairs: their texts have no headings "
            "and no paragraphs of several sentences; give other documents"
        )
    return make_pair_set(
        Path(path).resolve().name,
        datasets.Dataset(table.select(["anchor", "positive"])),
        [Column("anchor", "anchor"), Column("positive", "positive")],
        [f"{facts['documents']:,} documents", *([facts["left_out"]] if facts["left_out"] else [])],
        groups=table.column("document").to_numpy(),
    )


def _write(store: Path, files: Sequence[str], kinds: Sequence[str], left_out: LeftOut) -> None:
    """Make the pairs of the files and write them, with counts of what was read and left out."""
    counts: Counter[str] = Counter()
    read = 0

    def documents() -> Iterator[Document]:
        nonlocal read
        for file in tqdm(files, desc="reading documents", unit=" files", disable=None):
            if document := read_document(file, left_out):
                read += 1
                yield document

    rows: list[dict[str, Any]] = []
    with atomic_file(store) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for path, pairs in make_pairs(documents(), kinds):
            number = _number(path)
            rows += [{**pair._asdict(), "document": number} for pair in pairs]
            counts.update(pair.kind for pair in pairs)
            if len(rows) >= ROWS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        facts = {
            "documents": read,
            "left_out": left_out.summary() if left_out else "",
            "kinds": {kind: counts[kind] for kind in KINDS if counts[kind]},
        }
        writer.add_key_value_metadata({"facts": json.dumps(facts)})


def _tell(path: str, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    left_out = f"; {facts['left_out']}" if facts["left_out"] else ""
    say(f"{path}: {facts['documents']:,} documents{left_out}")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in facts["kinds"].items())
    say(f"pairs made of them: {kinds or 'none'}")


def _number(path: str) -> int:
    """A document's 64-bit number, from its path."""
    digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _key(files: Sequence[str], kinds: Sequence[str]) -> str:
    """Changes with the files' names, sizes and times of change, and with the kinds of pairs."""
    digest = hashlib.sha256(f"{FORMAT} {sorted(kinds)}".encode())
    for file in files:
        with contextlib.suppress(OSError):  # the reader counts it
            status = os.stat(file)
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
