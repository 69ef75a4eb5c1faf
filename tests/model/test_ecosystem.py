"""An exported folder works where a sentence-transformers model works, each in a clean process.

None of these packages is required: a test whose package is missing is skipped and says so.
"""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import sse
from sse.serving.encoder import Encoder

TEXTS = ["the red circle rolls", "", "large blue square é漢🎉"]

LANGCHAIN = """
from langchain_huggingface import HuggingFaceEmbeddings
model = HuggingFaceEmbeddings(model_name=FOLDER, model_kwargs={"device": "cpu"})
print(json.dumps(model.embed_documents(TEXTS)))
"""

LLAMA_INDEX = """
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
model = HuggingFaceEmbedding(model_name=FOLDER, device="cpu", normalize=False)
print(json.dumps(model.get_text_embedding_batch(TEXTS)))
"""

MTEB = """
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
        texts = [text or "nothing" for text in TEXTS]
        split = {
            "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}),
            "queries": Dataset.from_dict({"id": ["q" + i for i in ids], "text": texts}),
            "relevant_docs": {"q" + i: {i: 1} for i in ids},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

from sentence_transformers import SentenceTransformer
model = SentenceTransformer(FOLDER, device="cpu")
result = mteb.evaluate(model, Local(), cache=None)
print(json.dumps(result[0].scores["test"][0]["main_score"]))
"""


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("m") / "model")


def run(program, package, folder):
    """The last line that the program prints in a process without this package, as JSON."""
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"{package} is not installed")
    code = f"import json\nFOLDER, TEXTS = {str(folder)!r}, {TEXTS!r}\n{program}"
    code += "\nimport sys; assert 'sse' not in sys.modules, 'the folder must not need sse'"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.strip().splitlines()[-1])


def same(vectors, folder):
    np.testing.assert_allclose(vectors, Encoder(folder).encode(TEXTS, normalize=False), atol=1e-6)


@pytest.mark.slow
def test_langchain_gives_the_same_vectors(folder):
    same(run(LANGCHAIN, "langchain_huggingface", folder), folder)


@pytest.mark.slow
@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="llama-index-embeddings-huggingface 0.8 wants a finite max_seq_length, which no "
    "StaticEmbedding has or can be given; its LangchainEmbedding works",
)
def test_llama_index_gives_the_same_vectors(folder):
    same(run(LLAMA_INDEX, "llama_index", folder), folder)


@pytest.mark.slow
def test_mteb_evaluates_a_local_task_offline(folder):
    assert run(MTEB, "mteb", folder) == 1.0  # each text finds itself first
