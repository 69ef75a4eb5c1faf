"""The ONNX graph computes what the encoder computes, at any batch size and length."""

import numpy as np
import pytest

import sse
from sse.common.errors import UserError
from sse.model.convert.onnx import export_onnx
from sse.model.norm_forms import NORM_FORMS
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from tests.helpers.tolerances import assert_within, text_vectors

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

TEXTS = ["red circle", "", "large blue square over the small green one", "é漢🎉", "red x " * 20]


def padded(batch):
    """The graph's inputs, ids and mask, both (texts, most tokens per text), of a ragged batch."""
    mask = np.arange(batch.lengths.max(initial=0)) < batch.lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = batch.ids
    return ids, mask.astype(np.int64)


def run(path, batch):
    ids, mask = padded(batch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    vectors, repeated = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert repeated.shape == (*ids.shape, vectors.shape[1])
    assert (repeated == vectors[:, None]).all()
    return vectors


@pytest.fixture(params=NORM_FORMS)
def folder(request, make_model, tmp_path):
    return sse.export(make_model(request.param), tmp_path / "model")


def test_the_graph_equals_the_encoder_at_every_batch_size_and_length(folder, tmp_path):
    path = export_onnx(folder, tmp_path / "model.onnx")
    model = Encoder(folder)
    for texts in (TEXTS, TEXTS[:1], TEXTS * 7, ["", ""], [""]):
        vectors = run(path, model.tokenizer.encode(texts))
        exact, tolerance = text_vectors(sse.load(folder)[0], texts, normalize=False)
        assert_within("onnx", vectors, exact, tolerance)
        assert_within("onnx, encoder", model.encode(texts, normalize=False), exact, tolerance)


def test_ids_under_the_mask_do_not_change_a_vector(folder, tmp_path):
    path = export_onnx(folder, tmp_path / "model.onnx")
    batch = Encoder(folder).tokenizer.encode(TEXTS)
    ids, mask = padded(batch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    noise = np.where(mask == 1, ids, 7)
    for input_ids in (noise, ids):
        vectors = session.run(None, {"input_ids": input_ids, "attention_mask": mask})[0]
        np.testing.assert_array_equal(vectors, run(path, batch))


def test_a_graph_of_fewer_dimensions_gives_the_prefix(make_model, tmp_path):
    folder = sse.export(make_model("dyt"), tmp_path / "model")
    path = export_onnx(folder, tmp_path / "model.onnx", dim=12)
    model = Encoder(folder)
    vectors = run(path, model.tokenizer.encode(TEXTS))
    exact, tolerance = text_vectors(sse.load(folder)[0], TEXTS, normalize=False, dim=12)
    assert_within("onnx", vectors, exact, tolerance)


@pytest.mark.parametrize("rows", ["float16", "int8", "int4"])
@pytest.mark.parametrize("dim", [None, 12])
def test_smaller_rows_equal_the_same_rows_in_a_folder(make_model, tmp_path, rows, dim):
    folder = sse.export(make_model("dyt", dim=256), tmp_path / "model")
    path = export_onnx(folder, tmp_path / "model.onnx", dim, rows)
    model = Encoder(write_compact(folder, tmp_path / "small", rows, dim))
    for texts in (TEXTS, [""], TEXTS[:1]):
        vectors = run(path, model.tokenizer.encode(texts))
        expected = model.encode(texts, normalize=False)
        np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows, steps", [("int8", 254), ("int4", 15)])
def test_smaller_rows_are_within_their_own_error(make_model, tmp_path, rows, steps):
    folder = sse.export(make_model("none", dim=256), tmp_path / "model")
    path = export_onnx(folder, tmp_path / "model.onnx", rows=rows)
    model = Encoder(folder)
    vectors = run(path, model.tokenizer.encode(TEXTS))
    error = np.abs(vectors - model.encode(TEXTS, normalize=False)).max()
    assert 0 < error <= np.abs(model.table.rows).max() / steps
    whole = export_onnx(folder, tmp_path / "whole.onnx")
    assert path.stat().st_size < whole.stat().st_size / (3 if rows == "int8" else 6)


def test_the_file_states_its_opset_and_any_size(make_model, tmp_path):
    folder = sse.export(make_model("dyt"), tmp_path / "model")
    for rows in ("float32", "int4"):
        proto = onnx.load(export_onnx(folder, tmp_path / "model.onnx", rows=rows))
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
        shapes = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*proto.graph.input, *proto.graph.output)
        }
        assert shapes == {
            "input_ids": ["batch", "tokens"],
            "attention_mask": ["batch", "tokens"],
            "sentence_embedding": ["batch", 32],
            "last_hidden_state": ["batch", "tokens", 32],
        }


def test_bad_input_leaves_no_file(make_model, tmp_path):
    folder = sse.export(make_model("layernorm"), tmp_path / "model")
    with pytest.raises(UserError, match="needs all its 32 dimensions"):
        export_onnx(folder, tmp_path / "model.onnx", dim=12)
    with pytest.raises(UserError, match="no folder"):
        export_onnx(tmp_path / "nothing", tmp_path / "model.onnx")
    with pytest.raises(UserError, match="pairs of columns"):
        export_onnx(sse.export(make_model("none"), tmp_path / "m"), tmp_path / "o.onnx", 7, "int4")
    assert not list(tmp_path.glob("*.onnx"))
