"""Pairs to train on, made of documents without labels.

| kind | anchor | positive |
|---|---|---|
| `question` | a heading that asks | the first passage below it |
| `heading` | title and path of headings | the same |
| `title` | the title | the first passage of the document |
| `first` | the first sentence of a passage | the rest of it |
| `neighbour` | any other sentence of a passage | the sentences around it |

Such anchors are made, not asked: nobody has typed them into a search box.
"""

from __future__ import annotations

import hashlib
import pickle  # nosec B403
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from sse.documents.document import Document, Section, one_line
from sse.documents.passages import passages, sentences

KINDS = ("question", "heading", "title", "first", "neighbour")
PASSAGE = 800  # characters of a positive at most
PER_DOCUMENT = 2_000  # pairs at most, so that one long log is not the whole training
COMMON = (3, 0.01)  # boilerplate is a paragraph that so many documents share, or such a part of all
ALIKE = 200  # the letters by which two passages that begin alike are near-duplicates
MIN_POSITIVE = 60  # characters
SENTENCE = (20, 300)  # characters of a sentence that is an anchor
MIN_WORDS = {"question": 3, "heading": 2, "title": 2, "first": 4, "neighbour": 4}
_ASKS = re.compile(r"(?:how|what|why|when|where|who|which|can|does|do|is|are|should)\b|.*\?$", re.I)


class Pair(NamedTuple):
    """Two texts that belong together."""

    anchor: str
    positive: str
    kind: str
    passage: int = 0  # the number of the passage, within the document, that the positive is part of


def make_pairs(
    documents: Iterable[Document], kinds: Sequence[str] = KINDS
) -> Iterator[tuple[str, list[Pair]]]:
    """(path, pairs) of each document that gives some, in order.

    - Paragraphs that many documents share are boilerplate and are left out (`COMMON`). So all
      documents are read first; meanwhile they lie in a temporary file, not in memory.
    - A passage that begins like an earlier one is a near-duplicate and gives no pairs (`ALIKE`).
    - A document's pairs are in the order of `KINDS`, `PER_DOCUMENT` at most.
    """
    shared: Counter[bytes] = Counter()
    seen: set[bytes] = set()
    count = 0
    with tempfile.TemporaryFile() as file:
        for count, document in enumerate(documents, 1):  # noqa: B007
            shared.update({_digest(p.text) for s in document.sections for p in s.paragraphs})
            pickle.dump(document, file)
        common = {key for key, n in shared.items() if n >= max(COMMON[0], COMMON[1] * count)}
        del shared
        file.seek(0)
        for _ in range(count):
            # The file is this process's own and has no name.
            document = _without(pickle.load(file), common)  # noqa: S301  # nosec B301
            if found := _pairs(document, kinds, seen):
                yield document.path, found


def _without(document: Document, common: set[bytes]) -> Document:
    """The document without the paragraphs whose digests are in `common`."""
    sections = [
        replace(s, paragraphs=tuple(p for p in s.paragraphs if _digest(p.text) not in common))
        for s in document.sections
    ]
    return replace(document, sections=tuple(s for s in sections if s.paragraphs))


def _pairs(document: Document, kinds: Sequence[str], seen: set[bytes]) -> list[Pair]:
    """The pairs of one document; `seen` holds the beginnings of all earlier passages."""
    found: list[Pair] = []
    passage = 0
    title = re.sub(r"[-_]+", " ", document.title)
    for number, section in enumerate(document.sections):
        whole = _pieces(document, section)
        prose = tuple(p for p in section.paragraphs if not p.code)
        if not prose or not _is_new(whole[0], seen):
            continue
        made = list(_of_headings(title, section, whole[0], number == 0))
        pieces = whole if len(prose) == len(section.paragraphs) else None
        for at, piece in enumerate(pieces or _pieces(document, replace(section, paragraphs=prose))):
            if at == 0 or _is_new(piece, seen):
                made += _of_sentences(piece)
            found += [pair._replace(passage=passage) for pair in made]
            passage += 1
            made = []
    found = [pair for pair in found if pair.kind in kinds and _is_good(pair)]
    return sorted(found, key=lambda pair: KINDS.index(pair.kind))[:PER_DOCUMENT]


def _pieces(document: Document, section: Section) -> list[str]:
    """The passages of one section."""
    part = replace(document, sections=(section,))
    return [passage.text for passage in passages(part, PASSAGE)]


def _of_headings(title: str, section: Section, passage: str, first: bool) -> Iterator[Pair]:
    text = one_line(passage)
    if section.headings:
        if _ASKS.match(section.headings[-1]):
            yield Pair(section.headings[-1], text, "question")
        yield Pair(" ".join((title, *section.headings)), text, "heading")
    if first:
        yield Pair(title, text, "title")


def _of_sentences(passage: str) -> Iterator[Pair]:
    """Each sentence with the rest of the passage."""
    parts = [one_line(sentence) for sentence in sentences(passage)]
    if len(parts) == 1:
        return
    yield Pair(parts[0], " ".join(parts[1:]), "first")
    for at in range(1, len(parts) if len(parts) > 2 else 0):
        yield Pair(parts[at], " ".join((*parts[:at], *parts[at + 1 :])), "neighbour")


def _is_good(pair: Pair) -> bool:
    """Whether both texts say enough, and the anchor is words and not in the positive."""
    words = re.findall(r"[^\W\d_]{2,}", pair.anchor)
    if len(words) < MIN_WORDS[pair.kind] or sum(map(len, words)) < 0.5 * len(pair.anchor):
        return False
    made = pair.kind in ("first", "neighbour")
    if made and (
        not SENTENCE[0] <= len(pair.anchor) <= SENTENCE[1] or pair.anchor in pair.positive
    ):
        return False
    return len(pair.positive) >= MIN_POSITIVE


def _is_new(passage: str, seen: set[bytes]) -> bool:
    """Whether no earlier passage begins alike, but for case, digits and marks."""
    key = _digest("".join(re.findall(r"[^\W\d_]+", passage[: 2 * ALIKE].lower()))[:ALIKE])
    if key in seen:
        return False
    seen.add(key)
    return True


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
