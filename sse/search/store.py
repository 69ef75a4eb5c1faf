"""The folder of an index: a Lance table of passages, a copy of the model, digests of both.

    NAME/passages.lance      one row a passage; LanceDB opens it as the table `passages`
    NAME/models/DIGEST/      the model of its vectors, so the folder may move to another machine
    NAME/digests/VERSION.json

- The tag `current` names the version of the table that searches read. A writer adds versions, and
  moves the tag last. So beside a writer, or after a killed one, the old index answers whole.
- NAME may be a URL of an object store that Lance knows (`s3://...`). There the model stays outside,
  nothing is locked, and no digest is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from filelock import FileLock, Timeout

from sse.common.digests import digest_file
from sse.common.errors import UserError, first_line, import_extra
from sse.common.files import write_json

FORMAT = 1
STORES = ("s3", "gs", "az")  # the object stores whose URLs may be an index
TAG = "current"
KEPT = timedelta(minutes=10)  # how long a version stays that a running search may still read
# The table is written anew where it has more pieces, or a larger share of deleted rows, which
# BM25 would go on counting.
FRAGMENTS, DEAD = 32, 0.02
PARTS = 8  # pieces of an inverted index; to merge them takes as long as to make a new one
# Two inverted indexes, by the column they are of: the stems of the words, and their exact forms.
WORDS = {"text": "stems", "words": "forms"}
BASE = ("source", "path", "title", "heading", "position", "unit", "part", "last", "hash",
        "text", "words", "vector")  # fmt: skip  # the index's own columns
_KEY = b"sse"
_WAY_OUT = "index again with --force"
# ICU's word boundaries find the words of scripts without blanks; the rest is Lance's default.
KEYWORDS = {"base_tokenizer": "icu/split", "with_position": False}


@dataclass(frozen=True)
class Settings:
    """What an index was made with; an update goes on with the same."""

    dim: int
    model: str  # the folder it came from
    digest: str  # of the model's files
    probe: list[float]  # the vector of a fixed text
    size: int  # characters of a passage
    overlap: int
    column: str | None = None  # of the texts of tables
    form: str | None = None  # of one file that was read by rows, whatever its name
    origin: str = ""  # the digest of the model before it was fitted to the documents
    format: int = FORMAT


def schema(settings: Settings) -> pa.Schema:
    """The columns of a new table; the user's own ones are added when they are met."""
    fields = {
        "source": pa.string(),  # the folder that was indexed
        "path": pa.string(),  # of the document below `source`
        "title": pa.string(),
        "heading": pa.string(),
        "position": pa.int32(),  # a line, a row, ...: `unit` says what
        "unit": pa.string(),
        "part": pa.int32(),  # the passage's number in its document
        "last": pa.bool_(),  # whether the document ends with it
        "hash": pa.string(),  # of the document's bytes
        "text": pa.string(),  # title, headings and text
        "words": pa.string(),  # the distinct words of `text`, for matches of their exact forms
        "vector": pa.list_(pa.float32(), settings.dim),
    }
    return pa.schema(list(fields.items()), {_KEY: json.dumps(asdict(settings))})


def settings_of(table: Any, name: str) -> Settings:
    """The settings in a table's metadata; UserError if the table is none of an index."""
    try:
        values = json.loads((table.schema.metadata or {})[_KEY])
        if values["format"] != FORMAT:
            raise UserError(
                f"{name} has format {values['format']!r}, this version reads {FORMAT}: {_WAY_OUT}"
            )
        settings = Settings(**values)
        if not table.schema.field("vector").type.equals(pa.list_(pa.float32(), settings.dim)):
            raise ValueError("vectors of another size")
        return settings
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged(name, error) from None


def damaged(name: str, error: BaseException | str) -> UserError:
    """The error for an index that cannot be read."""
    reason = error if isinstance(error, str) else first_line(error)
    way_out = f"check bucket, address and keys, or {_WAY_OUT}" if "://" in name else _WAY_OUT
    return UserError(f"{name}: no index, or a damaged one ({reason}): {way_out}")


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise UserError for what Lance raises about a damaged table, a panic of its code included."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, pa.ArrowException) as error:
        raise damaged(name, error) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(name, error) from None


class Store:
    """The folder NAME of an index, or its URL."""

    def __init__(self, name: str | os.PathLike[str]) -> None:
        os.environ.setdefault("LANCE_LOG", "error")  # its warnings are for its own developers
        self.lance = import_extra("lance")
        self.name = _checked(os.fspath(name))
        self.local = "://" not in self.name
        self.folder = Path(self.name)
        self.uri = f"{self.name.rstrip('/')}/passages.lance"

    def current(self) -> Any:
        """The table that searches read.

        Raises:
            UserError: no index there, one of an older version, an unfinished or a damaged one.
        """
        self.check_kind()
        if self.local and not Path(self.uri).is_dir():
            raise UserError(f"{self.name}: no such index: make one with 'sse index'")
        with reading(self.name):
            if TAG not in self.lance.dataset(self.uri).tags.list():
                raise UserError(f"{self.name} is not finished: run the same 'sse index' again")
            return self.lance.dataset(self.uri, version=TAG)

    def version(self) -> int:
        """The number of the version that searches read."""
        with reading(self.name):
            return int(self.lance.dataset(self.uri).tags.list()[TAG]["version"])

    def latest(self) -> Any | None:
        """The table as the last writer left it, finished or not; None if there is none."""
        self.check_kind()
        if self.local and not Path(self.uri).is_dir():
            return None
        try:
            return self.lance.dataset(self.uri)
        except ValueError as error:
            if "not found" in str(error).lower():
                return None
            raise damaged(self.name, error) from None
        except OSError as error:
            raise damaged(self.name, error) from None

    def check_kind(self) -> None:
        """Raise UserError where NAME is a file: of an older version, or no index at all."""
        if not self.local or not self.folder.is_file():
            return
        with open(self.folder, "rb") as file:
            old = file.read(6) == b"ARROW1"
        what = "was made by an older version" if old else "is a file, and no index"
        raise UserError(f"{self.name} {what}: {_WAY_OUT}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer; UserError if another process writes.

        At a URL nothing is held; an error of the store is a UserError.
        """
        if not self.local:
            try:
                yield
            except OSError as error:
                raise damaged(self.name, error) from None
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.name}: another process is indexing into it: wait for its end"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def create(self, settings: Settings) -> Any:
        """A table without rows; one that exists keeps its versions."""
        mode = "create" if self.latest() is None else "overwrite"
        return self.lance.write_dataset(schema(settings).empty_table(), self.uri, mode=mode)

    def finish(self, table: Any) -> Any:
        """Index the words of new rows, and let searches read this version."""
        table.checkout_latest()
        known = {index.name for index in table.describe_indices()}
        if WORDS["text"] in known:
            facts = table.stats.index_stats(WORDS["text"])
            indexed = sum(part["num_docs"] for part in facts["indices"])
            dead = indexed + facts["num_unindexed_rows"] - table.count_rows()
            many = len(table.get_fragments()) > FRAGMENTS or dead > DEAD * table.count_rows()
            if many:
                table.optimize.compact_files(materialize_deletions_threshold=0.0)
            # New rows become a piece of their own. BM25 counts over all, so the scores are equal.
            merged = facts["num_indices"] if many or facts["num_indices"] >= PARTS else 0
            table.optimize.optimize_indices(num_indices_to_merge=merged)
        for column, name in WORDS.items():  # a killed run may have made one of them
            if name not in known:
                stem = column == "text"
                table.create_scalar_index(column, "INVERTED", name=name, stem=stem, **KEYWORDS)
        table.checkout_latest()
        self._write_digests(table)
        tags = table.tags
        (tags.update if TAG in tags.list() else tags.create)(TAG, table.version)
        table.cleanup_old_versions(older_than=KEPT, error_if_tagged_old_versions=False)
        self._tidy(table)
        return table

    def model_folder(self, settings: Settings) -> Path:
        """Where the index keeps the model."""
        return self.folder / "models" / settings.digest

    def verify(self, table: Any) -> None:
        """Compare the files of the version with their digests; UserError if one differs."""
        if not self.local:
            return
        try:
            listed = json.loads(self._digest_list(table.version).read_text("utf-8"))
            wrong = next((n for n, d in listed.items() if _digest(self.folder / n) != d), None)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise damaged(self.name, error) from None
        if wrong:
            raise damaged(self.name, f"{wrong} has changed")

    def _digest_list(self, version: int) -> Path:
        return self.folder / "digests" / f"{version}.json"

    def _write_digests(self, table: Any) -> None:
        """Record the digests of the version's files; those that were known are taken over."""
        if not self.local:
            return
        known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, LookupError):
            before = table.tags.list()[TAG]["version"]
            known = json.loads(self._digest_list(before).read_text("utf-8"))
        model = self.model_folder(settings_of(table, self.name))
        files = [path for path in model.rglob("*") if path.is_file()]
        for file in table.tracked_files(min_version=table.version).read_all().to_pylist():
            if file["version"] == table.version and file["type"] != "transaction file":
                files.append(Path(self.uri, file["path"]))
        names = sorted(path.relative_to(self.folder).as_posix() for path in files)
        # Lance never writes to a file again, and its names are random.
        digests = {name: known.get(name) or digest_file(self.folder / name) for name in names}
        self._digest_list(0).parent.mkdir(exist_ok=True)
        write_json(self._digest_list(table.version), digests)

    def _tidy(self, table: Any) -> None:
        """Remove the models and digests of versions that are gone."""
        if not self.local:
            return
        versions = {str(version["version"]) for version in table.versions()}
        for path in (self.folder / "digests").glob("*.json"):
            if path.stem not in versions:
                path.unlink(missing_ok=True)
        for path in (self.folder / "models").iterdir():
            if path != self.model_folder(settings_of(table, self.name)):
                shutil.rmtree(path, ignore_errors=True)


def _checked(name: str) -> str:
    """A folder, of `file://` too, or the URL of an object store; UserError for other URLs."""
    scheme, mark, path = name.partition("://")
    if not mark or scheme in STORES:
        return name
    if scheme == "file":
        return unquote(path)
    raise UserError(f"{name}: an index is a folder, or a URL of {', '.join(STORES)}")


def _digest(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:
        return None
