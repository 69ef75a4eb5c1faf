"""From the options to data that are ready for batches: read, tokenised, split.

Everything slow happens here, once. The cache folder keeps what the next run needs again:

CACHE/sets/KEY.json         the columns of a set and the hash of its texts, once they were checked
CACHE/NAME-KEY/             the tokens of a set: see `sse.data.token_cache`
CACHE/tokenizers/KEY.json   a tokenizer trained on the pairs, or grown by their words
CACHE/rows/KEY/             files without their bad rows: see `sse.data.skip_rows`
CACHE/documents-KEY.arrow     the pairs made of a folder of documents
CACHE/docstrings-KEY.parquet  the pairs of the installed packages
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sse.common.digests import is_whole, write_digest
from sse.common.files import expanded
from sse.data.batch_plan import Rows
from sse.data.made.docstring_pairs import embedded_pairs
from sse.data.made.document_pairs import document_pairs
from sse.data.pair_set import PairSet, load_sets
from sse.data.skip_rows import BadRows
from sse.data.split import choose, hold_out, one_of_each, train_rows
from sse.data.token_cache import TokenizedSet, tokenize_set
from sse.documents.pairs import KINDS
from sse.text.grow import MIN_COUNT, grow, pieces_of
from sse.text.token_batch import TokenBatch
from sse.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

GROW_ROWS = 16_384  # texts counted at once: more than a chunk of the token cache, for fewer merges


@dataclass(frozen=True)
class Prepared:
    """Data that are ready for batches; the lists have one entry per set."""

    tokenizer: TextTokenizer
    pieces: TokenBatch | None  # of each grown token, the last of the vocabulary: see `pieces_of`
    pairs: list[PairSet]  # the texts
    sets: list[TokenizedSet]  # their token ids
    heldout_rows: list[Rows]  # to evaluate on
    train_rows: list[Rows]


def prepare(
    options: Any, say: Callable[[str], None] = print, bad_rows: Path | None = None
) -> Prepared:
    """The data that the options name.

    Args:
        options: `SSEDataModule.hparams`.
        say: takes lines of progress.
        bad_rows: the file for rows that `skip_bad_rows` leaves out; None keeps it in the cache.
    """
    cache = cache_folder(options.cache)
    pairs = _read(options, cache, say, bad_rows)
    source = base_tokenizer(pairs, options, say)
    pieces = None
    if options.grow_vocab is not None:
        base = load_tokenizer(source)
        source = str(_grown_tokenizer(pairs, base, options.grow_vocab, cache))
        pieces = pieces_of(base, load_tokenizer(source))
        say(
            f"vocabulary: {base.vocab_size:,} tokens and {len(pieces):,} whole words, each at "
            f"least {MIN_COUNT} times in the texts"
        )
    tokenizer = load_tokenizer(source, max_tokens=options.max_tokens)
    sets = [tokenize_set(each, tokenizer, cache) for each in pairs]
    text_ids = [each.text_ids for each in sets]
    heldout = hold_out(text_ids, options.holdout, [each.groups for each in pairs])
    training = [train_rows(ids, rows) for ids, rows in zip(text_ids, heldout, strict=True)]
    heldout = [one_of_each(own.groups, rows) for own, rows in zip(pairs, heldout, strict=True)]
    if options.pairs is not None:
        training = choose(text_ids, training, options.pairs)
    return Prepared(tokenizer, pieces, pairs, sets, heldout, training)


def _read(
    options: Any, cache: Path, say: Callable[[str], None], bad_rows: Path | None
) -> list[PairSet]:
    """The sets of pairs, those of documents last; without any, the installed packages' one."""
    specs = [*_listed(options.paths), *(options.sets or [])]
    pairs = []
    if specs:
        columns = {role: getattr(options, role) for role in ("anchor", "positive")}
        columns = {role: name for role, name in columns.items() if name is not None}
        skip = BadRows(cache, bad_rows) if options.skip_bad_rows else None
        pairs = load_sets(specs, options.cap, say, cache, columns, skip)
    for path in _listed(options.documents):
        kinds = options.document_pairs or KINDS
        pairs.append(document_pairs(path, cache, kinds, options.strict, options.cap, say))
    return pairs or [embedded_pairs(cache, say)]


def _listed(paths: list[str] | str | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def cache_folder(folder: str | None = None) -> Path:
    """`folder`; without one $SSE_CACHE, or `sse` in the user's cache folder."""
    if folder:
        return expanded(folder)
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(os.environ.get("SSE_CACHE") or Path(root) / "sse")


def base_tokenizer(
    pairs: Sequence[PairSet], options: Any, say: Callable[[str], None] = print
) -> str:
    """The tokenizer before it grows: a hub name, or a path; trained here where it is `train`."""
    if options.tokenizer != "train":
        return str(options.tokenizer)
    own = options.paths or options.sets or options.documents
    size = options.vocab_size or (30_522 if own else 12_000)
    return str(_trained_tokenizer(pairs, size, cache_folder(options.cache), say))


def _vocabulary_texts(pairs: PairSet) -> Iterator[str]:
    """The texts that a vocabulary comes from: those of all pairs, or of one for each passage."""
    rows = None if pairs.groups is None else one_of_each(pairs.groups, np.arange(len(pairs)))
    for column in pairs.columns:
        yield from pairs.texts(column, rows)


def _trained_tokenizer(
    pairs: Sequence[PairSet], size: int, cache: Path, say: Callable[[str], None]
) -> Path:
    """The tokenizer.json trained on these texts; trained now unless the cache has it."""
    path = _place(cache, [size, *(each.fingerprint for each in pairs)])
    if not is_whole(path):
        say(f"tokenizer: training WordPiece on the pairs, at most {size:,}")
        texts = (text for each in pairs for text in _vocabulary_texts(each))
        train_tokenizer(texts, size).save(path)
        write_digest(path)
    return path


def _grown_tokenizer(pairs: Sequence[PairSet], base: TextTokenizer, most: int, cache: Path) -> Path:
    """The tokenizer.json of `base` grown by words of these texts, from the cache or made now."""
    content = ["grown", most, base.fingerprint, *(each.fingerprint for each in pairs)]
    path = _place(cache, content)
    if not is_whole(path):
        texts = (
            column for each in pairs for chunk in each.chunks(rows=GROW_ROWS) for column in chunk
        )
        total = sum(len(each) * len(each.columns) for each in pairs)
        grow(base, texts, most, total=total).save(path)
        write_digest(path)
    return path


def _place(cache: Path, content: list[object]) -> Path:
    """Where the cache keeps the tokenizer that this content decides."""
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
    return cache / "tokenizers" / f"{key}.json"
