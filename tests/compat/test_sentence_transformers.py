"""One exported folder gives equal vectors in sentence-transformers 3.4 to the newest."""

import numpy as np
import pytest

import sse
from sse.model.norms import NORMS
from tests.compat.environments import python, run

# Their last releases, and None for the newest. The two ends run with every test run.
VERSIONS = ["3.4.1", "4.1.0", "5.0.0", "5.3.0", "5.4.1", "5.7.0", None]
ENDS = ("3.4.1", None)
TEXTS = ["", "the red circle rolls", "é漢🎉 large", "control \x00\u200b", "red " * 3000, "zzz zzz"]
ENCODE = """
import sys, numpy, sentence_transformers
from pathlib import Path
texts = eval(Path(sys.argv[1], "texts.txt").read_text("utf-8"))
print(sentence_transformers.__version__)
for folder in Path(sys.argv[1]).glob("*/modules.json"):
    model = sentence_transformers.SentenceTransformer(str(folder.parent), device="cpu")
    assert model.prompts["query"] == "large " and model.similarity_fn_name == "cosine"
    cut = sentence_transformers.SentenceTransformer(str(folder.parent), truncate_dim=8)
    numpy.savez(
        Path(sys.argv[2], folder.parent.name), whole=model.encode(texts), cut=cut.encode(texts),
        query=model.encode(texts, prompt_name="query"),
    )
"""


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A model of each norm, with a prompt and a norm that has left its start."""
    import torch

    root = tmp_path_factory.mktemp("models")
    (root / "texts.txt").write_text(repr(TEXTS), "utf-8")
    generator = torch.Generator().manual_seed(1)
    for norm in NORMS:
        model = sse.SSE(tokenizer, 32, norm, seed=0)
        with torch.no_grad():
            for parameter in model.norm.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        sse.SSEModel(modules=[model], prompts={"query": "large "}, device="cpu").save(root / norm)
    return root


def marks(version):
    return pytest.mark.slow if version in ENDS else pytest.mark.compat


@pytest.mark.parametrize(
    "version", [pytest.param(v, marks=marks(v), id=v or "newest") for v in VERSIONS]
)
def test_the_vectors_of_every_norm_are_equal(folders, version, tmp_path):
    name = "sentence-transformers" + (f"=={version}" if version else "")
    interpreter = python(f"sentence-transformers-{version or 'newest'}", name)
    run(interpreter, ENCODE, folders, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(NORMS)
    for norm in NORMS:
        model, found = sse.load(folders / norm, device="cpu"), np.load(tmp_path / f"{norm}.npz")
        whole = model.encode(TEXTS)
        np.testing.assert_array_equal(found["whole"], whole)
        np.testing.assert_array_equal(found["cut"], whole[:, :8])
        np.testing.assert_array_equal(found["query"], model.encode(TEXTS, prompt_name="query"))
