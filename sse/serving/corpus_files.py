"""The input files of a corpus, and the shards (output files) that they make.

A path may be local or a URL such as `s3://...`, through fsspec. An input file makes one shard, but
a parquet file of many rows makes several, cut at its row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sse.common.errors import UserError
from sse.text.parquet_tables import open_parquet
from sse.text.record_files import file_system, kind_of

FOOTERS = 8  # parquet footers read at a time


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus: its full name, `json` or `parquet`, and its size in bytes."""

    url: str
    kind: str
    size: int


@dataclass(frozen=True)
class Shard:
    """The input of one output file: a file of JSON lines, or row groups of a parquet file."""

    number: int
    url: str  # of the input file
    kind: str  # `json` or `parquet`
    start: int = 0  # the first row group; 0 for JSON lines
    stop: int = 0  # the row group after the last; 0 for JSON lines
    first: int = 0  # the number of the shard's first row in the input file


def find_files(source: str) -> list[InputFile]:
    """The data files of a path, a folder or a glob, sorted by name, without empty files.

    Raises:
        UserError: no such path, no data file, two kinds of files, or only empty files.
    """
    kinds = "jsonl, jsonl.gz or parquet"
    system, path = file_system(source)
    if any(mark in source for mark in "*?["):
        names = [name for name in system.glob(path) if not system.isdir(name)]
    elif system.isdir(path):
        names = [n for n in system.find(path) if not _hidden(n[len(path.rstrip("/")) :])]
    elif system.exists(path):
        names = [path]
    else:
        raise UserError(f"{source}: no such file or folder")
    files = [
        InputFile(str(system.unstrip_protocol(name)), kind, int(system.size(name) or 0))
        for name in sorted(names)
        if (kind := _kind(name))
    ]
    if not files:
        raise UserError(f"{source}: no file of a known kind; give {kinds}")
    if len({file.kind for file in files}) > 1:
        raise UserError(f"{source}: holds parquet and JSON lines: encode them one after the other")
    if not any(file.size for file in files):
        raise UserError(f"{source}: empty, expected texts")
    return [file for file in files if file.size]


def _kind(name: str) -> str | None:
    kind = kind_of(Path(name))
    return kind if kind in ("json", "parquet") and not name.endswith(".json") else None


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def shards_of(files: Sequence[InputFile], rows: int) -> list[Shard]:
    """All shards, in order: one per file of JSON lines, one or more per parquet file.

    A shard of a parquet file ends with the row group that brings it to at least `rows` rows.
    No rows at all raise UserError.
    """
    with ThreadPoolExecutor(FOOTERS) as pool:
        cuts = list(pool.map(lambda file: _cuts(file, rows), files))
    places = [(file, cut) for file, bounds in zip(files, cuts, strict=True) for cut in bounds]
    if not places:
        raise UserError(f"{files[0].url}: no rows, expected texts")
    return [Shard(number, file.url, file.kind, *cut) for number, (file, cut) in enumerate(places)]


def _cuts(file: InputFile, rows: int) -> list[tuple[int, int, int]]:
    """(first row group, the one after the last, first row) of each shard of a file."""
    if file.kind == "json":
        return [(0, 0, 0)]
    with open_parquet(file.url) as opened:
        sizes = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
    cuts, start, first, count = [], 0, 0, 0
    for stop, size in enumerate(sizes, 1):
        count += size
        if count >= rows or (stop == len(sizes) and count):
            cuts.append((start, stop, first))
            start, first, count = stop, first + count, 0
    return cuts
