"""A model's name on the hub works like its folder; without a hub it is one line, within seconds."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sse
from sse.common.errors import UserError
from sse.common.hub import is_hub_name
from tests.common.test_hub import dead_hub  # noqa: F401  a fixture
from tests.helpers.hub_server import hub_of

ROOT = Path(__file__).parents[2]
NAME = "some-owner/static-model"
TEXTS = ["the red circle rolls", "", "large blue"]
ENCODE = "import json, sys, sse; print(json.dumps(sse.Encoder(sys.argv[1]).encode({!r}).tolist()))"


@pytest.fixture
def published(make_model, tmp_path):
    """The published layout, with files that nobody needs."""
    folder, model = tmp_path / "published", make_model("dyt", dim=16)
    folder.mkdir()
    tensors = {"embedding.weight": model.embedding.weight.detach().numpy()}
    for name in ("alpha", "beta", "bias"):
        tensors[f"dyt.{name}"] = getattr(model.norm, name).detach().numpy()
    save_file(tensors, folder / "model.safetensors")
    model.text_tokenizer.save(folder / "tokenizer.json")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "SSE.SSE"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "SSE.py").write_text("raise SystemExit('never run')")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    return folder


def four_bit(folder):
    """The published 4-bit file in place of the table, as its author writes it."""
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop("embedding.weight")
    scale = np.abs(table).max(1, keepdims=True) + 1e-8
    q = np.clip(np.round((table / scale + 1) * 7.5), 0, 15).astype(np.uint8)
    packed = (q[:, ::2] << 4) | q[:, 1::2]
    (folder / "embedding.q4_k_m.bin").write_bytes(packed.tobytes() + scale.astype("<f4").tobytes())
    save_file(tensors, folder / "model_rest.safetensors")
    (folder / "model.safetensors").unlink()


def run(code, *arguments, endpoint, home, check=True):
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
    }
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("form", ["float32", "4-bit", "export"])
def test_a_name_is_downloaded_once_and_gives_the_folders_vectors(published, tmp_path, form):
    if form == "4-bit":
        four_bit(published)
    elif form == "export":
        sse.load(published, device="cpu").save(tmp_path / "export")
        published = tmp_path / "export"
    expected = sse.Encoder(published).encode(TEXTS)
    with hub_of(NAME, published) as (endpoint, sent):
        hub = {"endpoint": endpoint, "home": tmp_path / "home"}
        vectors = json.loads(run(ENCODE.format(TEXTS), NAME, **hub).stdout)
        np.testing.assert_array_equal(np.array(vectors, np.float32), expected)
        assert sent and not [n for n in sent if n.endswith(".py") or n.startswith("onnx")]
        sent.clear()
        command = "import sys; from sse.cli.main import main; sys.exit(main(sys.argv[1:]))"
        facts = json.loads(run(command, "info", NAME, "--json", **hub).stdout)
        assert (facts["folder"], facts["norm"], sent) == (NAME, "dyt", [])
        wrong = run(command, "info", "some-owner/other", check=False, **hub)
        assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
        assert "no such name on" in wrong.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", NAME, "--beir", str(ROOT / "examples/beir")],
        ["fit", NAME, "texts.txt", "out"],
        ["average", NAME, NAME, "out"],
        ["export", NAME, "out", "--rows", "int8"],
        ["encode", "texts.txt", "out.npy", "-m", NAME],
        ["index", "texts.txt", "out", "-m", NAME],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_takes_a_name_in_place_of_a_folder(published, tmp_path, monkeypatch, arguments):
    if arguments[0] == "index":
        pytest.importorskip("lance")
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("the red circle rolls\nlarge blue\n")
    command = "import sys; from sse.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with hub_of(NAME, published) as (endpoint, _):
        run(command, *arguments, endpoint=endpoint, home=tmp_path / "home")


def test_without_a_hub_a_name_is_one_line_within_five_seconds(dead_hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(
        UserError, match=f"{NAME} is no folder, and as a name on the hub: "
    ) as error:
        sse.Encoder(NAME)
    assert time.monotonic() - began < 5  # the promise itself, not a measure of speed
    assert "\n" not in str(error.value) and "give a model's folder" in str(error.value)


def test_only_two_plain_words_with_a_slash_are_a_name(tmp_path, monkeypatch):
    others = ["a", "a/b/c", "/a", "./a", "../a", "a/", "ä/b", "a b/c"]
    assert all(map(is_hub_name, ["a/b", "A-b.c/d_e-1.0"])) and not any(map(is_hub_name, others))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parent, "a/b")  # a folder of that name is taken, never asked for
    with pytest.raises(UserError, match=r"modules.json is missing"):
        sse.Encoder("a/b")
