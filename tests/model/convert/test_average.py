"""An averaged model is the weighted mean of the tables and the norm's vectors."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import sse
from sse.common.errors import UserError
from sse.model.folder import read_folder
from sse.model.quantise import write_compact
from sse.serving.encoder import Encoder
from sse.text.frequencies import count_tokens
from sse.text.tokenizer import train_tokenizer
from tests.helpers.samples import sentences

TEXTS = sentences(20)


@pytest.fixture
def models(make_model, tmp_path):
    def make(norm="dyt", count=3):
        folders = []
        for seed in range(count):
            model = make_model(norm)
            noise = torch.Generator().manual_seed(seed)
            model.embedding.weight.data.normal_(generator=noise)
            for vector in model.norm.parameters():
                vector.data += 0.1 * seed
            folders.append(sse.export(model, tmp_path / f"{norm}{seed}"))
        return folders

    return make


@pytest.mark.parametrize("norm", ["dyt", "layernorm", "rmsnorm", "dyt_outside", "none"])
def test_the_mean_is_that_of_tables_and_vectors(models, tmp_path, norm):
    folders = models(norm)
    out = sse.average(folders, tmp_path / "mean", [1, 2, 1])
    parts, mean = [read_folder(folder) for folder in folders], read_folder(out)
    shares = np.array([0.25, 0.5, 0.25])
    expected = np.einsum("m,mvd->vd", shares, np.stack([part.table for part in parts]))
    np.testing.assert_allclose(mean.table, expected, atol=1e-6)
    for name, vector in mean.vectors.items():
        stacked = np.stack([part.vectors[name] for part in parts])
        np.testing.assert_allclose(vector, shares @ stacked, atol=1e-6)
    theirs = SentenceTransformer(str(out), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder(out).encode(TEXTS), theirs, atol=1e-5)
    assert mean.digests == "verified"
    assert f"{norm}1: 0.5" in (out / "README.md").read_text()


def test_the_mean_of_a_model_with_itself_is_the_model(models, tmp_path):
    (folder,) = models(count=1)
    out = sse.average([folder, folder], tmp_path / "mean")
    np.testing.assert_array_equal(read_folder(out).table, read_folder(folder).table)


def test_small_rows_average_to_small_rows(models, tmp_path):
    folders = [write_compact(f, tmp_path / f"s{i}", "int8") for i, f in enumerate(models(count=2))]
    mean = read_folder(sse.average(folders, tmp_path / "mean"))
    expected = np.mean([read_folder(folder).table for folder in folders], axis=0)
    assert mean.rows.kind == "int8"
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(mean.table - expected) <= largest / 254 * 1.01).all()


def test_training_frequencies_add_up(make_model, tokenizer, tmp_path):
    folders = []
    for seed in (1, 2):
        model = make_model("none")
        batch = tokenizer.encode(sentences(50 * seed, seed=seed))
        model.frequencies = count_tokens([batch], tokenizer.vocab_size)
        folders.append(sse.export(model, tmp_path / str(seed)))
    mean = read_folder(sse.average(folders, tmp_path / "mean")).frequencies
    assert mean.texts == 150
    parts = [read_folder(folder).frequencies.found for folder in folders]
    np.testing.assert_array_equal(mean.found, sum(parts))


def test_models_that_differ_are_refused_in_one_line(models, make_model, tmp_path):
    dyt, other = models(count=1)[0], models("gain", count=1)[0]
    narrow = sse.export(make_model(dim=16), tmp_path / "narrow")
    words = train_tokenizer(["other words entirely"] * 9, 30, progress=False)
    strange = sse.export(sse.SSE(words, 32, seed=0), tmp_path / "strange")
    before = {path.name for path in tmp_path.iterdir()}
    cases = {
        r"norm \(dyt and gain\)": [dyt, other],
        r"dimensions \(32 and 16\)": [dyt, narrow],
        "differ in their rows": [dyt, strange],
        "1 model: give two": [dyt],
    }
    for message, given in cases.items():
        with pytest.raises(UserError, match=message) as error:
            sse.average(given, tmp_path / "mean")
        assert "\n" not in str(error.value)
    for weights, message in (([1], "1 `weights` for 2"), ([1, 0], "must be positive")):
        with pytest.raises(UserError, match=message):
            sse.average([dyt, dyt], tmp_path / "mean", weights)
    assert {path.name for path in tmp_path.iterdir()} == before
