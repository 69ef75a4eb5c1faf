"""JSON of strangers: `json.loads` takes fifty times the memory of a text such as `[{},{},...]`."""

from __future__ import annotations

import json
from typing import Any

SMALL = 1_000_000  # characters: a text of these is read whatever it holds
VALUE = 100  # bytes of a small value in memory
RATIO = 4  # values may take this many times their text, and `SPARE` bytes
SPARE = 50_000_000


def loads(text: str | bytes) -> Any:
    """The JSON value of a text.

    Raises:
        ValueError: no JSON, or values that would take far more memory than their text.
    """
    if len(text) > SMALL and values_of(text) * VALUE > RATIO * len(text) + SPARE:
        raise ValueError(f"{values_of(text):,} values in {len(text):,} characters are too many")
    return json.loads(text)


def values_of(text: str | bytes) -> int:
    """The most values that a JSON text can hold: marks within its strings count too."""
    marks: Any = (",", ":", "[", "{") if isinstance(text, str) else (b",", b":", b"[", b"{")
    return sum(map(text.count, marks))
