"""Text to ids: the reference's ids, every odd text survives, training is deterministic."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse.common.errors import UserError
from sse.text import tokenizer as tokenizer_module
from sse.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs!",
    "Déjà vu: naïve café owners re-read the façade.",
    "Static embeddings average their tokens; nothing else happens.",
] * 5


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(iter(SENTENCES), vocab_size=400, progress=False)


def reference_ids(tokenizer, text):
    return tokenizer.tokenizer.encode(text, add_special_tokens=False).ids


def test_ids_are_the_reference_tokenizers_without_special_tokens(trained):
    texts = [*SENTENCES[:4], "", "unseen zebra", "fox"]
    batch = trained.encode(texts)
    assert [list(batch[row]) for row in range(len(texts))] == [
        reference_ids(trained, text) for text in texts
    ]
    assert batch.offsets.dtype == np.int64 and batch.ids.dtype.kind in "iu"
    assert batch.lengths[4] == 0 and trained.encode([]).offsets.tolist() == [0]


def test_batches_split_by_size_give_the_same_ids(trained, monkeypatch):
    slow = TextTokenizer(trained.tokenizer, fast=False)
    whole = slow.encode(SENTENCES)
    monkeypatch.setattr(tokenizer_module, "MAX_CHARACTERS", 100)
    parts = slow.encode(SENTENCES)
    assert np.array_equal(whole.ids, parts.ids) and np.array_equal(whole.offsets, parts.offsets)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=6))
def test_any_python_string_encodes_even_lone_surrogates(trained, texts):
    assert len(trained.encode(texts)) == len(texts)


def test_lone_surrogates_leave_their_neighbours_ids_alone(trained):
    broken, sound = (
        trained.encode(["\ud800 fox \udfff dog", "fox dog"])[0],
        trained.encode(["fox dog"]),
    )
    assert list(broken) == list(sound.ids)


def test_control_characters_are_dropped_and_a_megabyte_encodes(trained):
    batch = trained.encode(["fo\x00x\x07", "fox", "fox " * 250_000, "x" * 1_000_000, "🙂 日本 ꙮ"])
    assert list(batch[0]) == list(batch[1])
    assert batch.lengths[2] == 250_000 * batch.lengths[1]
    assert batch.lengths[3] == 1, "a word of a million letters is one unknown token"
    assert batch.lengths[4] > 0


def test_truncation_and_padding_of_the_file_are_switched_off(trained, tmp_path):
    saved = json.loads(trained.tokenizer.to_str())
    saved["truncation"] = {
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    saved["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    loaded = load_tokenizer(str(tmp_path))
    assert np.array_equal(loaded.encode(SENTENCES).ids, trained.encode(SENTENCES).ids)
    assert loaded.fingerprint == trained.fingerprint


def test_max_tokens_keeps_the_first_ids_and_changes_the_fingerprint(trained):
    cut = TextTokenizer(trained.tokenizer, max_tokens=3)
    batch = cut.encode(["", "fox", SENTENCES[0], SENTENCES[1]])
    assert batch.lengths.max() == 3 and batch.lengths[0] == 0
    assert list(batch[2]) == reference_ids(trained, SENTENCES[0])[:3]
    assert cut.fingerprint != trained.fingerprint
    with pytest.raises(UserError, match="max_tokens is 0"):
        TextTokenizer(trained.tokenizer, max_tokens=0)


def test_a_saved_tokenizer_comes_back_the_same(trained, tmp_path):
    trained.save(tmp_path / "deep" / "tokenizer.json")
    loaded = load_tokenizer(str(tmp_path / "deep" / "tokenizer.json"))
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.vocab_size == trained.vocab_size <= 400
    assert np.array_equal(loaded.encode(SENTENCES).ids, trained.encode(SENTENCES).ids)


def test_training_gives_the_same_vocabulary_in_every_process_and_thread_count(trained):
    code = (
        "from tests.text.test_tokenizer import SENTENCES;"
        "from sse.text.tokenizer import train_tokenizer;"
        "print(train_tokenizer(iter(SENTENCES), 400, progress=False).fingerprint)"
    )
    root = str(Path(__file__).parents[2])
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environment
        )
        assert done.stdout.strip() == trained.fingerprint, done.stderr


def test_a_trained_tokenizer_is_berts_wordpiece(trained):
    assert trained.tokenizer.id_to_token(1) == "[UNK]"
    pieces = trained.tokenizer.encode("Naïve FOX-jugs", add_special_tokens=False).tokens
    assert pieces == ["naive", "fox", "-", "jugs"], "lower case, no accents, split at marks"
    literal = trained.tokenizer.encode("[CLS] ##a", add_special_tokens=False).tokens
    assert "[CLS]" not in literal and "##a" not in literal, "markup in a text is just text"


def test_training_says_when_there_is_nothing_to_train_on_or_no_room():
    with pytest.raises(UserError, match="no text to train"):
        train_tokenizer(iter(["", " \n"]), progress=False)
    with pytest.raises(UserError, match="vocab_size is 20"):
        train_tokenizer(iter(SENTENCES), vocab_size=20, progress=False)


def test_bad_tokenizer_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: no such file"):
        load_tokenizer(str(tmp_path / "nowhere.json"))
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="tokenizer.json: not a tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(UserError, match="neither a file nor a hub name"):
        load_tokenizer("no such name!")


@pytest.fixture(params=["refuses", "never answers", "forbidden"])
def dead_hub(request, monkeypatch, tmp_path):
    """A hub that refuses, one that accepts and stays silent, and HF_HUB_OFFLINE=1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if request.param == "never answers" else 9
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if request.param == "forbidden" else "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        yield request.param


def test_an_unreachable_hub_says_so_within_five_seconds(dead_hub):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"google-bert/bert-base-uncased.*train one"):
        load_tokenizer("bert-base-uncased")
    assert time.monotonic() - began < 5  # the promise itself, not a measure of speed


def test_no_heavy_package_is_imported():
    code = "import sys, sse.text.tokenizer; print([m for m in sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    for heavy in ("'torch'", "'transformers'", "'sentence_transformers'", "'datasets'"):
        assert heavy not in modules


def test_a_tokenizer_that_cannot_do_what_it_is_asked_to_is_one_line(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece

    Tokenizer(WordPiece({"red": 0}, unk_token="[UNK]")).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match=r"the tokenizer fails \(.*UNK"):
        load_tokenizer(str(tmp_path / "t.json")).encode(["blue"])


def test_a_tokenizer_that_draws_lots_is_refused(tmp_path):
    model = {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model}))
    with pytest.raises(UserError, match=r"has dropout 0\.5"):
        load_tokenizer(str(path))
    path.write_text(json.dumps({"model": model | {"dropout": None}}))
    assert load_tokenizer(str(path)).encode(["ab"]).ids.tolist() == [2]


def test_a_long_text_is_cut_at_its_words(trained, monkeypatch):
    slow = TextTokenizer(trained.tokenizer, fast=False)
    text = "jugs, fox\tover " * 50 + "[MASK]lazy" + "dog" * 40 + "\nowl "
    expected = reference_ids(trained, text)
    for most in (7, 50, 200):
        monkeypatch.setattr(tokenizer_module, "MAX_CHARACTERS", most)
        assert slow.encode([text]).ids.tolist() == expected
    monkeypatch.setattr("sse.text.long_texts.MAX_TEXT", 100)
    with pytest.raises(UserError, match=r"a word of it, has \d+ characters, more than the 100"):
        slow.encode([text])
