"""A cache from words to token ids, so that Hugging Face's tokenizer sees each word once.

BERT's pre-tokenizer ends a word at white space and at each ASCII mark. Neither its normaliser nor
WordPiece looks past the end of a word. So the ids of a text are the ids of its words in order.

- Arrow finds the distinct words of a batch, and only these are looked up: no Python per word.
- A text with an added token such as [MASK] counts as one word, since its marks end no word.
"""

from __future__ import annotations

import re
import string
from array import array
from collections.abc import Container, Iterable, Sequence
from itertools import accumulate, chain, islice
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from sse.text.token_batch import TokenBatch

MAX_WORDS = 500_000  # then the cache starts again: frequent words soon return
MAX_LETTERS = 40  # of a word in the cache: longer words hardly come twice
FEW_LETTERS = 5_000  # a smaller batch is not worth finding its distinct words
FEW_WORDS = 8  # so few unseen words are encoded one by one, as a call for a batch costs more
GROUP = 256  # words per input of Hugging Face's tokenizer: its result costs more than a word
ITEM = 4  # bytes of an id

SPACES = " \t\r\n"
_MARKS = re.escape(string.punctuation)
_WORD = re.compile(f"[^{SPACES}{_MARKS}]+|[{_MARKS}]")
_IS_MARK = np.isin(np.arange(256), list(string.punctuation.encode()))
_ENDS_WORD = _IS_MARK | np.isin(np.arange(256), list(SPACES.encode()))


class WordCache:
    """An encoder by words that makes the ids of `tokenizer` on the whole text.

    `works_word_by_word` must hold for `tokenizer`. Threads may share the cache: words are only
    added, and a full cache is replaced as a whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lowers = bool(tokenizer.normalizer.lowercase)
        self._added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        self._seen: dict[str, bytes] = {"": b""}

    def __reduce__(self) -> tuple[type[WordCache], tuple[Tokenizer]]:
        return WordCache, (self._tokenizer,)  # another process starts with none

    def __len__(self) -> int:
        return len(self._seen)

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of `texts`, int32, without special tokens.

        Raises:
            UnicodeError: half of a surrogate pair.
        """
        text = "".join(texts)
        whole: set[int] = set()
        for token in self._added:
            if token in text:
                whole.update(row for row, text in enumerate(texts) if token in text)
        if len(text) < FEW_LETTERS:
            return self._few(texts, whole)
        data = [t.encode() for t in texts]
        if self._lowers:  # ASCII letters only, as the normaliser would: fewer distinct words
            data = [t if i in whole else t.lower() for i, t in enumerate(data)]
        words, order, ends = distinct_words(data, whole)
        pieces = self._look_up(words)
        distinct = TokenBatch(_ids(pieces), _offsets(map(len, pieces)))
        every = distinct.take(order)
        return TokenBatch(every.ids, every.offsets[ends])

    def _few(self, texts: Sequence[str], whole: Container[int]) -> TokenBatch:
        """The ids of few letters, such as a query's, without the set-up that Arrow needs."""
        rows = [[t] if i in whole else _WORD.findall(t) for i, t in enumerate(texts)]
        pieces = iter(self._look_up(list(chain.from_iterable(rows))))
        parts = [b"".join(islice(pieces, len(row))) for row in rows]
        return TokenBatch(_ids(parts), _offsets(map(len, parts)))

    def _look_up(self, words: list[str]) -> list[bytes]:
        """The ids of each word, from the cache or the tokenizer."""
        cached = list(map(self._seen.get, words))
        unseen = [word for word, ids in zip(words, cached, strict=True) if ids is None]
        if not unseen:
            return cast("list[bytes]", cached)
        fresh = self._encode(list(dict.fromkeys(unseen)))
        return [fresh[w] if ids is None else ids for w, ids in zip(words, cached, strict=True)]

    def _encode(self, words: list[str]) -> dict[str, bytes]:
        """The ids of each word by Hugging Face's tokenizer; words that are not long are cached."""
        few = len(words) <= FEW_WORDS
        fresh = self._one_by_one(words) if few else self._in_groups(words)
        if len(self._seen) + len(fresh) > MAX_WORDS:
            self._seen = {"": b""}
        self._seen.update((word, ids) for word, ids in fresh.items() if len(word) <= MAX_LETTERS)
        return fresh

    def _one_by_one(self, words: list[str]) -> dict[str, bytes]:
        encodings = (self._tokenizer.encode(word, add_special_tokens=False) for word in words)
        return {w: array("i", e.ids).tobytes() for w, e in zip(words, encodings, strict=True)}

    def _in_groups(self, words: list[str]) -> dict[str, bytes]:
        groups = [words[i : i + GROUP] for i in range(0, len(words), GROUP)]
        encodings = self._tokenizer.encode_batch(
            groups, is_pretokenized=True, add_special_tokens=False
        )
        fresh: dict[str, bytes] = {}
        for group, encoding in zip(groups, encodings, strict=True):
            ids = array("i", encoding.ids).tobytes()
            owners = np.array(encoding.word_ids, np.int64)  # of each id: which word of the group
            ends = (np.bincount(owners, minlength=len(group)).cumsum() * ITEM).tolist()
            starts = [0, *ends[:-1]]
            fresh |= {w: ids[i:j] for w, i, j in zip(group, starts, ends, strict=True)}
        return fresh


def works_word_by_word(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of its words, one after the other.

    The parts must be BERT's. An added token must hold an ASCII mark and no white space, and must
    match before normalisation. Another token could also match across words or in lower case.
    """
    return (
        isinstance(tokenizer.model, WordPiece)
        and isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and all(
            not token.normalized
            and any(letter in string.punctuation for letter in token.content)
            and not any(letter.isspace() for letter in token.content)
            for token in tokenizer.get_added_tokens_decoder().values()
        )
    )


def _ids(pieces: Iterable[bytes]) -> NDArray[np.int32]:
    return np.frombuffer(bytearray().join(pieces), np.int32)  # a bytearray makes it writable


def _offsets(sizes: Iterable[int]) -> NDArray[np.int64]:
    """Offsets in ids of pieces with these sizes in bytes."""
    return np.array([0, *accumulate(sizes)], np.int64) // ITEM


def distinct_words(
    texts: Sequence[bytes], whole: Iterable[int] = ()
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct words of UTF-8 texts, the distinct word of each word, offsets of texts in words.

    The texts numbered in `whole` count as one word each.
    """
    import pyarrow as pa  # slow to import

    data = b"".join(texts)
    letters = np.frombuffer(data, np.uint8)
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    # In UTF-8 no byte of a longer character is ASCII, so bytes tell where words begin.
    # A space belongs to the word after it; a mark is a word.
    begins = np.zeros(len(data) + 1, bool)
    begins[:-1] = _ENDS_WORD[letters]
    begins[1:] |= _IS_MARK[letters]
    for row in whole:
        begins[starts[row] : starts[row + 1]] = False
    begins[starts] = True
    offsets = np.flatnonzero(begins)
    words = pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data)
    ).dictionary_encode()
    distinct = [word.strip(SPACES) for word in words.dictionary.to_pylist()]
    return distinct, words.indices.to_numpy(), np.searchsorted(offsets, starts)
