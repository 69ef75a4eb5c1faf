"""Whole words of the user's texts as tokens of their own, beside the pieces of a WordPiece.

- A word is what the tokenizer's normaliser and splitter make of a text, before WordPiece cuts it.
- The words enter WordPiece's own vocabulary. Its longest match then takes them whole, in every
  library that reads `tokenizer.json`. A longer word that begins with a new one is cut there too.
- The old tokens keep their ids, and the words follow by frequency.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sse.common.errors import UserError
from sse.text.token_batch import TokenBatch, offsets_of
from sse.text.tokenizer import TextTokenizer
from sse.text.word_cache import distinct_words, works_word_by_word

MIN_COUNT = 3  # a rarer word's row would hardly leave its start


def grow(
    base: TextTokenizer,
    batches: Iterable[Sequence[str]],
    most: int,
    *,
    total: int | None = None,
    progress: bool = True,
) -> TextTokenizer:
    """The tokenizer `base` with the most frequent words of the texts that it cuts or cannot read.

    Args:
        base: a WordPiece tokenizer with BERT's normaliser and splitter.
        batches: the texts, some thousands at a time.
        most: so many words at most; each occurs at least `MIN_COUNT` times. Of words equally
            frequent, the first in the order of code points are taken.
        total: how many texts there are, for the bar.
        progress: show a bar on a terminal.

    Raises:
        UserError: a tokenizer of another kind, or texts without a single word.

    >>> from sse.text.tokenizer import train_tokenizer
    >>> base = train_tokenizer(["a tiny text"], 40, progress=False)
    >>> grown = grow(base, [["Tomatoes, tomatoes"], ["and TOMATOES"]], 9, progress=False)
    >>> grown.tokenizer.encode("Tomatoes and").tokens
    ['tomatoes', '[UNK]']
    """
    _check(base.tokenizer)
    with _bar(total, progress) as bar:
        words = _words(base.tokenizer, _counts(base.tokenizer, batches, bar))
    if not words:
        raise UserError(
            f"grow_vocab is {most:,}, but the texts hold no word: check the columns, or leave it "
            "away"
        )
    longest = base.tokenizer.model.max_input_chars_per_word
    known = base.tokenizer.get_vocab(with_added_tokens=True)
    new = [
        word
        for word, count in words.items()
        if count >= MIN_COUNT and word not in known and len(word) <= longest
    ]
    new = sorted(new, key=lambda word: (-words[word], word))[:most]
    spec = json.loads(base.tokenizer.to_str())
    # With the added tokens: a tokenizer.json that lacks them there would number them anew.
    spec["model"]["vocab"] = known | {word: base.vocab_size + i for i, word in enumerate(new)}
    return TextTokenizer(Tokenizer.from_str(json.dumps(spec)), base.max_tokens)


def pieces_of(base: TextTokenizer, grown: TextTokenizer) -> TokenBatch:
    """The ids in `base` of each word that `grown` has besides, in the order of their ids.

    Text i holds the pieces of the token with the id base.vocab_size + i. It is empty for a word
    that `base` cannot read.
    """
    model = base.tokenizer.model
    unknown = model.token_to_id(model.unk_token)
    rows = []
    for number in range(base.vocab_size, grown.vocab_size):
        ids = [piece.id for piece in model.tokenize(grown.tokenizer.id_to_token(number))]
        rows.append([] if ids == [unknown] else ids)
    return TokenBatch(
        np.array([number for row in rows for number in row], np.int32),
        offsets_of([len(row) for row in rows]),
    )


def _check(tokenizer: Tokenizer) -> None:
    if not works_word_by_word(tokenizer):
        parts = (tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer)
        kinds = ", ".join(type(part).__name__ for part in parts if part is not None)
        raise UserError(
            f"grow_vocab needs a WordPiece tokenizer with BERT's parts, and this one has {kinds}: "
            "give bert-base-uncased or train with `tokenizer`, or leave grow_vocab away"
        )


def _counts(tokenizer: Tokenizer, batches: Iterable[Sequence[str]], bar: Any) -> Counter[str]:
    """How often each run of letters between white space and ASCII marks occurs."""
    counts: Counter[str] = Counter()
    for texts in batches:
        data = [text.encode("utf-8", "ignore") for text in texts]  # without lone surrogates
        if tokenizer.normalizer.lowercase:
            data = [text.lower() for text in data]  # ASCII letters only
        words, order, _ = distinct_words(data)
        numbers = np.bincount(order, minlength=len(words)).tolist()
        for word, number in zip(words, numbers, strict=True):
            counts[word] += number
        bar.update(len(texts))
    return counts


def _words(tokenizer: Tokenizer, counts: Counter[str]) -> Counter[str]:
    """The same counts by word, as the normaliser and the splitter make it."""
    words: Counter[str] = Counter()
    for run, count in counts.items():
        for word in _split(tokenizer, run):
            words[word] += count
    return words


def _split(tokenizer: Tokenizer, run: str) -> Iterator[str]:
    if run.isascii() and run.isprintable():  # nothing is left to do, as of nearly all
        if run:
            yield run
        return
    normal = tokenizer.normalizer.normalize_str(run)
    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
        yield word


def _bar(total: int | None, progress: bool) -> Any:
    from tqdm.auto import tqdm  # slow to import, and encoding needs none

    return tqdm(
        total=total,
        desc="counting words",
        unit=" texts",
        unit_scale=True,
        disable=None if progress else True,
    )
