"""Sets of (anchor, positive, negatives...) texts, from files, folders, globs and the hub.

- A `PairSet` is a set that has been read and checked: every value is text, none is null.
- Rows stay in memory-mapped Arrow tables; texts become Python strings a chunk at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sse.data.columns import Column, choose_columns
from sse.data.set_spec import SetSpec, as_spec

CHUNK_ROWS = 1_024
CHUNK_BYTES = 8_000_000


@dataclass(frozen=True)
class PairSet:
    """Rows of texts, checked.

    Attributes:
        name: how reports call the set.
        columns: the roles it has: "anchor", "positive", "negative_1", ...
        fingerprint: hash of all its texts, in order, column by column; where they came from
            does not enter.
        dataset: the `datasets.Dataset` that holds the rows.
        sources: the source column of each role, and the place within it for a list of texts.
        report: what a run may print about the set (one line each).
    """

    name: str
    columns: tuple[str, ...]
    fingerprint: str
    dataset: Any
    sources: tuple[Column, ...]
    report: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def texts(self, column: str, rows: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """The texts of one role, all or `rows` (any order, repeats allowed)."""
        source = self.sources[self.columns.index(column)]
        data = self.dataset.select_columns([source.name]).with_format("arrow")
        pick = slice(None) if rows is None else np.asarray(rows, np.int64).tolist()
        if isinstance(pick, list) and not pick:
            return []
        return source.of(data[pick]).to_pylist()

    def chunks(
        self, start: int = 0, rows: int = CHUNK_ROWS, size: int = CHUNK_BYTES
    ) -> Iterator[list[list[str]]]:
        """The rows from `start` on, in order: per chunk one list of texts per column.

        A chunk has at most `rows` rows and about `size` bytes (a longer row stands alone).
        """
        rest = self.dataset.select(range(start, len(self)))
        for table in _tables(rest, rows):
            step = max(1, min(len(table), len(table) * size // max(1, table.nbytes)))
            for first in range(0, len(table), step):
                part = table.slice(first, step)
                yield [source.of(part).to_pylist() for source in self.sources]


def make_pair_set(
    name: str, dataset: Any, sources: Sequence[Column], report: Sequence[str] = ()
) -> PairSet:
    """A `PairSet` over a dataset whose columns are known to be texts without nulls."""
    columns: list[str] = []
    for source in sources:
        negative = source.role.startswith("negative")
        columns.append(f"negative_{len(columns) - 1}" if negative else source.role)
    names = list(dict.fromkeys(source.name for source in sources))
    dataset = dataset.select_columns(names)
    fingerprint = _fingerprint(dataset, sources)
    return PairSet(name, tuple(columns), fingerprint, dataset, tuple(sources), tuple(report))


def load_sets(
    specs: Sequence[str | SetSpec | Mapping[str, Any]],
    cap: int | None = None,
    say: Callable[[str], None] = print,
) -> list[PairSet]:
    """Read and check the sets, one `PairSet` per file (or sharded file) and hub set.

    Args:
        specs: see `SetSpec` and `parse_spec`; a mapping holds a `SetSpec`'s fields.
        cap: the most rows of each set whose own spec gives no cap.
        say: told, per set, how many pairs it has and which columns were taken.

    Raises:
        UserError: anything wrong with a spec, a file, a value or the hub, in one line. All specs
            are looked at before the first file is read.
    """
    # `datasets` takes a second to import, and only reading needs it.
    from sse.data.sources import find_sources

    sources = find_sources([as_spec(spec) for spec in specs])
    sets = []
    for source in sources:
        dataset = source.read()
        spec = source.spec
        taken = choose_columns(source.label, source.files, spec, dataset)
        most = spec.cap if spec.cap is not None else cap
        rows = len(dataset)
        if most is not None and most < rows:
            # Spread evenly: sets come sorted by topic or with runs of equal anchors.
            dataset = dataset.select(np.arange(most, dtype=np.int64) * rows // most)
        pair_set = make_pair_set(source.name, dataset, taken)
        told = ", ".join(
            f"{role} <- {column.label}"
            for role, column in zip(pair_set.columns, taken, strict=True)
        )
        of = f" of {rows:,}" if len(pair_set) < rows else ""
        say(f"{source.name}: {len(pair_set):,}{of} rows; {told}")
        sets.append(pair_set)
    return sets


def _fingerprint(dataset: Any, sources: Sequence[Column]) -> str:
    """Hash of the texts in canonical form: per column the lengths and the UTF-8 bytes."""
    lengths = [hashlib.blake2b(digest_size=32) for _ in sources]
    contents = [hashlib.blake2b(digest_size=32) for _ in sources]
    for table in _tables(dataset, CHUNK_ROWS):
        for source, length, content in zip(sources, lengths, contents, strict=True):
            for array in source.of(table).chunks:
                length.update(np.asarray(pc.binary_length(array), np.int64).tobytes())
                content.update(_utf8(array))
    parts = [hash.digest() for pair in zip(lengths, contents, strict=True) for hash in pair]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _tables(dataset: Any, rows: int) -> Iterator[pa.Table]:
    """The rows of a `datasets.Dataset` in tables of at most `rows` rows, one chunk per column."""
    for table in dataset.with_format("arrow").iter(rows):
        yield table.combine_chunks()  # rows picked out of a larger set come as a chunk each


def _utf8(array: pa.Array) -> memoryview:
    """The UTF-8 bytes of a string array, joined, without a copy."""
    wide = pa.types.is_large_string(array.type)
    if not wide and not pa.types.is_string(array.type):
        array, wide = array.cast(pa.large_string()), True
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)
    first, last = bounds[array.offset], bounds[array.offset + len(array)]
    return memoryview(data)[int(first) : int(last)]
