"""Static tables that other libraries wrote are read with their own vectors, or refused in a line.

The folders are made here in exactly the layout that model2vec 0.10 and sentence-transformers write.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import sse
from sse.common.errors import UserError

TEXTS = ["", "the red circle rolls", "red " * 700, "large blue square é漢🎉", "漢"]
UNKNOWN = 1  # the id of [UNK]


@pytest.fixture
def table(tokenizer):
    return np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 16)).astype(np.float32)


def model2vec(folder, tokenizer, tensors, **config):
    """A folder of model2vec's `save_pretrained`."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(config))
    path = "sentence_transformers.models.StaticEmbedding"
    modules = [{"idx": 0, "name": "0", "path": ".", "type": path}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def by_model2vec(tokenizer, rows, length=512):
    """The vectors as model2vec defines them, of length 1; an unknown word counts for nothing."""
    out = []
    for ids in tokenizer.encode(TEXTS):
        kept = [rows[i] for i in ids[:length] if i != UNKNOWN]
        mean = np.mean(kept, axis=0) if kept else np.zeros(16)
        out.append(mean / (np.linalg.norm(mean) + 1e-32))
    return np.array(out)


@pytest.mark.parametrize("config", [{}, {"normalize": True}, {"max_length": None}])
def test_a_model2vec_folder_gives_model2vecs_vectors(tokenizer, table, tmp_path, config):
    folder = model2vec(tmp_path / "m", tokenizer, {"embeddings": table}, **config)
    length = config.get("max_length", 512)
    expected = by_model2vec(tokenizer, table, length)
    np.testing.assert_allclose(sse.Encoder(folder).encode(TEXTS), expected, atol=5e-6)
    lengths = np.linalg.norm(sse.Encoder(folder).encode(TEXTS[1:4], normalize=False), axis=1)
    assert np.allclose(lengths, 1) == bool(config.get("normalize"))
    loaded = sse.load(folder, device="cpu")
    vectors = loaded.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=5e-6)
    loaded.save(tmp_path / "again")  # and so after training
    np.testing.assert_allclose(sse.Encoder(tmp_path / "again").encode(TEXTS), expected, atol=5e-6)


def test_a_quantised_vocabulary_is_unfolded(tokenizer, table, tmp_path):
    generator = np.random.default_rng(1)
    mapping = generator.integers(0, 50, len(table))
    weights = generator.random(len(table)).astype(np.float32)
    tensors = {"embeddings": table[:50], "mapping": mapping, "weights": weights}
    folder = model2vec(tmp_path / "m", tokenizer, tensors, normalize=True)
    expected = by_model2vec(tokenizer, table[mapping] * weights[:, None])
    np.testing.assert_allclose(sse.Encoder(folder).encode(TEXTS), expected, atol=5e-6)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_smaller_rows_stay_as_they_are(tokenizer, table, tmp_path, kind):
    rows = table.astype(kind) if kind == "float16" else (table * 30).clip(-127, 127).astype(kind)
    folder = model2vec(tmp_path / "m", tokenizer, {"embeddings": rows}, normalize=True)
    model = sse.Encoder(folder)
    assert model.table.kind == kind
    expected = by_model2vec(tokenizer, rows.astype(np.float32))
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=5e-6)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_published_static_embedding_in_a_subfolder_is_read(
    tokenizer, table, tmp_path, normalised
):
    """The layout of static-retrieval-mrl-en-v1, whose tokenizer.json cuts long texts."""
    from tokenizers import Tokenizer

    place = tmp_path / "0_StaticEmbedding"
    place.mkdir()
    save_file({"embedding.weight": table}, place / "model.safetensors")
    cutting = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    cutting.enable_truncation(3)
    cutting.save(str(place / "tokenizer.json"))
    names = ["StaticEmbedding", "Normalize"][: 1 + normalised]
    path = "sentence_transformers.models."
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}", "type": path + name}
        for n, name in enumerate(names)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "red "}}')
    if normalised:
        (tmp_path / "1_Normalize").mkdir()
    from sentence_transformers import SentenceTransformer

    native = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    model = sse.Encoder(tmp_path)
    np.testing.assert_allclose(model.encode(TEXTS, normalize=False), native, atol=1e-6)
    assert (model.info()["max_tokens"], model.prompts) == (3, {"query": "red "})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping": np.full(3, 9999)}, "mapping leads out of"),
        ({"mapping": np.zeros(0, np.int64)}, "mapping leads out of"),
        ({"mapping": np.zeros(385, np.float32)}, "mapping leads out of"),
        ({"weights": np.ones(3, np.float32)}, r"weights of shape \(3,\)"),
        ({"weights": np.full(385, np.nan, np.float32)}, "not finite"),
        ({"embeddings": np.zeros((0, 4), np.float32)}, r"shape \(0, 4\)"),
        ({"embeddings": np.zeros((5, 4), np.float32)}, "belong to different models"),
    ],
)
def test_parts_that_do_not_fit_are_one_line(tokenizer, table, tmp_path, change, message):
    folder = model2vec(tmp_path / "m", tokenizer, {"embeddings": table} | change)
    with pytest.raises(UserError, match=message):
        sse.Encoder(folder)


@pytest.mark.parametrize("value", [0, -1, "512", True])
def test_a_length_that_is_no_number_is_one_line(tokenizer, table, tmp_path, value):
    folder = model2vec(tmp_path / "m", tokenizer, {"embeddings": table}, max_length=value)
    with pytest.raises(UserError, match="max_length"):
        sse.Encoder(folder)


@pytest.mark.parametrize("types", [["Transformer", "Pooling"], ["StaticEmbedding", "Dense"], [7]])
def test_other_modules_are_named(tmp_path, types):
    modules = [{"type": name, "path": ""} if name != 7 else 7 for name in types]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="only a StaticEmbedding"):
        sse.Encoder(tmp_path)


@pytest.mark.parametrize("path", ["..", "../model", "/etc", "a/b", "0\0"])
def test_the_table_cannot_stand_outside_the_folder(tmp_path, path):
    modules = [{"type": "StaticEmbedding", "path": path}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="no folder for module 0"):
        sse.Encoder(tmp_path)
