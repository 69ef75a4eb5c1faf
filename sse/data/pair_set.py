"""Sets of (anchor, positive, negatives...) texts, from files, folders, globs and the hub.

- A `PairSet` is a set that has been read and checked: every value is text, none is null.
- Rows stay in memory-mapped Arrow tables; texts become Python strings a chunk at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sse.common.digests import is_whole, write_digest
from sse.common.errors import UserError
from sse.common.files import write_json
from sse.data.columns import Chosen, Column, choose_columns, score_names
from sse.data.set_spec import SetSpec, as_spec

if TYPE_CHECKING:
    from sse.data.skip_rows import BadRows
    from sse.data.sources import Source

RECORD_FORMAT = 2  # raise it when the same files give other columns or another fingerprint
CHUNK_ROWS = 1_024
CHUNK_BYTES = 8_000_000


@dataclass(frozen=True)
class PairSet:
    """Rows of texts, checked."""

    name: str  # in reports
    columns: tuple[str, ...]  # the roles: "anchor", "positive", "negative_1", ...
    fingerprint: str  # hash of all texts, in order, column by column; their origin does not enter
    dataset: Any  # the `datasets.Dataset` that holds the rows
    sources: tuple[Column, ...]  # of each role
    report: tuple[str, ...] = ()  # lines that a run may print about the set
    # (n, 2) numbers of each row's document, which is held out as a whole, and of its passage
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def texts(self, column: str, rows: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """The texts of one role, all or `rows` (any order, repeats allowed)."""
        source = self.sources[self.columns.index(column)]
        data = self.dataset.select_columns([source.name]).with_format("arrow")
        pick = slice(None) if rows is None else np.asarray(rows, np.int64).tolist()
        if isinstance(pick, list) and not pick:
            return []
        texts: list[str] = source.of(data[pick]).to_pylist()
        return texts

    def scores(self) -> np.ndarray:
        """A teacher's scores of the positive and of each negative, float32 (rows, columns - 1).

        Raises:
            UserError: no negatives, a column that is missing, or a value that is no finite number.
        """
        names = score_names(self.sources)
        have = self.dataset.column_names
        lacking = ", ".join(name for name in names if name not in have)
        if len(names) < 2 or lacking:
            raise UserError(
                f"`distil` needs {f'the column {lacking}' if lacking else 'negatives'}, and the "
                f"set {self.name} has {', '.join(have)}: mine it with a teacher, or leave `distil` "
                "away"
            )
        data = self.dataset.select_columns(names).with_format("arrow")[:]
        columns = [data.column(name) for name in names]
        for name, column in zip(names, columns, strict=True):
            numbers = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
            if not numbers or column.null_count or not pc.all(pc.is_finite(column)).as_py():
                raise UserError(
                    f"the column {name} of the set {self.name} holds a value that is no finite "
                    "number: mine it again"
                )
        return np.column_stack([column.to_numpy() for column in columns]).astype(np.float32)

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
    name: str,
    dataset: Any,
    sources: Sequence[Column],
    report: Sequence[str] = (),
    fingerprint: str | None = None,
    groups: np.ndarray | None = None,
) -> PairSet:
    """A `PairSet` over a `datasets.Dataset` whose columns are known to be texts without nulls.

    `sources` begins with anchor and positive. Without `fingerprint` the texts are read for it.
    """
    roles: list[str] = []
    for source in sources:
        negative = source.role.startswith("negative")
        roles.append(f"negative_{len(roles) - 1}" if negative else source.role)
    scores = [name for name in score_names(sources) if name in dataset.column_names]
    names = [source.name for source in sources]
    dataset = dataset.select_columns(list(dict.fromkeys(names + scores)))
    fingerprint = fingerprint or _fingerprint(dataset, sources)
    return PairSet(name, tuple(roles), fingerprint, dataset, tuple(sources), tuple(report), groups)


def load_sets(
    specs: Sequence[str | SetSpec | Mapping[str, Any]],
    cap: int | None = None,
    say: Callable[[str], None] = print,
    cache: Path | None = None,
    columns: Mapping[str, str] | None = None,
    bad_rows: BadRows | None = None,
) -> list[PairSet]:
    """Read and check the sets, one `PairSet` per file (or sharded file) and hub set.

    Args:
        specs: see `SetSpec` and `parse_spec`; a mapping holds a `SetSpec`'s fields.
        cap: the most rows of each set whose own spec gives no cap.
        say: takes a line per set: how many pairs it has, and from which columns.
        cache: a folder that keeps the columns and the hash of a set's texts, so that the texts of
            unchanged files are not read again.
        columns: role -> column, for sets whose own spec does not name the role's.
        bad_rows: leave the bad rows of local files out; by default they raise.

    Raises:
        UserError: anything wrong with a spec, a file, a value or the hub, in one line. All specs
            are looked at before the first file is read.
    """
    # `datasets` takes a second to import, and only reading needs it.
    from sse.data.sources import find_sources

    wanted = [as_spec(spec) for spec in specs]
    if columns:
        wanted = [replace(spec, columns={**columns, **(spec.columns or {})}) for spec in wanted]
    sources = find_sources(wanted)
    if bad_rows:
        sources = bad_rows.leave_out(sources, say)
    return [_load(source, cap, say, cache) for source in sources]


def _load(
    source: Source, cap: int | None, say: Callable[[str], None], cache: Path | None
) -> PairSet:
    dataset, spec = source.read(), source.spec
    cap = cap if spec.cap is None else spec.cap
    path = cache / "sets" / f"{_key(dataset, spec, cap)}.json" if cache else None
    record = json.loads(path.read_text("utf-8")) if path and is_whole(path) else None
    if record:
        columns = [Column(**column) for column in record["columns"]]
        chosen = Chosen(columns, record["remarks"], record["ignored"])
    else:
        source.check(dataset)
        chosen = choose_columns(source.label, source.files, spec, dataset)
    rows = len(dataset)
    if cap is not None and cap < rows:
        # Spread evenly: sets come sorted by topic or with runs of equal anchors.
        dataset = dataset.select(np.arange(cap, dtype=np.int64) * rows // cap)
    fingerprint = record["fingerprint"] if record else None
    pair_set = make_pair_set(source.name, dataset, chosen.columns, fingerprint=fingerprint)
    if path and not record:
        write_json(path, {"fingerprint": pair_set.fingerprint, **asdict(chosen)})
        write_digest(path)
    of = f" of {rows:,}" if len(pair_set) < rows else ""
    say(f"{source.name}: {len(pair_set):,}{of} rows; {chosen.account(pair_set.columns)}")
    return pair_set


def _key(dataset: Any, spec: SetSpec, cap: int | None) -> str:
    """Hash of what decides a set's columns and texts.

    The fingerprint that `datasets` gives a dataset which it has just loaded stands for the Arrow
    file: for its revision on the hub, or for the paths and modification times of local files. A
    file that is changed without a new time goes unnoticed there, and so here.
    """
    content = (RECORD_FORMAT, dataset._fingerprint, spec.columns, spec.negatives, cap)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


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
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)
    first, last = bounds[array.offset], bounds[array.offset + len(array)]
    return memoryview(data)[int(first) : int(last)]
