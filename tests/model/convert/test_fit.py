"""A fitted model is its formula: each row times a power of the corpus' idf, in the same layout."""

import json
import math

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import sse
from sse.common.errors import UserError
from sse.model.convert.fit import row_weights
from sse.model.folder import read_folder
from sse.model.norm_forms import NORM_FORMS
from sse.model.quantise import write_compact
from sse.model.table import ROW_KINDS
from sse.serving.encoder import Encoder
from sse.text.frequencies import Frequencies, count_tokens
from tests.helpers.samples import sentences

CORPUS = [*sentences(150, seed=3), "red red red", ""]


@pytest.fixture
def counted(tokenizer):
    """Document frequencies of training texts."""
    return count_tokens([tokenizer.encode(sentences(400, seed=8))], tokenizer.vocab_size)


def exported(make_model, folder, norm="none", frequencies=None):
    model = make_model(norm)
    model.frequencies = frequencies
    return sse.export(model, folder)


def factors(tokenizer, frequencies, strength=0.5):
    """The weights of CORPUS, token by token."""
    batch = tokenizer.encode(CORPUS)
    texts = [set(batch[i].tolist()) for i in range(len(batch))]
    n, raw, found = len(CORPUS), [], []
    for token in range(tokenizer.vocab_size):
        df = sum(token in text for text in texts)
        value = max(math.log((n + 1) / (df + 0.5)), 0) + 0.2
        if frequencies is not None:
            share = (frequencies.texts + 1) / (frequencies.found[token] + 0.5)
            value /= math.sqrt(max(math.log(share), 0) + 0.2)
        raw.append(value ** (strength * n / (n + 100)))
        found.append(df)
    return np.array(raw) / np.average(raw, weights=found)


@pytest.mark.parametrize("known", [True, False])
def test_each_row_is_multiplied_by_its_factor(make_model, tokenizer, counted, tmp_path, known):
    frequencies = counted if known else None
    source = exported(make_model, tmp_path / "model", frequencies=frequencies)
    facts = sse.fit(source, CORPUS, tmp_path / "fitted")
    expected = read_folder(source).table * factors(tokenizer, frequencies)[:, None]
    np.testing.assert_allclose(read_folder(tmp_path / "fitted").table, expected, rtol=1e-5)
    assert facts == {
        "corpus": "texts", "texts": 152, "strength": 0.5, "training_frequencies": known,
    }  # fmt: skip


@pytest.mark.parametrize("norm", NORM_FORMS)
def test_a_fitted_folder_loads_everywhere_and_keeps_its_norm(make_model, tmp_path, norm):
    source = exported(make_model, tmp_path / "model", norm)
    sse.fit(source, CORPUS, tmp_path / "fitted")
    folder = read_folder(tmp_path / "fitted")
    assert (folder.norm, folder.digests) == (norm, "verified")
    for name, vector in read_folder(source).vectors.items():
        np.testing.assert_array_equal(folder.vectors[name], vector)
    ours = Encoder(tmp_path / "fitted").encode(CORPUS[:20])
    theirs = SentenceTransformer(str(tmp_path / "fitted"), device="cpu")
    np.testing.assert_allclose(
        ours, theirs.encode(CORPUS[:20], normalize_embeddings=True), atol=1e-5
    )
    assert not np.allclose(ours, Encoder(source).encode(CORPUS[:20]), atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in ROW_KINDS if kind != "float32"])
def test_small_rows_stay_small(make_model, tokenizer, counted, tmp_path, kind):
    source = exported(make_model, tmp_path / "model", frequencies=counted)
    small = write_compact(source, tmp_path / "small", kind)
    sse.fit(small, CORPUS, tmp_path / "fitted")
    fitted, before = read_folder(tmp_path / "fitted"), read_folder(small).table
    assert fitted.rows.kind == kind
    expected = before * factors(tokenizer, counted)[:, None]
    np.testing.assert_allclose(fitted.table, expected, rtol=1e-3, atol=1e-6)


def test_the_card_and_the_config_say_to_what_a_model_was_fitted(make_model, tmp_path):
    source = exported(make_model, tmp_path / "model")
    (tmp_path / "notes.txt").write_text("\n".join(CORPUS[:9]))
    sse.fit(source, tmp_path / "notes.txt", tmp_path / "fitted", strength=0.25)
    card = (tmp_path / "fitted" / "README.md").read_text()
    assert "9 texts of `notes.txt`, with strength 0.25" in card
    assert card.startswith((source / "README.md").read_text().rstrip())
    config = json.loads((tmp_path / "fitted" / "sse_config.json").read_text())
    assert config["fitted"]["texts"] == 9
    with pytest.raises(UserError, match="was fitted already"):
        sse.fit(tmp_path / "fitted", CORPUS, tmp_path / "twice")


def test_a_corpus_of_three_documents_changes_no_row_by_more_than_a_tenth(counted):
    found = np.minimum(counted.found, 3)
    weights = row_weights(Frequencies(found, 3), counted, 0.5)
    assert 0.9 < weights.min() < weights.max() < 1.1


def test_a_strength_of_0_changes_nothing(make_model, tmp_path):
    source = exported(make_model, tmp_path / "model")
    sse.fit(source, CORPUS, tmp_path / "fitted", strength=0)
    np.testing.assert_array_equal(read_folder(tmp_path / "fitted").table, read_folder(source).table)


@pytest.mark.parametrize(
    ("corpus", "strength", "message"),
    [
        ([], 0.5, "texts: no text in it"),
        (["", " "], 0.5, "none of its 2 texts has a word"),
        (["漢字", "☃"], 0.5, "none of its 2 texts has a word"),
        (CORPUS, 2, "strength 2: give 0"),
        ("missing.jsonl", 0.5, "missing.jsonl: no such file"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_leaves_nothing(
    make_model, tmp_path, corpus, strength, message
):
    source = exported(make_model, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        sse.fit(source, corpus, tmp_path / "fitted", strength=strength)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        sse.fit(tmp_path / "none", CORPUS, tmp_path / "fitted")


def test_a_disk_that_fills_up_leaves_the_old_model(make_model, tmp_path, monkeypatch):
    source = exported(make_model, tmp_path / "model")
    sse.fit(source, CORPUS, tmp_path / "fitted", strength=0)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sse.model.convert.rewrite.save_file", full)
    with pytest.raises(OSError, match="No space"):
        sse.fit(source, CORPUS, tmp_path / "fitted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitted", "model"]
    np.testing.assert_array_equal(read_folder(tmp_path / "fitted").table, read_folder(source).table)


def test_frequencies_travel_with_the_model(make_model, counted, tmp_path):
    source = exported(make_model, tmp_path / "model", frequencies=counted)
    sse.load(source).save(tmp_path / "saved")
    write_compact(source, tmp_path / "small", "int8")
    sse.fit(source, CORPUS, tmp_path / "fitted")
    for name in ("model", "saved", "small", "fitted"):
        frequencies = read_folder(tmp_path / name).frequencies
        assert frequencies.texts == 400
        np.testing.assert_array_equal(frequencies.found, counted.found)


def test_frequencies_of_another_vocabulary_are_refused(make_model, counted, tmp_path):
    other = Frequencies(counted.found[:-1], counted.texts)
    source = exported(make_model, tmp_path / "model", frequencies=other)
    with pytest.raises(UserError, match="does not count the table's"):
        read_folder(source)
