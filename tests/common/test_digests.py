"""A flipped bit anywhere is an error; a folder without digests, or with older ones, opens."""

import json
import zlib

import numpy as np
import pytest

import sse
from sse.common.digests import BLOCK, digest_file, is_whole, write_digest
from sse.common.errors import UserError
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from tests.helpers.samples import unseal


@pytest.mark.parametrize("size", [0, 1, 4097, BLOCK - 1, BLOCK, BLOCK + 9, 3 * BLOCK])
def test_every_flipped_bit_and_every_cut_changes_the_digest(tmp_path, size):
    generator = np.random.default_rng(size)
    content = generator.integers(0, 256, size, np.uint8)
    path = tmp_path / "x"

    def digest(data):
        data.tofile(path)
        return digest_file(path)

    whole = digest(content)
    for position in (
        {0, size // 2, size - 1, *generator.integers(0, size, 5).tolist()} if size else ()
    ):
        changed = content.copy()
        changed[position] ^= 1 << generator.integers(8)
        assert digest(changed) != whole
        assert digest(content[:position]) != whole
    assert digest(np.append(content, np.uint8(0))) != whole, "a zero more"


def test_a_digest_is_the_size_and_the_crc_32_of_each_block(tmp_path):
    content = np.random.default_rng(0).bytes(2 * BLOCK + 5)
    (tmp_path / "x").write_bytes(content)
    blocks = (content[start : start + BLOCK] for start in range(0, len(content), BLOCK))
    expected = [f"{len(content):x}", *(f"{zlib.crc32(block):08x}" for block in blocks)]
    assert digest_file(tmp_path / "x") == "-".join(expected)


@pytest.fixture(params=["portable", "int8", "int4"])
def folder(request, make_model, tmp_path):
    portable = sse.export(make_model("dyt"), tmp_path / "model")
    compact = request.param in ("int8", "int4")
    return write_compact(portable, tmp_path / "small", request.param) if compact else portable


def test_a_flipped_bit_in_any_listed_file_is_one_line(folder):
    texts = ["red circle", "large blue square"]
    expected = Encoder(folder).encode(texts)
    generator = np.random.default_rng(0)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"]
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


def test_every_reader_verifies_unless_verify_is_false(make_model, tmp_path):
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


def test_a_changed_line_of_the_configuration_is_an_error(make_model, tmp_path):
    folder = sse.export(make_model(), tmp_path / "model")
    path = folder / "sse_config.json"
    config = json.loads(path.read_text("utf-8"))
    changes = [{"max_tokens": 7}, {"config_digest": "0"}, *({"digests": v} for v in ({}, None))]
    for change in changes:
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match="sse_config.json is damaged, or was changed"):
            Encoder(folder)


@pytest.fixture
def older(make_model, tmp_path):
    """A folder whose digests are of the older kind: the size, and a CRC of sums."""
    folder = unseal(sse.export(make_model(), tmp_path / "model"))
    path = folder / "sse_config.json"
    config = json.loads(path.read_text("utf-8"))
    listed = ("model.safetensors", "tokenizer.json")
    config["files"] = {n: f"{(folder / n).stat().st_size:x}-0badc0de" for n in listed}
    check = f"{zlib.crc32(json.dumps(config, sort_keys=True).encode()):08x}"
    path.write_text(json.dumps(config | {"check": check}))
    return folder


def test_an_older_folder_opens_and_its_sizes_are_compared(older):
    assert Encoder(older).info()["digests"] == "sizes"
    with open(older / "tokenizer.json", "a") as file:
        file.write(" ")
    with pytest.raises(UserError, match=r"tokenizer.json is damaged, or was changed"):
        Encoder(older)
    assert Encoder(older, verify=False).encode("red").shape == (32,)


def test_a_changed_line_of_an_older_configuration_is_an_error(older):
    path = older / "sse_config.json"
    config = json.loads(path.read_text("utf-8"))
    for change in ({"max_tokens": 7}, {"files": {}}, {"files": None}, {"check": "0"}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match="sse_config.json is damaged, or was changed"):
            Encoder(older)


def test_a_cached_file_is_whole_until_it_changes(tmp_path):
    path = tmp_path / "cached.json"
    assert not is_whole(path)
    path.write_text("content")
    assert not is_whole(path)
    write_digest(path)
    assert is_whole(path)
    path.write_text("Content")
    assert not is_whole(path)
