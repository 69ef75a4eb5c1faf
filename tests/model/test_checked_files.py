"""A model folder from a stranger cannot make this machine read, allocate or run anything."""

import json
import os
import shutil
import struct

import numpy as np
import pytest

import sse
from sse.common.errors import UserError
from sse.model.checked_files import Tensors
from sse.serving.encoder import Encoder
from tests.helpers.samples import unseal


@pytest.fixture
def folder(make_model, tmp_path):
    return unseal(sse.export(make_model(), tmp_path / "model"))


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    secret = shutil.move(folder / "tokenizer.json", tmp_path / "secret.json")
    (folder / "tokenizer.json").symlink_to(secret)
    with pytest.raises(UserError, match=r"tokenizer.json leads out of the model's folder"):
        Encoder(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "inside").mkdir()
    shutil.move(secret, folder / "inside" / "t.json")
    (folder / "tokenizer.json").symlink_to("inside/t.json")  # within it, links may lead anywhere
    assert Encoder(folder).encode("red").shape == (32,)
    (tmp_path / "elsewhere").symlink_to(folder)  # and so may a link to the folder itself
    assert Encoder(tmp_path / "elsewhere").encode("red").shape == (32,)


def test_the_hubs_cache_of_links_into_blobs_opens(folder, tmp_path):
    hub = tmp_path / "models--a--b"
    blobs, snapshot = hub / "blobs", hub / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    for number, path in enumerate(p for p in folder.rglob("*") if p.is_file()):
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    np.testing.assert_array_equal(Encoder(snapshot).encode("red"), Encoder(folder).encode("red"))
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(UserError, match="leads out"):
        Encoder(snapshot)


@pytest.mark.parametrize("path", ["..", ".", "../model", "/etc", "a/b", "1_Dense\0", "", None, 7])
def test_modules_cannot_name_a_place_outside(folder, path):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="gives no folder|is missing"):
        Encoder(folder)


@pytest.mark.parametrize("name", ["sse_config.json", "modules.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["[]", "{}", "3", "[[[" * 9000, '[{"a":', "\udcff", "[null]"])
def test_json_of_another_kind_is_one_line(folder, name, content):
    (folder / name).write_text(content, "utf-8", "surrogatepass")
    with pytest.raises(UserError):
        Encoder(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [%b], "data_offsets": [0, 4]}}' % (b"9" * 4000),
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [1000, 1004]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 3}',
        b"[]",
    ],
)
def test_a_hostile_table_header_is_one_line_and_allocates_nothing(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(UserError, match="damaged"):
        Tensors(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + header)
    with pytest.raises(UserError, match=r"a header of \d+ bytes"):
        Tensors(path)
