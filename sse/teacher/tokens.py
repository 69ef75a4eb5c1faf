"""Our tokens, as another tokenizer can read them: their strings, and their texts."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sse.common.errors import UserError

LEAST_KNOWN = 0.5  # share of our tokens that a teacher must know


class Tokens:
    """The vocabulary of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        count: V, the number of rows of the table; ids beyond it have no row.

    Attributes:
        strings: (V,) the tokens as the vocabulary has them, such as "##ing"; None for an id that
            the vocabulary lacks.
    """

    def __init__(self, tokenizer: Tokenizer, count: int) -> None:
        self.tokenizer = tokenizer
        self.strings: list[str | None] = [None] * count
        for string, number in tokenizer.get_vocab(with_added_tokens=True).items():
            if number < count:
                self.strings[number] = string
        self.spelling = spelling(tokenizer)

    @cached_property
    def texts(self) -> list[str]:
        """(V,) what the tokens stand for in a text: "ing" for "##ing"; empty for no token."""
        prefix = self.spelling["prefix"]
        if prefix:
            return [(string or "").removeprefix(prefix) for string in self.strings]
        return [
            "" if string is None else self.tokenizer.decode([number], skip_special_tokens=False)
            for number, string in enumerate(self.strings)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens and of how they are spelled."""
        content = json.dumps([self.strings, self.spelling], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def spelling(tokenizer: Tokenizer) -> dict[str, Any]:
    """How a tokenizer spells tokens: two with the same spelling mean the same by one string."""
    parts = json.loads(tokenizer.to_str())
    model = parts["model"]
    decoder = parts.get("decoder") or {}
    return {
        "model": model.get("type"),
        "prefix": model.get("continuing_subword_prefix"),
        "decoder": decoder.get("type"),
    }


def check_known(known: NDArray[np.bool_], teacher: str) -> None:
    """UserError for a teacher that knows too few of the tokens; `known` is (V,)."""
    share = float(np.mean(known)) if len(known) else 0.0
    if share < LEAST_KNOWN:
        raise UserError(
            f"`start` {teacher} knows {share:.0%} of the {len(known):,} tokens: give a teacher of "
            "the texts' language, or another `tokenizer`"
        )
