"""A folder for model2vec holds the norm in its table, says what differs, and refuses the rest."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import sse
from sse.cli.main import main
from sse.common.errors import UserError
from sse.model.convert.model2vec import write_model2vec

KNOWN = ["red circle rolls", "large blue square", "red"]  # words the tokenizer has


@pytest.fixture
def source(make_model, tmp_path):
    return lambda norm: sse.export(make_model(norm), tmp_path / norm)


@pytest.mark.parametrize("norm", ["none", "gain", "rmsnorm"])
def test_without_a_tanh_the_vectors_are_equal(source, tmp_path, norm):
    folder = source(norm)
    notes = write_model2vec(folder, tmp_path / "m")
    assert len(notes) == 1 and "[UNK]" in notes[0]
    expected = sse.Encoder(folder).encode(KNOWN)
    np.testing.assert_allclose(sse.Encoder(tmp_path / "m").encode(KNOWN), expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["dyt", "dyt_scalar", "dyt_frozen", "dyt_outside", "hardtanh"])
def test_a_gate_is_its_line_without_the_activation(source, make_model, tmp_path, norm):
    notes = write_model2vec(source(norm), tmp_path / "m", dim=8)
    assert any("near, not equal" in note for note in notes)
    model = make_model(norm)
    alpha, beta, bias = (
        np.broadcast_to(getattr(model.norm, name).detach().numpy(), 32)[:8]
        for name in ("alpha", "beta", "bias")
    )
    table = model.embedding.weight.detach().numpy()[:, :8]
    expected = beta * alpha * table + (bias if norm == "dyt_outside" else beta * bias)
    found = load_file(tmp_path / "m" / "model.safetensors")["embeddings"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layernorm_and_int8_rows_are_refused_and_leave_nothing(source, tmp_path):
    with pytest.raises(UserError, match="no model2vec table gives the vectors of layernorm"):
        write_model2vec(source("layernorm"), tmp_path / "m")
    with pytest.raises(UserError, match="float32 or float16"):
        write_model2vec(source("none"), tmp_path / "m", rows="int8")
    assert not (tmp_path / "m").exists()


def test_the_command_prints_what_differs(make_model, tmp_path, capsys):
    model = sse.SSEModel(modules=[make_model()], prompts={"query": "red "}, device="cpu")
    model.save(tmp_path / "model")
    out = str(tmp_path / "m")
    assert main(["export", str(tmp_path / "model"), out, "--to", "model2vec", "--json"]) == 0
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert "[UNK]" in notes and "without its tanh" in notes and "knows no prompts" in notes
    assert main(["export", out, str(tmp_path / "m.onnx"), "--to", "model2vec"]) == 2
    assert "names an ONNX file" in capsys.readouterr().err


def test_model2vec_takes_no_folder_of_ours_for_its_own(source, tmp_path):
    """With config.json model2vec asks for a tensor that the table's file does not hold."""
    from sse.model.quantise import write_compact

    folder = source("dyt")
    for made in (folder, write_compact(folder, tmp_path / "small", "float16")):
        assert (made / "config.json").exists()
        assert "embeddings" not in load_file(made / "model.safetensors")
        assert json.loads((made / "config.json").read_text())["model_type"] != "model2vec"
