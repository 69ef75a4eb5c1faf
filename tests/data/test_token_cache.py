"""The token cache: the tokenizer's own ids, kept through kills, damage, sharing and full disks."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest

import sse.data.token_cache as cache_module
from sse.data.columns import Column
from sse.data.pair_set import make_pair_set
from sse.data.token_cache import text_hashes, tokenize_set
from sse.text.token_batch import TokenBatch
from sse.text.tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
WORDS = ["red", "green", "blue", "circle", "square", "large", "small", "spins", "rolls", "over"]


def pair_set(rows=40, name="toy", seed=0, negatives=1):
    """Rows of words; some texts are empty, and one is long."""
    random = np.random.default_rng(seed)
    words = np.array(WORDS)

    def text(row):
        return "" if row % 9 == 4 else " ".join(random.choice(words, 1 + row % 7))

    names = ["anchor", "positive", *(f"negative_{k + 1}" for k in range(negatives))]
    data = datasets.Dataset.from_dict({name: [text(row) for row in range(rows)] for name in names})
    sources = [Column("anchor", "anchor"), Column("positive", "positive")]
    sources += [Column("negative", name) for name in names[2:]]
    return make_pair_set(name, data, sources)


def agrees(tokens, pairs, tokenizer):
    """Whether every id, offset and text id is what a direct call gives."""
    for at, column in enumerate(pairs.columns):
        texts = pairs.texts(column)
        expected = tokenizer.encode(texts)
        if not (
            np.array_equal(tokens.tokens[at].ids, expected.ids)
            and np.array_equal(tokens.tokens[at].offsets, expected.offsets)
            and np.array_equal(tokens.text_ids[:, at], text_hashes(texts))
        ):
            return False
    return len(tokens) == len(pairs) and tokens.columns == pairs.columns


def entry(folder):
    """The one cache entry of `folder`."""
    return next(path for path in Path(folder).iterdir() if path.is_dir())


def never(*_):
    raise AssertionError("tokenised again")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of three rows, each recorded."""
    monkeypatch.setattr(cache_module, "RECORD_ROWS", 1)
    original = cache_module.PairSet.chunks
    monkeypatch.setattr(
        cache_module.PairSet, "chunks", lambda self, start=0: original(self, start, rows=3)
    )


def test_tokens_are_the_tokenizers_own_and_mapped_from_uint16(tokenizer, tmp_path, small_chunks):
    pairs = pair_set()
    tokens = tokenize_set(pairs, tokenizer, tmp_path, progress=False)
    assert agrees(tokens, pairs, tokenizer)
    for ragged in tokens.tokens:
        assert ragged.ids.dtype == np.uint16 and isinstance(ragged.ids, np.memmap)
        assert isinstance(ragged.offsets, np.memmap) and not ragged.ids.flags.writeable


def test_a_large_vocabulary_takes_int32(tokenizer, tmp_path):
    large = TextTokenizer(tokenizer.tokenizer)
    large.vocab_size = (1 << 16) + 1
    tokens = tokenize_set(pair_set(), large, tmp_path, progress=False)
    assert tokens.tokens[0].ids.dtype == np.int32 and agrees(tokens, pair_set(), tokenizer)


def test_the_second_time_nothing_is_tokenised(tokenizer, tmp_path, monkeypatch):
    first = tokenize_set(pair_set(), tokenizer, tmp_path, progress=False)
    monkeypatch.setattr(TextTokenizer, "encode", never)
    again = tokenize_set(pair_set(name="toy"), tokenizer, tmp_path, progress=False)
    assert np.array_equal(first.tokens[1].ids, again.tokens[1].ids)


def test_other_texts_tokenizers_and_columns_have_entries_of_their_own(tokenizer, tmp_path):
    cut = TextTokenizer(tokenizer.tokenizer, max_tokens=2)
    for pairs, used in (
        (pair_set(), tokenizer),
        (pair_set(seed=1), tokenizer),
        (pair_set(negatives=0), tokenizer),
        (pair_set(), cut),
    ):
        assert agrees(tokenize_set(pairs, used, tmp_path, progress=False), pairs, used)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 4


def test_an_interrupted_build_goes_on_from_its_last_record(
    tokenizer, tmp_path, monkeypatch, small_chunks
):
    encode, calls = TextTokenizer.encode, []

    def stops(self, texts):
        calls.append(len(texts))
        if len(calls) == 10:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(TextTokenizer, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        tokenize_set(pair_set(), tokenizer, tmp_path, progress=False)
    assert json.loads((entry(tmp_path) / "record.json").read_text())["rows"] == 9
    # What a killed run wrote after its last record does not count.
    with open(entry(tmp_path) / "ids_0", "ab") as file:
        file.write(b"torn")
    calls.clear()
    monkeypatch.setattr(
        TextTokenizer, "encode", lambda self, texts: calls.append(len(texts)) or encode(self, texts)
    )
    tokens = tokenize_set(pair_set(), tokenizer, tmp_path, progress=False)
    assert sum(calls) == 3 * (40 - 9), "rows on record are not tokenised again"
    monkeypatch.undo()
    assert agrees(tokens, pair_set(), tokenizer)


def test_a_killed_process_leaves_a_build_that_goes_on(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    code = f"""
import time
import sse.data.token_cache as cache
from sse.text.tokenizer import TextTokenizer, load_tokenizer
from tests.data.test_token_cache import pair_set
cache.RECORD_ROWS = 1
chunks = cache.PairSet.chunks
cache.PairSet.chunks = lambda self, start=0: chunks(self, start, rows=2)
encode = TextTokenizer.encode
def slow(self, texts):
    time.sleep(0.02)
    return encode(self, texts)
TextTokenizer.encode = slow
cache.tokenize_set(
    pair_set(400), load_tokenizer({str(tmp_path)!r}), {str(tmp_path / "cache")!r}, progress=False
)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/*/record.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = json.loads((entry(tmp_path / "cache") / "record.json").read_text())["rows"]
    assert 0 < rows < 400
    tokens = tokenize_set(pair_set(400), tokenizer, tmp_path / "cache", progress=False)
    assert agrees(tokens, pair_set(400), tokenizer)


def damage_flip(folder):
    data = bytearray((folder / "ids_1").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "ids_1").write_bytes(data)


def damage_cut(folder):
    os.truncate(folder / "text_ids", 8)


def damage_append(folder):
    with open(folder / "offsets_0", "ab") as file:
        file.write(b"12345678")


def damage_delete(folder):
    (folder / "ids_0").unlink()


def damage_record(folder):
    (folder / "record.json").write_text('{"rows": 40')


def damage_count(folder):
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "rows": 39}))


@pytest.mark.parametrize(
    "damage",
    [damage_flip, damage_cut, damage_append, damage_delete, damage_record, damage_count],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_cache_is_built_again_and_says_so(tokenizer, tmp_path, damage):
    tokenize_set(pair_set(), tokenizer, tmp_path, progress=False)
    damage(entry(tmp_path))
    said = []
    tokens = tokenize_set(pair_set(), tokenizer, tmp_path, progress=False, say=said.append)
    assert agrees(tokens, pair_set(), tokenizer)
    assert len(said) == 1 and "toy" in said[0] and "built again" in said[0]


def test_two_runs_share_one_build(tokenizer, tmp_path, monkeypatch):
    encode, calls, said = TextTokenizer.encode, [], []

    def slow(self, texts):
        calls.append(len(texts))
        time.sleep(0.1)
        return encode(self, texts)

    monkeypatch.setattr(TextTokenizer, "encode", slow)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(tokenize_set, pair_set(), tokenizer, tmp_path, False, said.append)
            for _ in range(2)
        ]
        both = [run.result() for run in runs]
    monkeypatch.undo()
    assert sum(calls) == 3 * 40, "each text once, not once a run"
    assert all(agrees(tokens, pair_set(), tokenizer) for tokens in both)
    assert any("waiting" in line for line in said)


def test_a_full_disk_leaves_nothing_that_is_taken_for_whole(
    tokenizer, tmp_path, monkeypatch, small_chunks
):
    write, room = cache_module._write, [50]

    def full(file, part, entry):
        room[0] -= 1
        if room[0] < 0:
            file.write(part.tobytes()[:3])  # a disk fills up in the middle of a value
            raise OSError(errno.ENOSPC, "No space left on device", "ids_0")
        write(file, part, entry)

    monkeypatch.setattr(cache_module, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        tokenize_set(pair_set(), tokenizer, tmp_path, progress=False)
    assert json.loads((entry(tmp_path) / "record.json").read_text())["rows"] < 40
    assert not list(entry(tmp_path).glob(".*")), "no temporary file stays"
    monkeypatch.setattr(cache_module, "_write", write)
    said = []
    tokens = tokenize_set(pair_set(), tokenizer, tmp_path, progress=False, say=said.append)
    assert agrees(tokens, pair_set(), tokenizer) and not said, "it went on, undamaged"


def test_memory_stays_at_a_chunk(tokenizer, tmp_path, monkeypatch):
    def encode(self, texts):
        return TokenBatch(np.ones(500 * len(texts), np.int32), np.arange(len(texts) + 1) * 500)

    monkeypatch.setattr(TextTokenizer, "encode", encode)  # the real one would take minutes
    data = datasets.Dataset.from_dict({"anchor": ["red"] * 40_000, "positive": ["blue"] * 40_000})
    sources = [Column("anchor", "anchor"), Column("positive", "positive")]
    pairs = make_pair_set("large", data, sources)
    tracemalloc.start()
    try:
        tokens = tokenize_set(pairs, tokenizer, tmp_path, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    count = sum(len(ragged.ids) for ragged in tokens.tokens)
    assert count == 40_000_000
    assert peak < count / 2, "not even a quarter of the tokens' 2 bytes each is held at once"


def test_only_empty_texts_and_hashes_of_odd_strings(tokenizer, tmp_path):
    data = datasets.Dataset.from_dict({"anchor": ["", ""], "positive": ["", ""]})
    sources = [Column("anchor", "anchor"), Column("positive", "positive")]
    tokens = tokenize_set(make_pair_set("void", data, sources), tokenizer, tmp_path, progress=False)
    assert len(tokens) == 2 and tokens.tokens[0].lengths.tolist() == [0, 0]
    # blake2b of the UTF-8 bytes: other machines must find the same number.
    assert text_hashes(["", "fox"]).tolist() == [13020603013274838756, 13218999603221225746]
    assert len(set(text_hashes(["\ud800", "\ud801", "a", "a "]).tolist())) == 4
