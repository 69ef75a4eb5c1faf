"""Texts in portions, since Hugging Face's tokenizers take 160 bytes for each letter of a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sse.common.errors import UserError
from sse.text.word_cache import SPACES

MAX_TEXT = 1_000_000  # letters of one text, where it cannot be cut at a space


def slices(texts: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """`texts` cut into runs of at most `most` characters; a longer text stands alone."""
    start = size = 0
    for row, text in enumerate(texts):
        if size and size + len(text) > most:
            yield texts[start:row]
            start, size = row, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def at_spaces(text: str, most: int) -> Iterator[str]:
    """`text` cut at spaces, into parts of `most` characters or the word that is longer."""
    start = 0
    while start < len(text):
        end = start + most
        if end < len(text):
            cut = max(text.rfind(space, start + 1, end) for space in SPACES)
            after = (text.find(space, end) for space in SPACES)
            end = cut if cut > 0 else min((at for at in after if at > 0), default=len(text))
        check_length([text[start:end]])
        yield text[start:end]
        start = end


def check_length(texts: Sequence[str]) -> None:
    """UserError for a text that would take too much memory in one call."""
    if (longest := max(map(len, texts), default=0)) > MAX_TEXT:
        raise UserError(
            f"a text, or a word of it, has {longest:,} characters, more than the {MAX_TEXT:,} that "
            "its tokenizer takes at once: cut it"
        )
