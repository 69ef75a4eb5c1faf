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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from sse.common.digests import is_whole, write_digest
from sse.common.errors import UserError
from sse.common.files import atomic_file, expanded, write_json
from sse.data.columns import Column
from sse.data.pair_set import PairSet, make_pair_set
from sse.documents.document import Document
from sse.documents.files import find_files
from sse.documents.left_out import LeftOut
from sse.documents.office import LIBRARY
from sse.documents.pairs import KINDS, make_pairs
from sse.documents.read import read_document
from sse.documents.tables import is_table, table_documents

FORMAT = 3  # raise it when the same files give other pairs
SCHEMA = pa.schema(
    [("anchor", pa.string()), ("positive", pa.string())]
    + [("document", pa.uint64()), ("passage", pa.uint64())]
)
ROWS = 10_000  # of one batch: the most that are in memory while they are made


def document_pairs(
    path: str,
    cache: Path,
    kinds: Sequence[str] = KINDS,
    strict: bool = False,
    cap: int | None = None,
    say: Callable[[str], None] = print,
) -> PairSet:
    """The pairs of the documents in a folder, of one document, or of a table's rows.

    Args:
        path: the folder or the file; a table (jsonl, csv, tsv, parquet) has a document a row.
        cache: a folder that keeps the pairs for the next run with the same files.
        kinds: which kinds of pairs, of `KINDS`.
        strict: refuse a folder of which something cannot be read.
        cap: at most this many pairs, evenly spread.
        say: takes two lines: what was read and left out, and the pairs of each kind.

    Raises:
        UserError: no such path, no document, no pairs, or with `strict` anything left out.
    """
    import datasets

    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"`document_pairs` has '{kind}': choose of {', '.join(KINDS)}")
    left_out = LeftOut()
    files = list(find_files(expanded(path), left_out))
    store = cache / f"documents-{_key(files, kinds)}.arrow"
    if not is_whole(store) or not is_whole(store.with_suffix(".json")):
        facts = _write(store, path, files, kinds, left_out)
        write_digest(store)
        write_json(store.with_suffix(".json"), facts)
        write_digest(store.with_suffix(".json"))
    facts = json.loads(store.with_suffix(".json").read_text("utf-8"))
    report = _report(path, facts)
    for line in report:
        say(line)
    if strict and facts["left_out"]:
        raise UserError(f"{path}: {facts['left_out']}: mend or move them, or drop `strict`")
    table = pa.ipc.open_file(pa.memory_map(str(store))).read_all()
    if not len(table):
        raise UserError(
            f"{path}: {facts['documents']:,} documents and no pairs: their texts have no headings "
            "and no paragraphs of several sentences; give other documents"
        )
    if cap is not None and cap < len(table):
        table = table.take(np.arange(cap, dtype=np.int64) * len(table) // cap)
    columns = [Column("anchor", "anchor"), Column("positive", "positive")]
    dataset = datasets.Dataset(table.select(["anchor", "positive"]))
    numbers = [table.column(name).to_numpy() for name in ("document", "passage")]
    groups = np.stack(numbers, axis=1)
    return make_pair_set(Path(path).resolve().name, dataset, columns, report, groups=groups)


def _write(
    store: Path, path: str, files: Sequence[str], kinds: Sequence[str], left_out: LeftOut
) -> dict[str, Any]:
    """Make the pairs of the files and write them; counts of what was read and left out."""
    counts: Counter[str] = Counter()
    read = 0

    def documents() -> Iterator[Document]:
        nonlocal read
        if is_table(path):
            given, unit = table_documents(path), " rows"
        else:
            found = (read_document(file, left_out) for file in files)
            given, unit = filter(None, found), " files"
        total = None if is_table(path) else len(files)
        for document in tqdm(given, "reading documents", total, unit=unit, disable=None):
            read += 1
            yield document

    rows: list[dict[str, Any]] = []
    with atomic_file(store) as temporary, pa.ipc.new_file(str(temporary), SCHEMA) as writer:
        for name, pairs in make_pairs(documents(), kinds):
            within = os.path.relpath(name, path)
            for pair in pairs:
                numbers = {
                    "document": _number(within),
                    "passage": _number(f"{within}:{pair.passage}"),
                }
                rows.append({**pair._asdict(), **numbers})
            counts.update(pair.kind for pair in pairs)
            if len(rows) >= ROWS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return {
        "documents": read,
        "left_out": left_out.summary() if left_out else "",
        "kinds": {kind: counts[kind] for kind in KINDS if counts[kind]},
    }


def _report(path: str, facts: dict[str, Any]) -> list[str]:
    left_out = f"; {facts['left_out']}" if facts["left_out"] else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in facts["kinds"].items())
    return [
        f"{path}: {facts['documents']:,} documents{left_out}",
        f"pairs made of them: {kinds or 'none'}",
    ]


def _number(name: str) -> int:
    """The 64-bit number of a document, from its path within the folder, or of its passage."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _key(files: Sequence[str], kinds: Sequence[str]) -> str:
    """Changes with the files' names, sizes and times of change, the kinds, and the extra."""
    extra = find_spec(LIBRARY) is not None
    digest = hashlib.sha256(f"{FORMAT} {sorted(kinds)} {extra}".encode())
    for file in files:
        with contextlib.suppress(OSError):  # the reader counts it
            status = os.stat(file)
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
