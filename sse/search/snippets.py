"""What is shown of a hit: the text around its best sentence, and where the query's words are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from sse.documents.passages import sentences
from sse.serving.encoder import Encoder

SIZE = 240  # characters of a snippet
SENTENCES = 30  # of a passage that are compared; a passage of usual size has fewer
_WORD = re.compile(r"\w+")
_ENDING = re.compile(r"(?<=\w{3})(?:ing|ings|ed|es|s|ly)$")
# Words that are everywhere: marking them would tell nothing.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can do does for from has have how i if in is it its my no "
        "not of on or so that the their then there these they this to was we what when where "
        "which who why will with you your",
    )
)


def snippets(texts: Sequence[str], query: str, model: Encoder, size: int = SIZE) -> list[str]:
    """About `size` characters of each text, in one line, from its best sentence on.

    The best sentence has the most words of the query and the largest cosine with it.

    Args:
        texts: passages.
        query: what was searched for.
        model: the index's model.
        size: characters at most.
    """
    parts = [sentences(" ".join(text.split()))[:SENTENCES] for text in texts]
    flat = [part for some in parts for part in some]
    if not flat or not query.strip():
        return ["".join(some)[:size] for some in parts]
    wanted = stems(query)
    scores = model.encode(flat) @ model.encode(query)
    scores += [len(wanted & stems(part)) for part in flat]
    out, start = [], 0
    for text, some in zip(texts, parts, strict=True):
        best = int(np.argmax(scores[start : start + len(some)])) if some else 0
        before = sum(len(part) for part in some[:best])
        out.append(_window(" ".join(text.split()), before, wanted, size))
        start += len(some)
    return out


def matches(text: str, query: str) -> list[tuple[int, int]]:
    """Where words of the query stand in `text`: (start, end) of each, in order.

    Words match by their stems: case, accents and the commonest English endings do not count. Of a
    script without blanks between words, the query's runs match.

    >>> matches("Knead the doughs. Kneading rests.", "how to knead dough")
    [(0, 5), (10, 16), (18, 26)]
    """
    wanted = stems(query)
    found = [word.span() for word in _WORD.finditer(text) if _stem(word[0]) in wanted]
    for run in {word for word in _WORD.findall(query) if ord(max(word)) >= 0x2E80}:
        found += [match.span() for match in re.finditer(re.escape(run), text)]
    return sorted(set(found))


def stems(text: str) -> set[str]:
    """The stems of a text's words; without the common ones, unless there are no others."""
    words = {word.casefold() for word in _WORD.findall(text)}
    return {_stem(word) for word in words - _COMMON or words}


def _stem(word: str) -> str:
    letters = unicodedata.normalize("NFKD", word.casefold())
    return _ENDING.sub("", "".join(c for c in letters if not unicodedata.combining(c)))


def _window(text: str, start: int, wanted: set[str], size: int) -> str:
    """`size` characters of a text in one line, from `start` on or around the first match there."""
    if len(text) <= size:
        return text
    first = next((m.start() for m in _WORD.finditer(text, start) if _stem(m[0]) in wanted), start)
    if first - start > size * 2 // 3:
        start = text.rfind(" ", start, first - size // 3) + 1 or first
    start = min(start, max(text.rfind(" ", 0, len(text) - size) + 1, 0)) if start else 0
    end = len(text)
    if end - start > size:
        end = text.rfind(" ", start + 1, start + size + 1)
        end = end if end > start else start + size
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"
