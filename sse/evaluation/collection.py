"""Retrieval collections: folders in the BEIR layout, and held-out pairs.

- A document's text is its title, a space and its text, as in BEIR, mteb and sentence-transformers.
- A judgement above 0 means relevant. Queries without a relevant document are not evaluated, as in
  sentence-transformers.
- A document with the query's own id is a candidate, as in sentence-transformers. BEIR and mteb
  drop it, which matters for ArguAna and Quora only.
- Every file may be gzipped. An error names file, line and value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.text.record_files import BadFile, BadValue, numbered, open_bytes, or_raise
from sse.text.records import Checked, json_records, line_records
from sse.text.values import document_text, shown, text_in, text_of, value_in

Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and the judgements of documents for queries."""

    name: str
    corpus_ids: list[str]
    corpus: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: Qrels

    def judged(self) -> Collection:
        """The same collection without the queries that have no relevant document."""
        texts = {
            query_id: text
            for query_id, text in zip(self.query_ids, self.queries, strict=True)
            if any(grade > 0 for grade in self.qrels.get(query_id, {}).values())
        }
        return replace(self, query_ids=[*texts], queries=[*texts.values()])


def load_beir(folder: str | Path, split: str | None = None) -> Collection:
    """The collection in `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` of a folder.

    Queries that the split does not judge are left out, as several splits share one file of queries.

    Args:
        folder: its name becomes the collection's name.
        split: which judgements; by default `test`, or the only split.

    Raises:
        UserError: a missing, empty, truncated or malformed file, an id that occurs twice, or
            judgements that name an unknown id.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give a folder in the BEIR layout")
    corpus = _texts(_find(root, "corpus.jsonl"))
    queries_file = _find(root, "queries.jsonl")
    queries = _texts(queries_file)
    qrels_file = _qrels_file(root, split)
    qrels = _qrels(qrels_file, queries, corpus, queries_file.name)
    collection = Collection(
        root.resolve().name, [*corpus], [*corpus.values()], [*queries], [*queries.values()], qrels
    ).judged()
    if not collection.queries:
        raise UserError(f"{qrels_file}: no judgement above 0: there is nothing to find")
    return collection


def pairs_collection(name: str, anchors: list[str], positives: list[str]) -> Collection:
    """Held-out pairs as a collection: each distinct anchor against all distinct positives.

    Equal texts are one query or one document. So all positives of one anchor are its relevant
    documents.

    Raises:
        UserError: the two lists differ in length or are empty.
    """
    if len(anchors) != len(positives) or not anchors:
        raise UserError(
            f"{name}: {len(anchors)} anchors and {len(positives)} positives: "
            "give as many of each, at least one"
        )
    # Zeros before the numbers make the order of the ids the order of first appearance.
    corpus = {text: f"d{i:08d}" for i, text in enumerate(dict.fromkeys(positives))}
    queries = {text: f"q{i:08d}" for i, text in enumerate(dict.fromkeys(anchors))}
    qrels: Qrels = {query_id: {} for query_id in queries.values()}
    for anchor, positive in zip(anchors, positives, strict=True):
        qrels[queries[anchor]][corpus[positive]] = 1
    return Collection(name, [*corpus.values()], [*corpus], [*queries.values()], [*queries], qrels)


def _find(root: Path, name: str) -> Path:
    for candidate in (root / name, root / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise UserError(f"{root / name}: no such file: a BEIR folder needs {name} (or {name}.gz)")


def _qrels_file(root: Path, split: str | None) -> Path:
    files = {p.name.split(".")[0]: p for p in sorted((root / "qrels").glob("*.tsv*"))}
    if split is None:
        split = next(iter(files)) if len(files) == 1 else "test"
    if split not in files:
        splits = f"there is {', '.join(files)}" if files else "the folder has no .tsv file"
        raise UserError(f"{root / 'qrels' / (split + '.tsv')}: no such file: {splits}")
    return files[split]


def _read(path: Path, parse: Callable[..., Checked[None]], check: Callable[[Any], None]) -> None:
    """Hand each record of a file, by `json_records` or `line_records`, to `check`.

    The first fault, or a file without records, raises UserError.
    """
    empty = True
    with open_bytes(path) as file:
        for _ in or_raise(parse(numbered(file, str(path)), str(path), check)):
            empty = False
    if empty:
        raise BadFile(str(path), "the file is empty")


def _texts(path: Path) -> dict[str, str]:
    """Id -> text of a corpus or queries file."""
    texts: dict[str, str] = {}

    def add(values: dict[str, Any]) -> None:
        identity, text = _document(values)
        if identity in texts:
            raise BadValue(f"the id {identity!r} occurs twice: ids must be unique")
        texts[identity] = text

    _read(path, json_records, add)
    return texts


def _document(values: dict[str, Any]) -> tuple[str, str]:
    """(id, title and text) of a record; an id may be a whole number."""
    identity = value_in(values, "_id")
    whole = isinstance(identity, int) and not isinstance(identity, bool)
    title = text_in(values, "title") if values.get("title") is not None else ""
    text = document_text(title, text_in(values, "text"))
    return str(identity) if whole else text_of(identity, "_id"), text


def _qrels(path: Path, queries: dict[str, str], corpus: dict[str, str], queries_name: str) -> Qrels:
    """Judgements; the first line is a header if its last field is no whole number."""
    qrels: Qrels = {}
    first = True

    def add(line: str) -> None:
        nonlocal first
        query_id, corpus_id, score = _fields(line)
        grade, header, first = _whole(score), first, False
        if grade is None:
            if header:
                return
            raise BadValue(f"the score {score!r} is not a whole number")
        if query_id not in queries:
            raise BadValue(f"unknown query id {query_id!r}: {queries_name} has none such")
        if corpus_id not in corpus:
            raise BadValue(f"unknown corpus id {corpus_id!r}: the corpus has none such")
        before = qrels.setdefault(query_id, {}).setdefault(corpus_id, grade)
        if before != grade:
            pair = f"{query_id!r} with {corpus_id!r}"
            raise BadValue(f"{pair} is judged twice, {before} and {score}: keep one")

    _read(path, line_records, add)
    return qrels


def _fields(line: str) -> list[str]:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3:
        raise BadValue(
            f"{shown(line.strip())} has {len(fields)} tab-separated fields, "
            "not query-id, corpus-id, score"
        )
    return fields


def _whole(text: str) -> int | None:
    """A whole number of at most nine digits; None for any other text."""
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) else None
