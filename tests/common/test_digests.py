"""A flipped bit is found, wherever it is; what was never sealed still opens."""

import json

import numpy as np
import pytest

import sse
from sse.common.digests import BLOCK, digest_bytes, digest_file, is_sealed, seal_file
from sse.common.errors import UserError
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from tests.helpers.samples import unseal


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 9, 3 * BLOCK])
def test_every_flipped_bit_and_every_cut_changes_the_digest(tmp_path, size):
    generator = np.random.default_rng(size)
    content = generator.integers(0, 256, size, np.uint8)
    path = tmp_path / "x"
    content.tofile(path)
    whole = digest_file(path)
    assert whole == digest_bytes(content) == digest_bytes(content.tobytes())
    for at in {0, size // 2, size - 1, *generator.integers(0, size, 20).tolist()} if size else ():
        changed = content.copy()
        changed[at] ^= 1 << generator.integers(8)
        assert digest_bytes(changed) != whole
        assert digest_bytes(content[:at]) != whole
    assert digest_bytes(np.append(content, np.uint8(0))) != whole, "a zero more"


def test_opposite_flips_and_swapped_words_change_the_digest():
    """What a plain sum would miss."""
    words = np.arange(4096, dtype="<u8")
    whole = digest_bytes(words)
    for a, b in ((2, 1), (1025, 2048), (600, 0)):  # in one row, across rows, at a corner
        changed = words.copy()
        changed[[a, b]] = changed[[b, a]]
        assert digest_bytes(changed) != whole


@pytest.fixture(params=["portable", "int8", "int4"])
def folder(request, make_model, tmp_path):
    made = sse.export(make_model("dyt"), tmp_path / "model")
    compact = request.param in ("int8", "int4")
    return write_compact(made, tmp_path / "small", request.param) if compact else made


def test_a_flipped_bit_in_any_file_that_is_read_is_one_line(folder):
    texts = ["red circle", "large blue square"]
    expected = Encoder(folder).encode(texts)
    generator = np.random.default_rng(0)
    unread = {"README.md", "config.json", "tokenizer_config.json"}
    if "rows" in json.loads((folder / "sse_config.json").read_text("utf-8")):
        unread.add("modules.json")  # sentence-transformers' alone
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in unread]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        for _ in range(8):
            flipped = bytearray(content)
            flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
            path.write_bytes(flipped)
            with pytest.raises(UserError, match=r"damaged|no JSON|changed|missing"):
                Encoder(folder)
        path.write_bytes(content)
    np.testing.assert_array_equal(Encoder(folder).encode(texts), expected)


def test_every_reader_verifies_and_one_may_ask_not_to(make_model, tmp_path):
    folder = sse.export(make_model(), tmp_path / "model")
    assert Encoder(folder).info()["digests"] == "verified"
    table = folder / "model.safetensors"
    content = bytearray(table.read_bytes())
    content[-5] ^= 4
    table.write_bytes(content)
    for read in (Encoder, sse.load):
        with pytest.raises(UserError, match=r"model.safetensors is damaged, or was changed"):
            read(folder)
    assert Encoder(folder, verify=False).info()["digests"] == "none"
    assert Encoder(unseal(folder)).info()["digests"] == "none"


def test_a_changed_line_of_the_configuration_is_found(make_model, tmp_path):
    folder = sse.export(make_model(), tmp_path / "model")
    path = folder / "sse_config.json"
    config = json.loads(path.read_text("utf-8"))
    for change in ({"max_tokens": 7}, {"files": {}}, {"files": None}, {"check": "0"}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match="sse_config.json is damaged, or was changed"):
            Encoder(folder)


def test_a_cached_file_is_sealed_until_it_changes(tmp_path):
    path = tmp_path / "kept.json"
    assert not is_sealed(path)
    path.write_text("content")
    assert not is_sealed(path)
    seal_file(path)
    assert is_sealed(path)
    path.write_text("Content")
    assert not is_sealed(path)
