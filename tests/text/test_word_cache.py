"""The word cache: the ids of the whole text, each word encoded once, bounded, shared."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit

from sse.text import word_cache
from sse.text.fast_tokenizer import HOSTILE
from sse.text.tokenizer import TextTokenizer
from sse.text.word_cache import WordCache, works_word_by_word

LETTERS = "abcdefghijklmnopqrstuvwxyzäéσςß0123456789漢あ한日本"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "mask", "the", "fox", "##ing", "[", ","]
SPECIAL = ("[UNK]", "[CLS]", "[MASK]")
NORMALISERS = {
    "uncased": BertNormalizer(lowercase=True),
    "cased": BertNormalizer(lowercase=False, strip_accents=False),
    "as it is": BertNormalizer(
        clean_text=False, handle_chinese_chars=False, lowercase=True, strip_accents=False
    ),
}


def tokenizer_of(normaliser="uncased", added=()):
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *PIECES])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = NORMALISERS[normaliser]
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[CLS]"), AddedToken("[MASK]", lstrip=True), *added])
    return tokenizer


@pytest.fixture(scope="module", params=NORMALISERS)
def tokenizer(request):
    return tokenizer_of(request.param)


@pytest.fixture(params=[1, 1 << 30], ids=["distinct words", "word by word"])
def few_letters(request, monkeypatch):
    """Both ways: by Arrow, which large batches take, and in Python, as a query goes."""
    monkeypatch.setattr(word_cache, "FEW_LETTERS", request.param)


def assert_equal_to_whole_texts(cache, tokenizer, texts):
    batch = cache.encode(texts)
    expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    assert [row.tolist() for row in map(batch.__getitem__, range(len(texts)))] == [
        encoding.ids for encoding in expected
    ]
    assert batch.ids.dtype == np.int32 and batch.ids.flags.writeable
    assert batch.offsets.dtype == np.int64


PARTS = st.one_of(
    st.sampled_from(
        [" ", "  ", "\n", "\t", "\r\n", "\x1c", "\x85", "\u3000", ",", "[", "]", "'", "-", "\u0301"]
        + ["[CLS]", "[MASK]", "[mask]", "the", "THE", "Fox", "foxing", "Ä", "É", "ß", "Σ", "İ", "K"]
        + ["漢字", "a漢b", "한국", "\u226e", "x\u0338", "\x00", "\ufffd", "\u200b", "w" * 101]
    ),
    st.text(max_size=4),
)
TEXT = st.lists(PARTS, max_size=12).map("".join)


@settings(max_examples=300, deadline=None)
@given(batches=st.lists(st.lists(TEXT, max_size=5), min_size=1, max_size=3))
@pytest.mark.parametrize("few", [1, 1 << 30], ids=["distinct words", "word by word"])
def test_ids_are_those_of_the_whole_text(tokenizer, few, batches):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_cache, "FEW_LETTERS", few)
        cache = WordCache(tokenizer)
        for texts in [*batches, batches[0]]:  # words unseen, then seen
            assert_equal_to_whole_texts(cache, tokenizer, texts)


@pytest.mark.usefixtures("few_letters")
def test_ids_are_those_of_hostile_texts(tokenizer):
    cache = WordCache(tokenizer)
    for texts in ([*HOSTILE, ""], ["", *reversed(HOSTILE)], [" ".join(HOSTILE)]):
        assert_equal_to_whole_texts(cache, tokenizer, texts)


@pytest.mark.usefixtures("few_letters")
def test_a_word_is_encoded_once():
    words_encoded = []

    class Counted(WordCache):
        def _encode(self, words):
            words_encoded.extend(words)
            return super()._encode(words)

    cache = Counted(tokenizer_of())
    for texts in (["the fox, the fox"], ["the fox"], ["fox. the", "the\nfox"]):
        cache.encode(texts)
    assert sorted(words_encoded) == [",", ".", "fox", "the"]


@pytest.mark.usefixtures("few_letters")
def test_a_full_cache_starts_again_and_long_words_are_not_kept(monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_WORDS", 50)
    tokenizer = tokenizer_of()
    cache = WordCache(tokenizer)
    for first in range(0, 400, 20):
        words = [f"w{number}" for number in range(first, first + 20)]
        assert_equal_to_whole_texts(cache, tokenizer, [" ".join(words)])
        assert len(cache) <= 51
    before = len(cache)
    cache.encode(["x" * 41, "y" * 1000])
    assert len(cache) == before


def test_threads_share_one_cache(monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_WORDS", 300)  # so that it starts again all the time
    tokenizer = tokenizer_of()
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 500, 2000)) for _ in range(60)]
    cache = WordCache(tokenizer)
    with ThreadPoolExecutor(4) as pool:
        for text, batch in zip(texts, pool.map(lambda t: cache.encode([t]), texts), strict=True):
            assert batch[0].tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_it_can_be_copied_and_sent():
    cache = WordCache(tokenizer_of())
    cache.encode(["the fox"])
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert other.encode(["the fox"]).ids.tolist() == cache.encode(["the fox"]).ids.tolist()


def test_other_tokenizers_are_not_asked_word_by_word():
    assert works_word_by_word(tokenizer_of())
    assert TextTokenizer(tokenizer_of(), fast=False).words is not None
    for added in (
        AddedToken("the fox", normalized=False),  # found only in the whole text
        AddedToken("fox", normalized=False),  # FOX would be taken for it
        AddedToken("[the]", normalized=True, special=False),  # found after normalisation
    ):
        assert not works_word_by_word(tokenizer_of(added=[added])), added
    for change in (
        {"pre_tokenizer": WhitespaceSplit()},
        {"normalizer": Sequence([BertNormalizer()])},
        {"model": BPE()},
    ):
        tokenizer = tokenizer_of()
        for name, value in change.items():
            setattr(tokenizer, name, value)
        assert not works_word_by_word(tokenizer), change
        if "model" not in change:
            texts = ["the fox, [MASK] foxing", ""]
            ids = TextTokenizer(tokenizer, fast=False).encode(texts)
            assert ids[0].tolist() == tokenizer.encode(texts[0], add_special_tokens=False).ids
