"""What a folder of shards was made of, so that a later run goes on with it or refuses.

Two runs with equal manifests make equal shards. Beside it stand the pieces, in the order of their
shards: a run that goes on cuts nothing again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.serving.corpus_files import InputFile, Piece, cut
from sse.serving.shards import MANIFEST, Job, Store

FORMAT = 1


def manifest_of(job: Job, files: Sequence[InputFile], shard_rows: int) -> dict[str, Any]:
    """What the shards are made of; two runs with equal manifests make equal shards."""
    folder, digest = Path(job.model), hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return {
        "format": FORMAT,
        "model": digest.hexdigest(),
        "dim": job.dim,
        "precision": job.precision,
        "prompt": job.prompt,
        "normalize": job.normalize,
        "text": job.columns.text,
        "columns": {field.name: str(field.type) for field in job.schema},
        "shard_rows": shard_rows,
        "inputs": [[file.url, file.size] for file in files],
    }


def pieces_of(
    store: Store, manifest: dict[str, Any], files: Sequence[InputFile], shard_rows: int
) -> list[Piece]:
    """The pieces: those of the run that began here, or new ones.

    Raises:
        UserError: shards of another model, other input or other options; a folder not of shards.
    """
    names = store.names()
    if MANIFEST in names:
        try:
            before = json.loads(store.read(MANIFEST))
            pieces = [Piece(*values) for values in before.pop("pieces")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{store.root}/{MANIFEST} is damaged: choose another folder") from None
        if difference := _difference(before, manifest):
            raise UserError(
                f"{store.root} was begun with {difference}: choose another folder, or the same "
                "model, input and options"
            )
        return pieces
    if strange := sorted(name for name in names if not name.startswith((".", "_"))):
        raise UserError(f"{store.root} holds {strange[0]} and no {MANIFEST}: name a new folder")
    pieces = cut(files, shard_rows)
    if not pieces:
        raise UserError(f"{files[0].url}: no rows, expected texts")
    with store.whole(MANIFEST) as path:
        whole = manifest | {"pieces": [list(asdict(piece).values()) for piece in pieces]}
        path.write_text(json.dumps(whole), "utf-8")
    return pieces


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing in which two manifests differ, in words."""
    for key in now:
        old, new = before.get(key), now[key]
        if old == new:
            continue
        if key == "model":
            return "another model (its files' hash differs)"
        if key != "inputs":
            return f"{key} {old!r}, not {new!r}"
        sizes, found = dict(old or []), dict(new)
        for url in sorted({*sizes, *found}):
            if sizes.get(url) != found.get(url):
                was, has = (
                    "absent" if size is None else f"{size:,} bytes"
                    for size in (sizes.get(url), found.get(url))
                )
                return f"another input: {url} was {was} and is {has}"
    return None
