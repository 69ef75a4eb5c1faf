"""A folder that a web server gives to browsers: the model, the JavaScript module, a search page.

index.html      a page that searches the passages while one types
sse.mjs         text -> token ids -> mean of rows -> norm; no dependency, also for Node
passages.json   the passages as a list of texts; the page encodes them when it opens
model/          the model as `sse.model.quantise.write_compact` writes it
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.files import atomic_folder
from sse.documents.corpus import corpus_texts
from sse.documents.left_out import LeftOut
from sse.model.folder import read_folder
from sse.model.quantise import save_compact, truncate

ROWS = ("float32", "int8", "int4")
PARTS = {
    "model": "WordPiece",
    "normalizer": "BertNormalizer",
    "pre_tokenizer": "BertPreTokenizer",
}
RULES = ("normalized", "single_word", "lstrip", "rstrip")  # of added tokens
PAGE = ("index.html", "sse.mjs")
MAX_PASSAGES = 20_000  # a browser encodes them in some seconds


def write_web(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rows: str = "int8",
    dim: int | None = None,
    texts: str | os.PathLike[str] | None = None,
    column: str | None = None,
) -> list[str]:
    """Write the model in `source` as a folder for a web server.

    Args:
        source: a folder of any layout that `sse.model.folder` knows.
        target: a new or empty folder, or one that was written so; written whole or not at all.
        rows: `float32`, `int8` or `int4`, as in `sse.model.quantise`.
        dim: keep the first `dim` dimensions only.
        texts: what the page searches: a file or folder for `sse.documents.corpus.corpus_texts`.
        column: the column of the texts, where the file has several.

    Returns:
        What was written and how to open it, one sentence each.

    Raises:
        UserError: a tokenizer that the module cannot run, other rows, too many passages, or a
            target that holds anything else.
    """
    model, target = read_folder(source), Path(target)
    _check_target(target)
    if rows not in ROWS:
        raise UserError(f"rows '{rows}': a web folder holds {', '.join(ROWS)}")
    check_tokenizer(model.tokenizer)
    if dim is not None:
        model = truncate(model, dim)
    notes = [f"open it with: python -m http.server -d {target}"]
    passages: list[str] = []
    if texts is not None:
        left_out = LeftOut()
        passages = _passages(texts, column, left_out)
        notes.insert(0, f"{len(passages):,} passages of {texts}")
        if left_out:
            notes.insert(1, left_out.summary())
    with atomic_folder(target) as folder:
        for name in PAGE:
            (folder / name).write_bytes(files("sse.web").joinpath("page", name).read_bytes())
        (folder / "passages.json").write_text(json.dumps(passages, ensure_ascii=False), "utf-8")
        (folder / "model").mkdir()
        save_compact(replace(model, frequencies=None), rows, folder / "model")
    return notes


def check_tokenizer(path: Path) -> None:
    """UserError for a part of a tokenizer.json that the module does not run."""
    way_out = "export an ONNX file for transformers.js"
    spec: dict[str, Any] = json.loads(path.read_text("utf-8"))
    for part, kind in PARTS.items():
        found = (spec.get(part) or {}).get("type", "none")
        if found != kind:
            raise UserError(
                f"{path}: its {part} is {found}, and the web module runs {kind} only: {way_out}"
            )
    for token in spec.get("added_tokens") or []:
        for rule in RULES:
            if token.get(rule):
                raise UserError(
                    f"{path}: its token {token['content']!r} is {rule}, and the web module runs no "
                    f"such token: {way_out}"
                )


def _check_target(target: Path) -> None:
    if target.is_file():
        raise UserError(f"{target} is a file: give a folder to write the web page to")
    if target.is_dir() and any(target.iterdir()) and not (target / PAGE[1]).exists():
        raise UserError(f"{target} holds other files: give an empty or a new folder")


def _passages(texts: str | os.PathLike[str], column: str | None, left_out: LeftOut) -> list[str]:
    """The texts that are not blank; half a surrogate pair is replaced, since JSON holds none."""
    found = corpus_texts(texts, None, column, left_out)
    valid = (text.encode("utf-8", "replace").decode() for text in found)
    passages = list(islice(filter(str.strip, valid), MAX_PASSAGES + 1))
    if len(passages) > MAX_PASSAGES:
        raise UserError(
            f"`texts` {texts} holds more than the {MAX_PASSAGES:,} passages that a page searches: "
            "give fewer, or make an index and use `sse serve`"
        )
    return passages
