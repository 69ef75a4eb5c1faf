"""The ONNX graph computes what the encoder computes, at any batch size and length."""

import numpy as np
import pytest

import sse
from sse.common.errors import UserError
from sse.model.convert.onnx import export_onnx
from sse.model.norm_forms import NORM_FORMS
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
    return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


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


def test_bad_input_leaves_no_file(make_model, tmp_path):
    folder = sse.export(make_model("layernorm"), tmp_path / "model")
    with pytest.raises(UserError, match="needs all its 32 dimensions"):
        export_onnx(folder, tmp_path / "model.onnx", dim=12)
    with pytest.raises(UserError, match="no folder"):
        export_onnx(tmp_path / "nothing", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
