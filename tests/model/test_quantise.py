"""Smaller rows decode to what their equation says, load everywhere, and lose little."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sse
from sse.common.errors import UserError
from sse.model import table as table_module
from sse.model.folder import Q4_REST, Q4_TABLE, read_folder
from sse.model.norm_forms import NORM_FORMS
from sse.model.quantise import quantise_rows, quantise_vectors, write_compact
from sse.model.table import ROW_KINDS, EmbeddingTable
from sse.serving.encoder import Encoder
from tests.helpers.samples import unseal
from tests.helpers.tolerances import assert_within, rounding, text_vectors

KINDS = list(ROW_KINDS)
TEXTS = ["", "red circle", "the large blue square rolls over the small green circle", "é漢🎉"]
TABLES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9).map(lambda n: 2 * n)),
    # No subnormals: a scale of 1e-45 / 127 is 0 in float32, and no table holds such values.
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("m") / "model")


@settings(deadline=None)
@given(table=TABLES, kind=st.sampled_from(KINDS))
def test_a_row_is_off_by_half_a_step_at_most(table, kind):
    decoded = EmbeddingTable(*quantise_rows(table, kind)).dense()
    largest = np.abs(table).max(axis=1, keepdims=True)
    steps = {"float32": 0, "float16": np.abs(table) * 2**-10 + 2**-24, "int8": largest / 127}
    step = steps.get(kind, largest / 7.5)
    assert (np.abs(decoded - table) <= 0.5 * step * 1.001 + 1e-6 * largest + 1e-37).all()


@settings(deadline=None, max_examples=50)
@given(table=TABLES, kind=st.sampled_from(KINDS), data=st.data())
def test_pooling_small_rows_equals_pooling_them_decoded(table, kind, data):
    small = EmbeddingTable(*quantise_rows(table, kind))
    ids = data.draw(
        hnp.arrays(np.uint32, st.integers(0, 40), elements=st.integers(0, len(table) - 1))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    offsets = np.array([0, *cuts, len(ids)], np.int64)
    dim = data.draw(st.integers(1, table.shape[1]))
    out = np.full((len(offsets) - 1, dim), np.nan, np.float32)
    small.mean(ids, offsets, out)
    rows = small.dense().astype(np.float64)[:, :dim]
    sizes = np.abs(rows)
    if kind == "int4":  # q / 7.5 - 1, times the scale: the two cancel around 0
        sizes = sizes + 2 * np.abs(table).max(axis=1, keepdims=True)
    for text, (a, b) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        expected = rows[ids[a:b]].mean(axis=0) if b > a else np.zeros(dim)
        terms = sizes[ids[a:b]].mean(axis=0) if b > a else np.zeros(dim)
        tolerance = rounding(torch.from_numpy(terms), torch.float32, b - a)
        assert_within(f"pooling, {kind}", out[text], expected, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compact_folder_loads_as_encoder_and_as_torch_model(folder, kind, tmp_path, monkeypatch):
    small = write_compact(folder, tmp_path / "small", kind)
    vectors = Encoder(small).encode(TEXTS)
    torch_vectors = sse.load(small, device="cpu").encode(TEXTS, normalize_embeddings=True)
    exact, tolerance = text_vectors(sse.load(small, device="cpu")[0], TEXTS)
    assert_within("encoder, compact", vectors, exact, tolerance)
    assert_within("encoder, torch", torch_vectors, exact, tolerance)
    np.testing.assert_array_equal(vectors, Encoder(folder, rows=kind).encode(TEXTS))
    whole = Encoder(folder).encode(TEXTS)
    worst = {"float32": 1, "float16": 1 - 1e-5, "int8": 0.999, "int4": 0.95}[kind]
    assert (np.einsum("nd,nd->n", vectors, whole)[1:] >= worst - 1e-6).all()
    monkeypatch.setattr(table_module, "_table", None)
    assert_within("encoder, compact", Encoder(small).encode(TEXTS), exact, tolerance)


@pytest.mark.parametrize("norm", NORM_FORMS)
def test_a_compact_folder_keeps_every_norm(make_model, norm, tmp_path):
    folder = sse.export(make_model(norm), tmp_path / "model")
    small = write_compact(folder, tmp_path / "small", "float32")
    np.testing.assert_array_equal(Encoder(small).encode(TEXTS), Encoder(folder).encode(TEXTS))


def test_a_row_has_the_bytes_of_the_table_in_the_docstring(folder, tmp_path):
    sizes = {}
    for kind in KINDS:
        sizes[kind] = Encoder(write_compact(folder, tmp_path / kind, kind)).table.nbytes
    rows, dim = Encoder(folder).table.shape
    expected = [rows * dim * 4, rows * dim * 2, rows * (dim + 4), rows * (dim // 2 + 4)]
    assert sizes == dict(zip(KINDS, expected, strict=True))


def test_int4_is_the_published_layout(folder, tmp_path):
    small = write_compact(folder, tmp_path / "small", "int4")
    table = read_folder(folder).table
    vocab, dim = table.shape
    raw = (small / Q4_TABLE).read_bytes()
    packed = np.frombuffer(raw, np.uint8, vocab * dim // 2).reshape(vocab, dim // 2)
    scales = np.frombuffer(raw, "<f4", offset=vocab * dim // 2)
    first = (packed[:, 0] >> 4) / 7.5 - 1
    np.testing.assert_allclose(first * scales, table[:, 0], atol=float(scales.max()) / 15 + 1e-6)
    # Without this project's own file it is a published folder, and reads the same.
    (small / "sse_config.json").unlink()
    published = Encoder(small)
    again = Encoder(write_compact(folder, tmp_path / "again", "int4"))
    np.testing.assert_array_equal(published.encode(TEXTS), again.encode(TEXTS))
    assert (small / Q4_REST).exists()


def test_a_shorter_export_equals_a_shorter_vector(folder, tmp_path):
    small = write_compact(folder, tmp_path / "small", "int8", dim=10)
    prefix = Encoder(folder).encode(TEXTS, dim=10)
    assert Encoder(small).dim == 10
    np.testing.assert_allclose(Encoder(small).encode(TEXTS), prefix, atol=0.02)


@pytest.mark.parametrize(
    ("rows", "dim", "message"),
    [
        ("int5", None, "rows 'int5'"),
        ("int8", 33, "dim 33 is no prefix"),
        ("int4", 7, "pairs of columns"),
    ],
)
def test_bad_input_leaves_no_folder(folder, tmp_path, rows, dim, message):
    with pytest.raises(UserError, match=message):
        write_compact(folder, tmp_path / "small", rows, dim)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_overwritten(folder, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="holds files that are no model"):
        write_compact(folder, tmp_path, "int8")
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_truncated_table_is_refused(folder, kind, tmp_path):
    small = write_compact(folder, tmp_path / "small", kind)
    path = small / (Q4_TABLE if kind == "int4" else "model.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        Encoder(small)


def test_scales_that_are_no_numbers_are_refused(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    path = unseal(write_compact(folder, tmp_path / "small", "int8")) / "model.safetensors"
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    tensors["embedding.scale"][3] = np.nan
    save_file(tensors, path)
    with pytest.raises(UserError, match="scales hold NaN"):
        Encoder(path.parent)
    save_file(tensors | {"embedding.scale": tensors["embedding.scale"][:-1]}, path)
    with pytest.raises(UserError, match="NaN|scales for"):
        Encoder(path.parent)


def test_a_tampered_config_is_refused(folder, tmp_path):
    small = unseal(write_compact(folder, tmp_path / "small", "int8"))
    path = small / "sse_config.json"
    config = json.loads(path.read_text())
    changes = [{"rows": "int3"}, {"rows": ["x"]}, {"rows": "int4"}]
    changes += [{"vocab_size": "many"}, {"max_tokens": "x"}, {"max_tokens": -1}, {"norm": "sine"}]
    for change in changes:
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError):
            Encoder(small)
    shutil.rmtree(small)


@settings(deadline=None)
@given(x=hnp.arrays(np.float32, (5, 11), elements=st.floats(-100, 100, width=32)))
def test_vectors_keep_their_direction(x):
    q = quantise_vectors(x, "int8")
    largest = np.abs(x).max(axis=1, keepdims=True)
    least = 127 * np.finfo(np.float32).tiny  # below, a processor may take a step of x / 127 for 0
    np.testing.assert_allclose(
        q * (largest / 127), x, atol=float(largest.max()) / 127 * 0.51 + least
    )
    bits = np.unpackbits(quantise_vectors(x, "binary"), axis=1)[:, :11]
    np.testing.assert_array_equal(bits == 1, x > 0)


@pytest.mark.parametrize(("precision", "shape"), [("int8", (4, 32)), ("binary", (4, 4))])
def test_the_encoder_gives_quantised_vectors(folder, precision, shape):
    model = Encoder(folder)
    vectors = model.encode(TEXTS, precision=precision)
    assert vectors.shape == shape
    np.testing.assert_array_equal(vectors, quantise_vectors(model.encode(TEXTS), precision))
