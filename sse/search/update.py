"""Bring an index up to date with a folder: new, changed, moved and deleted files, by their hashes.

- A row is written with its document's hash. So what a stopped run has written is found again, and
  the next run goes on behind it.
- Rows of the old contents stay visible to searches until the whole update is done (`store.py`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sse.common.errors import UserError
from sse.common.hub import model_folder
from sse.documents.left_out import LeftOut
from sse.documents.passages import OVERLAP, SIZE
from sse.model.convert.fit import fit
from sse.search.columns import Columns
from sse.search.models import keep_model, model_digest, open_model, probe
from sse.search.rows import (
    Held,
    Key,
    New,
    append_rows,
    delete_documents,
    held_documents,
    in_commits,
    with_last,
)
from sse.search.sources import File, find, lies_in, rows_of
from sse.search.store import Settings, Store, settings_of
from sse.serving.encoder import Encoder


@dataclass
class Summary:
    """What an update did.

    Attributes:
        passages: rows that the index holds now.
        counts: documents by what became of them: new, changed, moved, deleted, unchanged.
        left_out: files that were not read, and why.
    """

    passages: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class Options:
    """How to index; None stands for the index's own setting, or the default of a new index.

    Attributes:
        dim: the first dimensions only.
        size: characters of a passage.
        overlap: characters that a passage repeats of the one before.
        column: column of the texts of tables.
        form: the format of one file that is read by rows: lines, jsonl, csv, tsv or parquet.
        keep: columns of tables to keep, for filters and results.
        fit: fit the model to the documents of a new index (`sse.fit`).
        batch_size: texts a thread encodes at a time.
        fast: see `sse.Encoder`.
    """

    dim: int | None = None
    size: int | None = None
    overlap: int | None = None
    column: str | None = None
    form: str | None = None
    keep: Sequence[str] = ()
    fit: bool = False
    batch_size: int = 1024
    fast: bool = True


def update_index(
    source: str | os.PathLike[str],
    name: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    options: Options = Options(),  # noqa: B008  frozen
    force: bool = False,
    strict: bool = False,
    progress: Callable[[int], object] = lambda n: None,
) -> Summary:
    """Make an index of a folder or a file, or bring it up to date with it.

    Files below `source` that are gone leave the index; those of other folders stay. An update that
    is stopped goes on when it is started again, and meanwhile the old index answers.

    Args:
        source: a folder or a file.
        name: the index: a folder, or a URL of an object store.
        model: the model's folder; an index that exists has its own.
        options: see `Options`.
        force: make the index anew.
        strict: refuse to leave anything out.
        progress: called with the number of passages written since the last call.

    Raises:
        UserError: nothing to index, no model, a model or options other than the index's own,
            another writer, a broken row of a table, or with `strict` a file that was left out.
    """
    store, done = Store(name), Summary()
    table = None if force else store.latest()
    roots = sorted({key[0] for key in held_documents(table)}, key=len) if table else []
    scope, files = find(os.fspath(source), roots, done.left_out)
    encoder = None if model is None else Encoder(model, options.dim, fast=options.fast)
    if force and store.local and store.folder.is_file():
        store.folder.unlink()
    fresh = store.local and not store.folder.exists()
    try:
        with store.locked():
            table = None if force else store.latest()
            table, encoder = _prepare(store, table, encoder, options, scope)
            _bring(store, table, encoder, scope, files, options, done, progress)
            if strict:
                done.left_out.forbid()
            table.checkout_latest()
            if not table.count_rows():
                raise UserError(f"{source}: no text to index: {done.left_out.summary()}")
            done.passages = store.finish(table).count_rows()
    except UserError:
        if fresh:
            shutil.rmtree(store.folder, ignore_errors=True)
        raise
    return done


def delete_from_index(path: str | os.PathLike[str], name: str | os.PathLike[str]) -> Summary:
    """Take the documents at or below `path`, which may be gone, out of an index.

    Raises:
        UserError: no such index, or no such document in it.
    """
    store, done = Store(name), Summary()
    store.current()
    with store.locked():
        table = store.latest()
        scope = os.path.abspath(path)
        stored = [key for key in held_documents(table) if lies_in(os.path.join(*key[:2]), scope)]
        if not stored:
            raise UserError(f"{path}: {name} has no document there")
        delete_documents(table, stored)
        done.counts["deleted"] = len(stored)
        done.passages = store.finish(table).count_rows()
    return done


def _prepare(
    store: Store, table: Any | None, model: Encoder | None, options: Options, source: str
) -> tuple[Any, Encoder]:
    """The table and the model to write with; both are checked against each other."""
    if table is None:
        if model is None:
            raise UserError(f"{store.name} is new: name its model with `model`")
        _check_folder(store)
        return _create(store, model, options, source)
    settings = settings_of(table, store.name)
    again = "to make the index anew"
    if options.fit and not settings.origin:
        raise UserError(f"`fit`: {store.name} was made without: give `force` {again}")
    for key in ("dim", "size", "overlap", "column", "form"):
        asked, own = getattr(options, key), getattr(settings, key)
        if asked is not None and asked != own:
            raise UserError(f"{key} {asked!r}, but {store.name} has {own!r}: give `force` {again}")
    if model and model_digest(model.folder) not in (settings.digest, settings.origin):
        raise UserError(
            f"{store.name} was made with another model than {model.folder}: give `force` {again}"
        )
    if model and not settings.origin:
        model.dim = settings.dim
        return table, model
    return table, open_model(store, settings, fast=options.fast)


def _create(store: Store, model: Encoder, options: Options, source: str) -> tuple[Any, Encoder]:
    """A table without rows, and its model, which is copied into the index."""
    origin, folder = "", str(model_folder(model.folder).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        if options.fit:
            if not store.local:
                raise UserError(f"`fit`: {store.name} keeps no model: fit it with 'sse fit'")
            origin = model_digest(model.folder)
            fit(model.folder, source, Path(scratch, "model"), form=options.form,
                column=options.column)  # fmt: skip
            model = Encoder(Path(scratch, "model"), model.dim, fast=options.fast)
        settings = Settings(
            model.dim, folder, model_digest(model.folder), probe(model), options.size or SIZE,
            OVERLAP if options.overlap is None else options.overlap, options.column, options.form,
            origin,
        )  # fmt: skip
        keep_model(store, model, settings)
    if origin:
        model = open_model(store, settings, fast=options.fast)
    return store.create(settings), model


def _check_folder(store: Store) -> None:
    """Raise UserError where a new index would mix with files of others."""
    if store.local and store.folder.is_dir():
        others = {path.name for path in store.folder.iterdir()} - {
            ".lock", "models", "digests", "passages.lance",
        }  # fmt: skip
        if others:
            raise UserError(
                f"{store.name} is a folder with other files ({min(others)}): name a new one"
            )


def _bring(
    store: Store,
    table: Any,
    model: Encoder,
    scope: str,
    files: Sequence[File],
    options: Options,
    done: Summary,
    progress: Callable[[int], object],
) -> None:
    """Delete and write rows until the table holds `files`, and nothing else of `scope`."""
    settings = settings_of(table, store.name)
    stored = {
        key: value
        for key, value in held_documents(table).items()
        if lies_in(os.path.join(*key[:2]), scope)
    }
    wanted = {file.key: file for file in files}
    stale = [key for key in stored if key not in wanted]
    todo = [file for key, file in wanted.items() if key not in stored or not stored[key].whole]
    delete_documents(table, stale)
    columns = Columns(table, options.keep)

    def rows() -> Iterator[New]:
        for file in todo:
            skip, empty = stored[file.key].rows if file.key in stored else 0, True
            found = rows_of(file, settings, columns.wanted, done.left_out)
            for part, (row, last) in enumerate(with_last(found)):
                empty = False
                if part >= skip:
                    yield New(file, part, row, last)
            if empty:
                del wanted[file.key]

    for chunk in in_commits(rows()):
        vectors = model.encode([new.row.text for new in chunk], batch_size=options.batch_size)
        if not np.isfinite(vectors).all():
            raise UserError(f"{model.folder} gives vectors that are no numbers: train it again")
        append_rows(table, columns, chunk, vectors)
        progress(len(chunk))
    columns.check()
    _count(done.counts, stored, wanted, stale)


def _count(
    counts: Counter[str], stored: dict[Key, Held], wanted: dict[Key, File], stale: Sequence[Key]
) -> None:
    """Count the documents by what becomes of them."""
    old_places = {key[:2] for key in stale}
    places = {key[:2] for key in wanted}
    gone = Counter(key[2] for key in stale if key[:2] not in places)
    for key in wanted:
        if key in stored and stored[key].whole:
            counts["unchanged"] += 1
        elif key[:2] in old_places:
            counts["changed"] += 1
        elif gone[key[2]]:
            gone[key[2]] -= 1
            counts["moved"] += 1
        else:
            counts["new"] += 1
    counts["deleted"] += gone.total()
