"""Each row of docs/compatibility.md: an exported folder in another library, in its own environment.

A program prints vectors of TEXTS as JSON in its last line.
"""

import json
import os

import numpy as np
import pytest

import sse
from tests.compat.environments import ROOT, python, run

pytestmark = pytest.mark.compat
TEXTS = ["the red circle rolls", "nothing", "large blue square é漢🎉"]
CORE = ("numpy", "tokenizers", "safetensors", "pyarrow", "huggingface_hub", "filelock", "tqdm")
ST = "sentence-transformers==6.2.0"

LANGCHAIN = """
from langchain_huggingface import HuggingFaceEmbeddings
model = HuggingFaceEmbeddings(
    model_name=FOLDER, encode_kwargs={"normalize_embeddings": True}, model_kwargs={"device": "cpu"}
)
vectors = model.embed_documents(TEXTS)
"""
HAYSTACK = """
from haystack import Document
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
)
embedder = SentenceTransformersDocumentEmbedder(FOLDER, normalize_embeddings=True)
embedder.warm_up()
found = embedder.run([Document(content=text) for text in TEXTS])["documents"]
vectors = [document.embedding for document in found]
"""
CHROMA = """
from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction
model = SentenceTransformerEmbeddingFunction(FOLDER, normalize_embeddings=True)
vectors = [vector.tolist() for vector in model(TEXTS)]
"""
LANCEDB = """
from lancedb.embeddings import get_registry
model = get_registry().get("sentence-transformers").create(name=FOLDER, device="cpu")
vectors = [list(map(float, vector)) for vector in model.compute_source_embeddings(TEXTS)]
"""
QDRANT = """
from qdrant_client import QdrantClient, models
from sentence_transformers import SentenceTransformer
encoded = SentenceTransformer(FOLDER, device="cpu").encode(TEXTS, normalize_embeddings=True)
client = QdrantClient(":memory:")
size = models.VectorParams(size=encoded.shape[1], distance=models.Distance.COSINE)
client.create_collection("notes", vectors_config=size)
points = [models.PointStruct(id=n, vector=v.tolist()) for n, v in enumerate(encoded)]
client.upsert("notes", points)
best = [client.query_points("notes", query=v.tolist(), limit=1).points[0].id for v in encoded]
assert best == [0, 1, 2], best
vectors = [p.vector for p in client.retrieve("notes", [0, 1, 2], with_vectors=True)]
"""
TXTAI = """
from txtai import Embeddings
model = Embeddings(path=FOLDER, method="sentence-transformers", gpu=False)
vectors = [vector.tolist() for vector in model.batchtransform(TEXTS)]
"""
LLAMA_INDEX = """
from sse.integrations.llama_index import SSEEmbedding
model = SSEEmbedding(FOLDER)
vectors = model.get_text_embedding_batch(TEXTS)
assert model.get_query_embedding(TEXTS[0]) == vectors[0]
"""

LIBRARIES = {
    "langchain": (LANGCHAIN, "langchain-huggingface==1.2.3", ST),
    "haystack": (HAYSTACK, "haystack-ai==3.4.1", "sentence-transformers-haystack==2.0.0", ST),
    "chroma": (CHROMA, "chromadb==1.5.9", ST),
    "lancedb": (LANCEDB, "lancedb==0.40.0", ST),
    "qdrant": (QDRANT, "qdrant-client==1.20.0", ST),
    "txtai": (TXTAI, "txtai==9.14.0", ST),
    "llama-index": (LLAMA_INDEX, "llama-index-core==0.14.25", *CORE),
}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("m") / "model")


@pytest.mark.parametrize("name", LIBRARIES)
def test_it_gives_the_encoders_vectors(folder, name):
    program, *requirements = LIBRARIES[name]
    code = f"import json, sys\nFOLDER, TEXTS = {str(folder)!r}, {TEXTS!r}\n"
    if "sse.integrations" in program:
        code += f"sys.path[:0] = {[str(ROOT), str(ROOT / 'kernels')]}\n"
    done = run(python(name, *requirements), f"{code}{program}\nprint(json.dumps(vectors))")
    vectors = json.loads(done.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(vectors, sse.Encoder(folder).encode(TEXTS), atol=1e-6)


def test_mteb_tells_two_folders_apart(folder, tokenizer, tmp_path):
    other = sse.export(sse.SSE(tokenizer, 32, seed=1), tmp_path / "model")
    code = f"""
import json, os, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "kernels")]}
from mteb.models import ModelMeta
from sse.integrations.mteb import named_model
folders = {[str(folder), str(other)]}
models = [named_model(f, device="cpu") for f in folders]
models.append(named_model(folders[0], device="cpu", truncate_dim=8))
metas = [ModelMeta._from_sentence_transformer_model(m) for m in models]
print(json.dumps([(meta.name, meta.revision) for meta in metas]))
"""
    done = run(python("mteb", "mteb==2.26.24", ST, *CORE), code)
    names = [tuple(pair) for pair in json.loads(done.stdout.strip().splitlines()[-1])]
    assert len(set(names)) == 3 and {name for name, _ in names} == {f"local/{folder.name}"}


def test_fastembed_reads_the_folders_tokenizer(folder):
    code = f"""
import json
from pathlib import Path
from fastembed.common.preprocessor_utils import load_tokenizer
tokenizer, special = load_tokenizer(Path({str(folder)!r}))
print(json.dumps([[i for i, m in zip(e.ids, e.attention_mask) if m]
                  for e in tokenizer.encode_batch({TEXTS!r})]))
"""
    done = run(python("fastembed", "fastembed==0.9.1"), code)
    expected = [list(map(int, ids)) for ids in sse.Encoder(folder).tokenizer.encode(TEXTS)]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == expected


def test_transformers_makes_no_model_of_the_folder(folder):
    code = f"""
from transformers import AutoModel
try:
    AutoModel.from_pretrained({os.fspath(folder)!r})
except ValueError as error:
    print("refused:", str(error)[:80])
"""
    interpreter = python("sentence-transformers-newest", "sentence-transformers")
    assert "refused:" in run(interpreter, code).stdout
