"""Arrow tables of a data set, run after run, in memory that does not grow with the set.

A mapped page counts as this process's memory from its first touch until the mapping goes, and a
data set's mapping stays. So pages are let go as soon as they have been read; the system still has
them in its file cache, and maps them again where they are asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

RELEASE = 64_000_000  # bytes read between two releases
_MADV_DONTNEED = 4


def tables(dataset: Any, rows: int, start: int = 0) -> Iterator[pa.Table]:
    """The rows of a `datasets.Dataset` from `start` on, in tables of at most `rows` rows."""
    files = [entry["filename"] for entry in dataset.cache_files]
    # An even spread: rows picked out of a larger set touch the pages between them too.
    row_bytes = dataset.data.nbytes / max(1, len(dataset))
    data, touched = dataset.with_format("arrow"), 0.0
    release(files)  # Arrow has read all of a file that it has just mapped
    for first in range(start, len(dataset), rows):
        table = data[first : first + rows]
        if table.column(0).num_chunks == len(table):
            table = table.combine_chunks()  # rows picked out of a larger set: a chunk each
        yield table
        touched += row_bytes * len(table)
        if touched >= RELEASE:
            release(files)
            touched = 0
    release(files)


def release(files: Collection[str]) -> None:
    """Let go of the pages of these files that this process has mapped, read-only.

    Nothing is lost: the next access maps a page again. On Linux; elsewhere it does nothing.
    """
    if not files:
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(maxsplit=5)
                # A page that can be written could hold what no file has.
                if len(fields) == 6 and "w" not in fields[1] and fields[5] in files:
                    low, high = (int(bound, 16) for bound in fields[0].split("-"))
                    size = ctypes.c_size_t(high - low)
                    libc.madvise(ctypes.c_void_p(low), size, _MADV_DONTNEED)
