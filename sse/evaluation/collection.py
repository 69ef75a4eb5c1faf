"""Retrieval collections: BEIR-layout folders, NanoBEIR, held-out pairs.

- A document's text is its title, a space and its text, stripped: what BEIR, mteb and
  sentence-transformers encode.
- A judgement above 0 is relevant; 0 and below are not. Queries without a relevant document are
  dropped when a collection is evaluated, as sentence-transformers does.
- A document whose id equals the query's is kept, as sentence-transformers keeps it (BEIR and mteb
  drop it, which matters for ArguAna and Quora only).
- Every file may be gzipped. An error names file, line and value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.text.record_files import BadFile, BadValue, Fault, numbered, open_bytes, or_raise
from sse.text.records import json_records, shown, text_in, text_of, value_in

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collection:
    """Documents, queries and the judgements that tie them: `qrels[query id][document id]`."""

    name: str
    corpus_ids: list[str]
    corpus: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: Qrels

    def judged(self) -> Collection:
        """The same collection without the queries that have no relevant document."""
        relevant = {q for q, judged in self.qrels.items() if any(s > 0 for s in judged.values())}
        kept = [i for i, query_id in enumerate(self.query_ids) if query_id in relevant]
        return Collection(
            self.name,
            self.corpus_ids,
            self.corpus,
            [self.query_ids[i] for i in kept],
            [self.queries[i] for i in kept],
            self.qrels,
        )


def load_beir(folder: str | Path, split: str | None = None) -> Collection:
    """Read `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` from `folder`.

    Without `split`, `test` is taken, or the only split there is. The collection is named by its
    folder. Queries that the split does not judge (other splits share the file) are left out.

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
        root.resolve().name, list(corpus), list(corpus.values()), [*queries], [*queries.values()],
        qrels,
    ).judged()  # fmt: skip
    if not collection.queries:
        raise UserError(f"{qrels_file}: no judgement above 0: there is nothing to find")
    return collection


def pairs_collection(name: str, anchors: list[str], positives: list[str]) -> Collection:
    """Held-out pairs as a collection: each distinct anchor against all distinct positives.

    Equal texts are one query or one document, so an anchor that occurs with several positives
    has them all as relevant documents.

    Raises:
        UserError: the two lists differ in length or are empty.
    """
    if len(anchors) != len(positives) or not anchors:
        raise UserError(
            f"{name}: {len(anchors)} anchors and {len(positives)} positives: "
            "give as many of each, at least one"
        )
    # Zero-padded ids, so that their order is the order of first appearance.
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
    there = {p.name.split(".")[0]: p for p in sorted((root / "qrels").glob("*.tsv*"))}
    if split is None:
        split = next(iter(there)) if len(there) == 1 else "test"
    if split not in there:
        splits = f"there is {', '.join(there)}" if there else "the folder has no .tsv file"
        raise UserError(f"{root / 'qrels' / (split + '.tsv')}: no such file: {splits}")
    return there[split]


def _texts(path: Path) -> dict[str, str]:
    """Id -> text of a corpus or queries file."""
    texts: dict[str, str] = {}
    with open_bytes(path) as file:
        lines = numbered(file, str(path))
        for number, (identity, text) in or_raise(json_records(lines, str(path), _document)):
            if identity in texts:
                reason = f"the id {identity!r} occurs twice: ids must be unique"
                raise Fault(str(path), "line", number, reason).error()
            texts[identity] = text
    if not texts:
        raise BadFile(str(path), "the file is empty")
    return texts


def _document(values: dict[str, Any]) -> tuple[str, str]:
    """(id, title and text) of a record; an id may be a whole number."""
    identity = value_in(values, "_id")
    whole = isinstance(identity, int) and not isinstance(identity, bool)
    title = text_in(values, "title") if values.get("title") is not None else ""
    text = document_text(title, text_in(values, "text"))
    return str(identity) if whole else text_of(identity, "_id"), text


def document_text(title: str, text: str) -> str:
    """Title and text as one string; half a surrogate pair, which no tokenizer takes, becomes ?."""
    joined = f"{title} {text}".strip() if title else text
    return joined if joined.isascii() else joined.encode("utf-8", "replace").decode("utf-8")


def _qrels(path: Path, queries: dict[str, str], corpus: dict[str, str], queries_name: str) -> Qrels:
    """Judgements; the first line is a header where its last field is no whole number."""
    qrels: Qrels = {}
    empty = True
    with open_bytes(path) as file:
        for number, line in or_raise(numbered(file, str(path))):
            if not line.strip():
                continue
            first, empty = empty, False
            try:
                query_id, corpus_id, score = _fields(line)
                if first and not _is_whole(score):
                    continue
                if not _is_whole(score):
                    raise BadValue(f"the score {score!r} is not a whole number")
                if query_id not in queries:
                    raise BadValue(f"unknown query id {query_id!r}: {queries_name} has none such")
                if corpus_id not in corpus:
                    raise BadValue(f"unknown corpus id {corpus_id!r}: the corpus has none such")
                before = qrels.setdefault(query_id, {}).setdefault(corpus_id, int(score))
                if before != int(score):
                    pair = f"{query_id!r} with {corpus_id!r}"
                    raise BadValue(f"{pair} is judged twice, {before} and {score}: keep one")
            except BadValue as reason:
                raise Fault(str(path), "line", number, str(reason)).error() from None
    if empty:
        raise BadFile(str(path), "the file is empty")
    return qrels


def _fields(line: str) -> list[str]:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3:
        raise BadValue(
            f"{shown(line.strip())} has {len(fields)} tab-separated fields, "
            "not query-id, corpus-id, score"
        )
    return fields


def _is_whole(score: str) -> bool:
    try:
        int(score)
    except ValueError:
        return False
    return True
