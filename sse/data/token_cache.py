"""The token cache: a set is tokenised once, into memory-mapped flat arrays.

- One folder per (hash of the texts, tokenizer, format): per column `ids` and `offsets`, and one
  `text_ids`. `sse.data.pair_set` knows the hash of unchanged files without reading them.
- Files are only appended to. After each chunk a small record with their lengths and checksums is
  renamed into place. A killed build goes on from the last record; a set is whole when its record
  counts all rows.
- Each start compares the checksums, and builds a damaged cache again.
- A lock lets several runs share one build. Memory stays at a chunk, whatever the set's size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sse.common.files import write_json
from sse.common.terminal import Minutes
from sse.data.pair_set import PairSet
from sse.text.token_batch import TokenBatch
from sse.text.tokenizer import TextTokenizer

FORMAT = 1  # raise it when what the files mean changes: old caches are then left alone
RECORD = "record.json"
RECORD_ROWS = 50_000  # a record costs two file-system calls: not after every chunk


@dataclass(frozen=True)
class TokenizedSet:
    """The tokens of a `PairSet`, memory-mapped."""

    name: str
    columns: tuple[str, ...]  # the roles: "anchor", "positive", "negative_1", ...
    tokens: tuple[TokenBatch, ...]  # one per column; uint16 where the vocabulary fits
    text_ids: NDArray[np.uint64]  # (rows, columns), a hash of each text

    def __len__(self) -> int:
        return len(self.text_ids)


def tokenize_set(
    pair_set: PairSet,
    tokenizer: TextTokenizer,
    folder: str | os.PathLike[str],
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> TokenizedSet:
    """The tokens of `pair_set`, from the cache in `folder` or built there.

    Any number of sets and runs share the folder. `say` takes a line where another run is waited
    for, and where a damaged cache is built again; by default it goes to stderr.
    """
    say = say or (lambda line: print(line, file=sys.stderr))  # noqa: T201  the default channel
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    target = Path(folder) / _key(pair_set, tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    build = _Build(pair_set, tokenizer, target, np.dtype(dtype), say)
    with _locked(target.with_name(f"{target.name}.lock"), pair_set.name, say):
        if not build.is_whole():
            build.run(progress)
    return build.open()


def text_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """A 64-bit hash of each text, the same on every machine."""
    digests = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for text in texts
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def _key(pair_set: PairSet, tokenizer: TextTokenizer) -> str:
    """Folder name: readable, and a hash of everything that decides the content."""
    content = f"{FORMAT} {pair_set.fingerprint} {tokenizer.fingerprint} {pair_set.columns}"
    name = re.sub(r"[^\w.-]+", "-", pair_set.name)[:40]
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:24]}"


class _Build:
    """One cache folder: its files, its record, and how to fill it."""

    def __init__(
        self,
        pair_set: PairSet,
        tokenizer: TextTokenizer,
        folder: Path,
        dtype: np.dtype,
        say: Callable[[str], None],
    ) -> None:
        self.pair_set, self.tokenizer, self.folder = pair_set, tokenizer, folder
        self.dtype, self.say = dtype, say
        self.names = ["text_ids"]
        for column in range(len(pair_set.columns)):
            self.names += [f"ids_{column}", f"offsets_{column}"]

    def is_whole(self) -> bool:
        """Whether all rows are there and every byte is as it was written."""
        if not (self.folder / RECORD).exists():
            return False
        record = self._record()
        if record is None or not self._sound(record):
            self.say(f"token cache of {self.pair_set.name}: damaged, so it is built again")
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            return False
        return bool(record["rows"] == len(self.pair_set))

    def run(self, progress: bool) -> None:
        """Tokenise the rows that the record lacks."""
        record = self._record() or self._start()
        with contextlib.ExitStack() as stack:
            files = {}
            for name in self.names:
                file = stack.enter_context(open(self.folder / name, "ab", buffering=0))
                # What a killed run wrote after its last record goes.
                file.truncate(record["files"][name]["bytes"])
                files[name] = file
            title, total = f"tokenising {self.pair_set.name}", len(self.pair_set)
            minutes = Minutes(title, total, record["rows"]) if progress else None
            bar = stack.enter_context(
                tqdm(
                    total=total,
                    initial=record["rows"],
                    desc=title,
                    unit=" rows",
                    unit_scale=True,
                    disable=None if progress else True,
                )
            )
            recorded = record["rows"]
            for texts, hashes in _ahead(self._chunks(record["rows"])):
                self._append(files, record, texts, hashes)
                bar.update(len(hashes))
                if minutes:
                    minutes.update(len(hashes))
                if record["rows"] - recorded >= RECORD_ROWS:
                    write_json(self.folder / RECORD, record)
                    recorded = record["rows"]
            for file in files.values():
                os.fsync(file.fileno())
            write_json(self.folder / RECORD, record)

    def open(self) -> TokenizedSet:
        """The memory-mapped arrays."""
        columns = range(len(self.pair_set.columns))
        text_ids = _mapped(self.folder / "text_ids", np.dtype(np.uint64))
        tokens = [
            TokenBatch(
                _mapped(self.folder / f"ids_{column}", self.dtype),
                _mapped(self.folder / f"offsets_{column}", np.dtype(np.int64)),
            )
            for column in columns
        ]
        hashes, roles = text_ids.reshape(-1, len(columns)), self.pair_set.columns
        return TokenizedSet(self.pair_set.name, roles, tuple(tokens), hashes)

    def _chunks(self, start: int) -> Iterator[tuple[list[list[str]], NDArray[np.uint64]]]:
        for texts in self.pair_set.chunks(start):
            yield texts, np.stack([text_hashes(column) for column in texts], axis=1)

    def _append(
        self,
        files: dict[str, Any],
        record: dict[str, Any],
        texts: Sequence[Sequence[str]],
        hashes: NDArray[np.uint64],
    ) -> None:
        parts = {"text_ids": hashes}
        for column, column_texts in enumerate(texts):
            ragged = self.tokenizer.encode(column_texts)
            before = record["files"][f"ids_{column}"]["bytes"] // self.dtype.itemsize
            parts[f"ids_{column}"] = ragged.ids.astype(self.dtype)
            parts[f"offsets_{column}"] = ragged.offsets[1:] + before
        for name, part in parts.items():
            _write(files[name], part, record["files"][name])
        record["rows"] += len(hashes)

    def _start(self) -> dict[str, Any]:
        """An empty cache: no rows, and the first offset of each column."""
        record: dict[str, Any] = {"rows": 0, "format": FORMAT, "files": {}}
        for name in self.names:
            record["files"][name] = {"bytes": 0, "crc32": 0}
            with open(self.folder / name, "wb", buffering=0) as file:
                if name.startswith("offsets"):
                    _write(file, np.zeros(1, np.int64), record["files"][name])
        return record

    def _record(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.folder / RECORD).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def _sound(self, record: dict[str, Any]) -> bool:
        """Whether the files begin with the bytes that the record counts."""
        whole = record.get("rows") == len(self.pair_set)
        row = 8 * len(self.pair_set.columns)
        try:
            return (
                record.get("format") == FORMAT
                and sorted(record["files"]) == sorted(self.names)
                and record["files"]["text_ids"]["bytes"] == record["rows"] * row
                and all(
                    _crc32(self.folder / name, entry["bytes"], exactly=whole) == entry["crc32"]
                    for name, entry in record["files"].items()
                )
            )
        except (OSError, KeyError, TypeError):
            return False


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each fetched while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        end = object()
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item


def _write(file: BinaryIO, part: NDArray[Any], entry: dict[str, int]) -> None:
    """Append an array and account for it."""
    data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    entry["bytes"] += len(data)
    entry["crc32"] = zlib.crc32(data, entry["crc32"])
    while len(data):
        data = data[file.write(data) :]


def _crc32(path: Path, size: int, *, exactly: bool) -> int | None:
    """Checksum of the first `size` bytes; None when there are fewer, or more and `exactly`."""
    if exactly and path.stat().st_size != size:
        return None
    crc = 0
    with open(path, "rb") as file:
        while size > 0:
            block = file.read(min(size, 1 << 24))
            if not block:
                return None
            crc = zlib.crc32(block, crc)
            size -= len(block)
    return crc


def _mapped(path: Path, dtype: np.dtype) -> NDArray[Any]:
    """The file as a read-only array; nothing can be mapped of an empty file."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


@contextlib.contextmanager
def _locked(path: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; it stays behind, as removing it would race."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"token cache of {name}: another run is at it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
