"""Each row of docs/compatibility.md: an exported folder in another library, in its own environment.

A program prints vectors of TEXTS as JSON in its last line.
"""

import json
import os

import numpy as np
import pytest

import sse
from sse.model.convert.onnx import export_onnx
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
    SentenceTransformersDocumentEmbedder, SentenceTransformersTextEmbedder,
)
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
documents = SentenceTransformersDocumentEmbedder(model=FOLDER, normalize_embeddings=True)
found = documents.run([Document(content=text) for text in TEXTS])["documents"]
vectors = [document.embedding for document in found]
store = InMemoryDocumentStore()
store.write_documents(found)
query = SentenceTransformersTextEmbedder(model=FOLDER).run(TEXTS[2])["embedding"]
(best,) = InMemoryEmbeddingRetriever(store, top_k=1).run(query)["documents"]
assert best.content == TEXTS[2], best
"""
CHROMA = """
import chromadb
from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction
model = SentenceTransformerEmbeddingFunction(FOLDER, normalize_embeddings=True)
notes = chromadb.EphemeralClient().create_collection("notes", embedding_function=model)
notes.add(ids=["0", "1", "2"], documents=TEXTS)
assert notes.query(query_texts=TEXTS, n_results=1)["ids"] == [["0"], ["1"], ["2"]]
vectors = notes.get(["0", "1", "2"], include=["embeddings"])["embeddings"].tolist()
"""
LANCEDB = """
import tempfile
import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
model = get_registry().get("sentence-transformers").create(name=FOLDER, device="cpu")
class Note(LanceModel):
    text: str = model.SourceField()
    vector: Vector(model.ndims()) = model.VectorField()
notes = lancedb.connect(tempfile.mkdtemp()).create_table("notes", schema=Note)
notes.add([{"text": text} for text in TEXTS])
for text in TEXTS:
    assert notes.search(text).limit(1).to_list()[0]["text"] == text
vectors = notes.to_arrow()["vector"].to_pylist()
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
model = Embeddings(path=FOLDER, method="sentence-transformers", content=True, gpu=False)
vectors = [vector.tolist() for vector in model.batchtransform(TEXTS)]
model.index(TEXTS)
assert [model.search(text, 1)[0]["text"] for text in TEXTS] == TEXTS
"""
LLAMA_INDEX = """
from sse.integrations.llama_index import SSEEmbedding
model = SSEEmbedding(FOLDER)
vectors = model.get_text_embedding_batch(TEXTS)
assert model.get_query_embedding(TEXTS[0]) == vectors[0]
"""

MTEB_TASK = """
import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

class Local(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="Local", dataset={"path": "local/local", "revision": "1"}, description="made here",
        reference=None, type="Retrieval", category="t2t", modalities=["text"],
        eval_splits=["test"], eval_langs=["eng-Latn"], main_score="ndcg_at_10",
        date=("2025-01-01", "2025-01-02"), domains=["Written"], task_subtypes=[],
        license="cc0-1.0", annotations_creators="derived", dialect=[], sample_creation="created",
        bibtex_citation="",
    )

    def load_data(self, *args, **kwargs):
        ids = [str(n) for n in range(len(TEXTS))]
        split = {
            "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": TEXTS}),
            "queries": Dataset.from_dict({"id": ["q" + i for i in ids], "text": TEXTS}),
            "relevant_docs": {"q" + i: {i: 1} for i in ids},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True
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


def test_mteb_scores_a_local_task_with_a_cache(folder, tmp_path):
    code = f"""
import json, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "kernels")]}
TEXTS = {TEXTS!r}
{MTEB_TASK}
from sse.integrations.mteb import named_model
cache = mteb.ResultCache({str(tmp_path)!r})
models = [named_model({str(folder)!r}, device="cpu", truncate_dim=dim) for dim in (None, 1)]
results = [mteb.evaluate(model, Local(), cache=cache) for model in models]
print(json.dumps([result[0].scores["test"][0]["main_score"] for result in results]))
"""
    done = run(python("mteb", "mteb==2.26.24", ST, *CORE), code)
    whole, cut = json.loads(done.stdout.strip().splitlines()[-1])
    assert whole == 1.0 and cut < 1.0  # one sign alone does not tell the texts apart


def test_fastembed_runs_the_folder_as_a_custom_model(folder):
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    export_onnx(folder, folder / "onnx/model.onnx")
    code = f"""
import json
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
TextEmbedding.add_custom_model(
    model="me/sse", pooling=PoolingType.DISABLED, normalization=True, dim=32,
    sources=ModelSource(hf="me/sse"), model_file="onnx/model.onnx",
)
model = TextEmbedding("me/sse", specific_model_path={str(folder)!r})
print(json.dumps([vector.tolist() for vector in model.embed({TEXTS!r})]))
"""
    done = run(python("fastembed", "fastembed==0.9.1"), code)
    vectors = json.loads(done.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(vectors, sse.Encoder(folder).encode(TEXTS), atol=1e-6)


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
