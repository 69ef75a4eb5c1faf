"""A model folder of another layout, or without some of its files, is refused in one line."""

import json
import shutil

import pytest

import sse
from sse.common.errors import UserError
from sse.model.quantise import write_compact
from tests.helpers.samples import unseal


def without(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def config(**entries):
    def change(folder):
        path = unseal(folder) / "sse_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


CHANGES = {
    "a newer layout": (config(format=2), "format 2, this version reads 1: upgrade sse"),
    "an unknown norm": (config(norm="gate"), "names the norm 'gate'"),
    "no first Dense": (without("1_Dense"), "1_Dense/model.safetensors is missing"),
    "no second Dense": (without("2_Dense"), "2_Dense/model.safetensors is missing"),
    "no modules": (without("modules.json", "1_Dense", "2_Dense"), "modules.json is missing"),
    "no config": (without("sse_config.json"), "modules StaticEmbedding, Dense, Dense: only a"),
    "neither config nor Dense": (
        without("sse_config.json", "1_Dense", "2_Dense"),
        "modules StaticEmbedding, Dense, Dense: only a",
    ),
    "neither config nor modules": (
        without("sse_config.json", "modules.json"),
        "modules.json is missing",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("open_model", [sse.Encoder, sse.load])
def test_an_export_is_refused(make_model, tmp_path, open_model, name):
    change, message = CHANGES[name]
    change(folder := sse.export(make_model("dyt"), tmp_path / "model"))
    with pytest.raises(UserError, match=message) as error:
        open_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows", ["int8", "int4"])
@pytest.mark.parametrize("norm", ["none", "dyt_scalar", "layernorm"])
def test_a_compact_folder_with_the_norm_of_another_is_refused(make_model, tmp_path, rows, norm):
    source = sse.export(make_model("dyt"), tmp_path / "model")
    other = sse.export(make_model(norm), tmp_path / "other")
    folders = [write_compact(f, tmp_path / f"{f.name}.small", rows) for f in (source, other)]
    for folder in folders:
        unseal(folder)
    shutil.copy(folders[0] / "sse_config.json", folders[1])
    with pytest.raises(UserError, match="alpha"):
        sse.Encoder(folders[1])
