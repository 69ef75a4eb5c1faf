"""Text to token ids.

- `TextTokenizer` wraps a `tokenizers.Tokenizer`: no truncation, no padding, no special tokens.
- nanotoken (extra `fast`) replaces it where `sse.text.fast_tokenizer` proves equal ids.
- Otherwise `sse.text.word_cache` remembers the ids of words, where the parts are BERT's.
- A tokenizer comes from a `tokenizer.json`, from the hub, or is trained here (BERT's normaliser and
  pre-tokenizer, WordPiece).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from sse.common.errors import UserError, first_line
from sse.common.files import atomic_file, expanded
from sse.common.hub import hub_file
from sse.text.fast_tokenizer import Engine, FastTokenizer, choose_engine
from sse.text.long_texts import at_spaces, check_length, slices
from sse.text.token_batch import TokenBatch, concatenate, offsets_of
from sse.text.tokenizer_file import is_rusts, read_tokenizer
from sse.text.word_cache import WordCache, works_word_by_word

# The hub's own aliases of BERT's tokenizers, which carry no owner.
HUB_ALIASES = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-base-multilingual-cased": "google-bert/bert-base-multilingual-cased",
}
UNKNOWN = "[UNK]"
SPECIAL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")

# An Encoding is large until its ids are copied out, so one call takes a bounded number of letters.
MAX_CHARACTERS = 500_000
MAX_ALPHABET = 1_000
PROBE_AFTER = 256  # texts: fewer would not repay the import and the probe of the fast tokenizer

NO_TEXTS = TokenBatch(np.zeros(0, np.int32), offsets_of([]))


class TextTokenizer:
    """Encode texts as a batch of token ids.

    Args:
        tokenizer: any `tokenizers.Tokenizer`; its truncation and padding are switched off.
        max_tokens: keep the first `max_tokens` ids of a text; None keeps all. The cut is made
            here and is not part of the saved `tokenizer.json`.
        fast: use nanotoken where it is installed and proven equal.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int | None = None, fast: bool = True
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise UserError(f"max_tokens is {max_tokens}: give a positive number, or none for all")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._wants_fast = fast
        self._seen = 0

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides the ids: the tokenizer and `max_tokens`."""
        import hashlib  # an encoder needs none

        serialised = json.dumps(json.loads(self.tokenizer.to_str()), sort_keys=True)
        return hashlib.sha256(f"{self.max_tokens} {serialised}".encode()).hexdigest()

    @cached_property
    def engine(self) -> Engine:
        """Which tokenizer makes the ids, and why; the first access runs the probe."""
        if not self._wants_fast:
            return Engine("tokenizers", "asked for")
        return choose_engine(self.tokenizer)

    @cached_property
    def words(self) -> WordCache | None:
        """The cache of words; None where a text's ids are not those of its words."""
        return WordCache(self.tokenizer) if works_word_by_word(self.tokenizer) else None

    def encode(self, texts: Sequence[str], parallel: bool | None = None) -> TokenBatch:
        """Token ids of `texts`, int32, without special tokens; an empty text has none.

        Args:
            texts: what to encode.
            parallel: False keeps nanotoken on the calling thread, for callers with threads of
                their own. Hugging Face's tokenizers follow TOKENIZERS_PARALLELISM.
        """
        fast = self._fast(len(texts))
        if fast is None:
            parts = [self._encode(part) for part in slices(texts, MAX_CHARACTERS)] or [NO_TEXTS]
            batch = concatenate(parts)
        else:
            try:
                batch = fast.encode(texts, parallel)
            except UnicodeError:
                batch = fast.encode([_valid(text) for text in texts], parallel)
        return batch if self.max_tokens is None else _cut(batch, self.max_tokens)

    def _fast(self, count: int) -> FastTokenizer | None:
        """The fast tokenizer, if there is one, from the `PROBE_AFTER`-th text on."""
        if "engine" not in self.__dict__:
            self._seen += count
            if self._seen < PROBE_AFTER:
                return None
        return self.engine.fast

    def _encode(self, texts: Sequence[str]) -> TokenBatch:
        """The ids by Hugging Face's tokenizers, of as many texts as one call takes."""
        try:
            try:
                return self._ids(texts)
            except (UnicodeError, TypeError):  # lone surrogates are str, but no Unicode text
                return self._ids([_valid(text) for text in texts])
        except OverflowError as error:
            raise UserError(
                f"the tokenizer gives an id that no table can have ({error}): give another one"
            ) from error
        except BaseException as error:
            if not is_rusts(error):
                raise
            reason = first_line(error)
            raise UserError(f"the tokenizer fails ({reason}): give another one") from error

    def _ids(self, texts: Sequence[str]) -> TokenBatch:
        if self.words is not None and len(texts) == 1 and len(texts[0]) > MAX_CHARACTERS:
            parts = concatenate(
                [self.words.encode([part]) for part in at_spaces(texts[0], MAX_CHARACTERS)]
            )
            return TokenBatch(parts.ids, offsets_of([len(parts.ids)]))
        if self.words is not None:
            return self.words.encode(texts)
        check_length(texts)
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        offsets = offsets_of([len(encoding) for encoding in encodings])
        ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        return TokenBatch(np.fromiter(ids, np.int32, count=int(offsets[-1])), offsets)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.tokenizer.to_str(pretty=True), "utf-8")


def load_tokenizer(spec: str, *, max_tokens: int | None = None, fast: bool = True) -> TextTokenizer:
    """Load a tokenizer.

    Args:
        spec: path of a `tokenizer.json`, a folder holding one, or a hub name such as
            `bert-base-uncased`.
        max_tokens: see `TextTokenizer`.
        fast: see `TextTokenizer`.

    Raises:
        UserError: no such file, not a tokenizer, or an unreachable hub.
    """
    path = expanded(spec)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        if spec.endswith(".json") or path.name == "tokenizer.json" or spec.startswith((".", "/")):
            raise UserError(f"{path}: no such file; give a tokenizer.json, a hub name or 'train'")
        path = hub_file(HUB_ALIASES.get(spec, spec), "tokenizer.json")
    return TextTokenizer(read_tokenizer(path), max_tokens, fast)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 30_522,
    *,
    max_tokens: int | None = None,
    max_characters: int = 250_000_000,
    progress: bool = True,
) -> TextTokenizer:
    """Train BERT's lower-case WordPiece on `texts`, the same on every machine.

    Args:
        texts: read until `max_characters`; mix the sets beforehand when there are more.
        vocab_size: the largest vocabulary; small corpora give a smaller one.
        max_tokens: see `TextTokenizer`.
        max_characters: where to stop reading.
        progress: show a bar on a terminal.

    Raises:
        UserError: no text to train on, or a vocabulary smaller than its alphabet.
    """
    from tqdm.auto import tqdm  # slow to import, and encoding needs none

    sample = list(_until(texts, max_characters))
    normaliser = BertNormalizer(lowercase=True)
    alphabet = _alphabet(sample, normaliser)
    if not alphabet:
        raise UserError("no text to train a tokenizer on: the data hold only empty texts")
    # The trainer numbers its continuation letters in the order of a randomly seeded hash map,
    # and breaks ties by those numbers. Passing them as special tokens fixes the order.
    first = [*SPECIAL_TOKENS, *(f"##{letter}" for letter in alphabet)]
    if vocab_size < len(first) + len(alphabet):
        raise UserError(
            f"vocab_size is {vocab_size}, but the texts' letters alone take "
            f"{len(first) + len(alphabet)}: ask for more"
        )
    learner = _bert(WordPiece(unk_token=UNKNOWN), normaliser)
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    bar = tqdm(
        sample, desc="training the tokenizer", unit=" texts", disable=None if progress else True
    )
    learner.train_from_iterator(bar, trainer)
    # A new Tokenizer does not have those letters as special tokens: "##a" in a text is no token.
    vocab = learner.get_vocab(with_added_tokens=False) or learner.get_vocab()
    return TextTokenizer(_bert(WordPiece(vocab, unk_token=UNKNOWN), normaliser), max_tokens)


def _bert(model: WordPiece, normaliser: BertNormalizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    return tokenizer


def _alphabet(texts: Sequence[str], normaliser: BertNormalizer) -> list[str]:
    """The most frequent letters after normalisation, sorted: ties cannot depend on a hash."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    counts: Counter[str] = Counter()
    for letter, count in raw.items():
        for normal in normaliser.normalize_str(letter):
            if not normal.isspace():
                counts[normal] += count
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(ranked[:MAX_ALPHABET])


def _until(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """`texts` up to the one that reaches `max_characters` in all."""
    for text in texts:
        valid = _valid(text)
        yield valid
        max_characters -= len(valid)
        if max_characters <= 0:
            return


def _valid(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD, which BERT's normaliser drops."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cut(batch: TokenBatch, most: int) -> TokenBatch:
    """The first `most` ids of each text."""
    lengths = batch.lengths
    if not len(lengths) or lengths.max() <= most:
        return batch
    within = np.arange(len(batch.ids)) - np.repeat(batch.offsets[:-1], lengths)
    return TokenBatch(batch.ids[within < most], offsets_of(np.minimum(lengths, most)))
