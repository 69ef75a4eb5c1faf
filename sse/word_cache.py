"""The ids of words seen before, kept: Hugging Face's tokenizer is asked once per word.

BERT's pre-tokenizer ends a word at white space and at each ASCII mark, and neither its normaliser
nor WordPiece looks past a word's end. So the ids of a text are the ids of its words, one after the
other, and most words were seen before.

- A batch is cut into words by its bytes (in UTF-8 no byte of a longer character is ASCII), Arrow
  finds its distinct words, and only these are looked up: Python does nothing per word.
- A text that holds an added token such as [MASK], whose marks end no word, is taken as one word.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from sse.ragged import Ragged

MAX_WORDS = 500_000  # some 200 bytes each; then it starts again, as the frequent ones soon return
MAX_LETTERS = 40  # of a word that is kept: longer ones hardly come twice
FEW_LETTERS = 5_000  # texts of fewer are not worth finding their distinct words
GROUP = 256  # words that Hugging Face's tokenizer takes as one input: a result costs as much as ten
ITEM = 4  # bytes of an id

SPACES = " \t\r\n"
_MARKS = re.escape(string.punctuation)
_WORD = re.compile(f"[^{SPACES}{_MARKS}]+|[{_MARKS}]")
_IS_MARK = np.isin(np.arange(256), list(string.punctuation.encode()))
_ENDS_WORD = _IS_MARK | np.isin(np.arange(256), list(SPACES.encode()))


class WordCache:
    """Encode texts word by word, the same ids as `tokenizer` gives the whole text.

    Any number of threads may share it: words are only added, and a full cache is replaced.

    Args:
        tokenizer: one that `works_word_by_word`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lowers = bool(tokenizer.normalizer.lowercase)
        self._added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        self._seen: dict[str, bytes] = {"": b""}

    def __reduce__(self) -> tuple[type[WordCache], tuple[Tokenizer]]:
        return WordCache, (self._tokenizer,)  # another process sees other words

    def __len__(self) -> int:
        return len(self._seen)

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Token ids of `texts`, int32, without special tokens.

        Raises:
            UnicodeError: a lone surrogate.
        """
        text = "".join(texts)
        whole: set[int] = set()
        for token in self._added:
            if token in text:
                whole.update(row for row, text in enumerate(texts) if token in text)
        if len(text) < FEW_LETTERS:
            rows = [[t] if i in whole else _WORD.findall(t) for i, t in enumerate(texts)]
            words = self._look_up(list(chain.from_iterable(rows)))
            ends = np.cumsum([0, *map(len, rows)])
        else:
            data = [t.encode() for t in texts]
            if self._lowers:  # ASCII letters only, as the normaliser would: fewer distinct words
                data = [t if i in whole else t.lower() for i, t in enumerate(data)]
            distinct, order, ends = _distinct(data, whole)
            words = self._look_up(distinct).take(order)
        return Ragged(words.ids, words.offsets[ends])

    def _look_up(self, words: list[str]) -> Ragged:
        """The ids of each word."""
        found = list(zip(words, map(self._seen.get, words), strict=True))
        unseen = dict.fromkeys(word for word, ids in found if ids is None)
        fresh = self._encode(list(unseen)) if unseen else {}
        pieces = [fresh[word] if ids is None else ids for word, ids in found]
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(piece) // ITEM for piece in pieces], out=offsets[1:])
        # Of a bytearray the array is writable.
        return Ragged(np.frombuffer(bytearray().join(pieces), np.int32), offsets)

    def _encode(self, words: list[str]) -> dict[str, bytes]:
        """The ids of each word, by Hugging Face's tokenizer; those worth it are kept."""
        groups = [words[i : i + GROUP] for i in range(0, len(words), GROUP)]
        fresh: dict[str, bytes] = {}
        for group, encoding in zip(
            groups,
            self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False),
            strict=True,
        ):
            ids = np.array(encoding.ids, np.int32).tobytes()
            owners = np.array(encoding.word_ids, np.int64)  # of each id: which word of the group
            ends = (np.bincount(owners, minlength=len(group)).cumsum() * ITEM).tolist()
            fresh.update(
                (word, ids[start:end])
                for word, start, end in zip(group, [0, *ends[:-1]], ends, strict=True)
            )
        if len(self._seen) + len(fresh) > MAX_WORDS:
            self._seen = {"": b""}
        self._seen.update((word, ids) for word, ids in fresh.items() if len(word) <= MAX_LETTERS)
        return fresh


def works_word_by_word(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are those of its words: BERT's parts, and added tokens with marks.

    An added token that is found after normalisation, holds white space or consists of letters could
    also be found where our words are put together or set in lower case.
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


def _distinct(
    texts: Sequence[bytes], whole: Iterable[int]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct words, which of them each word is, and where each text's words begin and end.

    Args:
        texts: UTF-8.
        whole: the numbers of the texts that are one word.
    """
    import pyarrow as pa  # slow to import

    data = b"".join(texts)
    letters = np.frombuffer(data, np.uint8)
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    # A space begins a word, which goes on after it; a mark is a word.
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
