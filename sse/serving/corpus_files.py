"""The input files of a corpus and the shards that they make.

- Files are found through fsspec: a path may be local or a URL such as `s3://...`.
- An input file makes one shard. A parquet file of many rows makes several, cut at row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sse.common.errors import UserError
from sse.text.parquet_tables import open_parquet
from sse.text.record_files import file_system, kind_of

OPENED = 8  # parquet files whose footers are read at a time


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus: its full name, `json` or `parquet`, and its size in bytes."""

    url: str
    kind: str
    size: int


@dataclass(frozen=True)
class Shard:
    """What one output file is made of: an input file, or a run of a parquet file's row groups.

    Attributes:
        number: of the shard.
        url: the input file.
        kind: `json` or `parquet`.
        start: first row group, and
        stop: the one after the last; both 0 of JSON lines.
        first: number of its first row in the file.
    """

    number: int
    url: str
    kind: str
    start: int = 0
    stop: int = 0
    first: int = 0


def find_files(source: str) -> list[InputFile]:
    """The data files that a path, a folder or a glob names, by name.

    Raises:
        UserError: nothing there, an unknown kind, two kinds, only empty files.
    """
    kinds = "jsonl, jsonl.gz or parquet"
    system, path = file_system(source)
    if any(mark in source for mark in "*?["):
        names = [name for name in system.glob(path) if not system.isdir(name)]
    elif system.isdir(path):
        names = [n for n in system.find(path) if not _hidden(n[len(path.rstrip("/")) :])]
    elif system.exists(path):
        if _kind(path) is None:
            raise UserError(f"{source}: unknown kind of file; give {kinds}")
        names = [path]
    else:
        raise UserError(f"{source}: no such file or folder")
    files = [
        InputFile(str(system.unstrip_protocol(name)), kind, int(system.size(name) or 0))
        for name in sorted(names)
        if (kind := _kind(name))
    ]
    if not files:
        raise UserError(f"{source}: holds no {kinds} file")
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

    A parquet file's shard ends with the row group that brings it to `rows` rows.

    Raises:
        UserError: no rows at all.
    """
    with ThreadPoolExecutor(OPENED) as pool:
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
