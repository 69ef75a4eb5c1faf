"""model2vec loads what is written for it, refuses the rest, and its own folders are read here."""

import json

import numpy as np
import pytest

import sse
from sse.model.convert.model2vec import write_model2vec
from sse.model.norms import NORMS
from sse.model.quantise import write_compact
from tests.compat.environments import python, run
from tests.helpers.samples import sentences

pytestmark = pytest.mark.compat
ENCODE = """
import json, sys, numpy
from model2vec import StaticModel
texts = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    try:
        numpy.save(folder + ".npy", StaticModel.from_pretrained(folder).encode(texts))
    except Exception as error:
        print(folder, error)
"""
SAVE = """
import json, sys, numpy
from tokenizers import Tokenizer
from model2vec import StaticModel
tokenizer, table, texts, out = sys.argv[1:]
model = StaticModel(numpy.load(table), Tokenizer.from_file(tokenizer), normalize=True)
model.save_pretrained(out + "/float32")
smaller = {"int8": {"quantize_to": "int8"}, "words": {"vocabulary_quantization": 60}}
for name, options in smaller.items():
    StaticModel.from_pretrained(out + "/float32", **options).save_pretrained(f"{out}/{name}")
for name in ("float32", "int8", "words"):
    model = StaticModel.from_pretrained(f"{out}/{name}")
    numpy.save(f"{out}/{name}.npy", model.encode(json.loads(texts)))
"""
TEXTS = ["", "red " * 700, "漢", *sentences(20)]


@pytest.fixture(scope="module")
def interpreter():
    return python("model2vec", "model2vec[quantization]==0.10.0")


def test_folders_written_for_it_load_and_others_are_refused(interpreter, make_model, tmp_path):
    written, others = [], []
    for norm in NORMS:
        others.append(sse.export(make_model(norm), tmp_path / norm))
        if norm != "layernorm":
            written.append(tmp_path / f"{norm}.model2vec")
            write_model2vec(others[-1], written[-1])
    others.append(write_compact(others[0], tmp_path / "small", "float16"))
    refused = run(interpreter, ENCODE, json.dumps(TEXTS), *written, *others).stdout
    for folder in written:
        vectors, expected = np.load(f"{folder}.npy"), sse.Encoder(folder).encode(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert refused.splitlines() == [f"{f} File does not contain tensor embeddings" for f in others]


def test_its_own_folders_give_its_vectors_here(interpreter, tokenizer, tmp_path):
    table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 16)).astype(np.float32)
    np.save(rows := tmp_path / "table.npy", table)
    tokenizer.save(words := tmp_path / "tokenizer.json")
    run(interpreter, SAVE, words, rows, json.dumps(TEXTS), tmp_path)
    for name in ("float32", "int8", "words"):
        vectors = sse.Encoder(tmp_path / name).encode(TEXTS)
        np.testing.assert_allclose(vectors, np.load(tmp_path / f"{name}.npy"), atol=1e-5)
