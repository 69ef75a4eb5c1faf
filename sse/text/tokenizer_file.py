"""Read a `tokenizer.json`, possibly a stranger's, within bounds of time and memory.

- The file is parsed in Rust, which takes up to 64 bytes for each value and 100 us for each added
  token. So both are counted before, by the marks that JSON needs for them.
- A normaliser may replace each letter by many, one after the other. So the product is bounded.
- Rust reports what it cannot do by an exception of its own or by a panic, which is no Exception.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from sse.common.errors import UserError, first_line

MAX_FILE = 100_000_000  # bytes: three times the tokenizer.json of the largest vocabularies in use
SMALL = 4_000_000  # bytes: of these all may be values or added tokens
MAX_OBJECTS = 50_000  # each added token is one
VALUE, RATIO, SPARE = 64, 8, 150_000_000  # values may take RATIO times the file's bytes, and SPARE
MAX_GROWTH = 100  # letters that normalisers may make of one


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        UserError: no tokenizer, one that takes too much time or memory, or one with dropout, which
            gives a text other ids each time.
    """
    if (size := path.stat().st_size) > MAX_FILE:
        raise UserError(f"{path} has {size:,} bytes, more than the {MAX_FILE:,} that are read")
    data = path.read_bytes()
    if size > SMALL:
        if (objects := data.count(b"{")) > MAX_OBJECTS:
            raise UserError(f"{path} has {objects:,} objects, more than {MAX_OBJECTS:,}")
        if (values := data.count(b",")) * VALUE > RATIO * size + SPARE:
            raise UserError(f"{path} has {values:,} values in {size:,} bytes: they are too many")
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except BaseException as error:
        if not isinstance(error, ValueError) and not is_rusts(error):
            raise
        reason = first_line(error)
        raise UserError(f"{path}: not a tokenizer.json ({reason}); give another one") from error
    if getattr(tokenizer.model, "dropout", None):
        raise UserError(
            f"{path} has dropout {tokenizer.model.dropout}, so a text gets other ids each time: "
            "set it to null there"
        )
    if (growth := _growth(tokenizer.normalizer)) > MAX_GROWTH:
        raise UserError(
            f"{path}: its normalizer may make {growth:.0e} letters of one, more than {MAX_GROWTH}"
        )
    return tokenizer


def is_rusts(error: BaseException) -> bool:
    """Whether the tokenizers' Rust code raised it: as a bare Exception, or by a panic."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _growth(normaliser: Any) -> float:
    """The most letters that a normaliser makes of one, as its settings say."""
    if normaliser is None or isinstance(normaliser, BertNormalizer):
        return 1
    return _growth_of(json.loads(normaliser.__getstate__()))


def _growth_of(settings: Any) -> float:
    if not isinstance(settings, dict):
        return 1
    kind = settings.get("type")
    if kind == "Sequence":
        return prod(map(_growth_of, settings["normalizers"]))
    if kind == "Replace":
        return max(1, len(settings["content"]))
    if kind == "Prepend":
        return 1 + len(settings["prepend"])
    if kind == "Precompiled":
        import base64

        # A trie's length, the trie, then what it puts in the place of letters, each ended by 0.
        table = base64.b64decode(settings["precompiled_charsmap"])
        texts = table[4 + int.from_bytes(table[:4], "little") :]
        return max(1, *map(len, texts.split(b"\0")))
    return 1
