"""nanotoken is used only after it has proven equal, and then gives the same ids."""

import copy
import functools
import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import NFD

from sse.text import fast_tokenizer
from sse.text.fast_tokenizer import FastTokenizer, choose_engine, probes
from sse.text.tokenizer import TextTokenizer

pytest.importorskip("nanotoken", reason="the extra 'fast' is not installed")
ANY_TEXT = st.text(st.characters(codec=None), max_size=60)


@functools.cache
def _both(tokenizer):
    return [TextTokenizer(tokenizer.tokenizer, 9, fast=fast) for fast in (True, False)]


def test_it_is_taken_when_equal(tokenizer):
    engine = choose_engine(tokenizer.tokenizer)
    assert (engine.name, engine.fast is not None) == ("nanotoken", True)
    assert "the same ids" in engine.reason


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_ids_are_equal_on_any_text(tokenizer, texts):
    both = _both(tokenizer)
    assert [t.engine.name for t in both] == ["nanotoken", "tokenizers"]
    fast, slow = (t.encode(texts) for t in both)
    assert fast.ids.tolist() == slow.ids.tolist()
    assert fast.offsets.tolist() == slow.offsets.tolist()
    assert fast.ids.dtype == slow.ids.dtype


def test_one_different_id_keeps_hugging_faces(tokenizer, monkeypatch):
    real = FastTokenizer.encode

    def wrong_on_one(self, texts, parallel=None):
        batch = real(self, texts, parallel)
        ids = batch.ids.copy()
        ids[-1] += 1
        return type(batch)(ids, batch.offsets)

    monkeypatch.setattr(FastTokenizer, "encode", wrong_on_one)
    engine = choose_engine(tokenizer.tokenizer)
    assert (engine.name, engine.fast) == ("tokenizers", None)
    assert "other ids" in engine.reason


def test_an_unknown_tokenizer_keeps_hugging_faces(tokenizer):
    other = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    other.normalizer = NFD()
    engine = choose_engine(other)
    encoder = TextTokenizer(other)
    texts = ["Red CIRCLE é"]
    assert encoder.encode(texts)[0].tolist() == other.encode_batch(texts)[0].ids
    assert engine.name == "tokenizers" or "the same ids" in engine.reason


def test_a_panic_keeps_hugging_faces(tokenizer, monkeypatch):
    class Panic(BaseException):
        pass

    def fail(self, texts, parallel=None):
        raise Panic("index out of bounds")

    monkeypatch.setattr(FastTokenizer, "encode", fail)
    assert "index out of bounds" in choose_engine(tokenizer.tokenizer).reason


def test_few_texts_do_not_pay_for_a_probe(tokenizer):
    slow, texts = TextTokenizer(tokenizer.tokenizer), ["red circle"] * 200
    before = slow.encode(texts)
    assert "engine" not in vars(slow)
    after = slow.encode(texts)
    assert slow.engine.name == "nanotoken"
    assert before.ids.tolist() == after.ids.tolist()


def test_it_can_be_copied_and_sent(tokenizer):
    assert tokenizer.engine.fast is not None
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert (
            twin.encode(["red circle"]).ids.tolist()
            == tokenizer.encode(["red circle"]).ids.tolist()
        )
        assert twin.engine.name == "nanotoken"


def test_probes_are_many_and_valid(tokenizer):
    texts = probes(tokenizer.tokenizer)
    assert len(texts) > 2000
    assert "".join(texts).encode("utf-8")
    assert "[MASK]" in texts


def test_without_nanotoken_the_reason_says_how_to_get_it(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    engine = choose_engine(tokenizer.tokenizer)
    assert engine.name == "tokenizers"
    assert fast_tokenizer.INSTALL in engine.reason
