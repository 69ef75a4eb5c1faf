import json

import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import nn

import sse
from sse.model.norm_forms import NORM_FORMS, Diagonal, Standard


def native_modules(model):
    """The sentence-transformers modules that compute the same as `model`."""
    natives = [modules.StaticEmbedding(model.tokenizer, model.embedding.weight.detach())]
    vectors = model.norm.vectors()
    for step in NORM_FORMS[model.norm_name].steps:
        if isinstance(step, Diagonal):
            activation = getattr(nn, step.activation)()
            layer = modules.Dense(model.dim, model.dim, step.shift is not None, activation)
            layer.linear.weight.data = torch.diag(vectors[step.scale])
            if step.shift:
                layer.linear.bias.data = vectors[step.shift]
        elif isinstance(step, Standard):
            layer = modules.LayerNorm(model.dim)
            layer.norm.load_state_dict(vectors)
        else:
            layer = modules.Normalize()
        natives.append(layer)
    return natives


@pytest.mark.parametrize("norm", NORM_FORMS)
def test_the_files_are_those_that_sentence_transformers_writes(make_model, tmp_path, norm):
    model = make_model(norm)
    sse.export(model, tmp_path / "ours")
    peer = SentenceTransformer(modules=native_modules(model), device="cpu")
    peer.similarity_fn_name = "cosine"
    peer.save(str(tmp_path / "theirs"), create_model_card=False)
    for theirs in (tmp_path / "theirs").rglob("*"):
        ours = tmp_path / "ours" / theirs.relative_to(tmp_path / "theirs")
        assert ours.exists()
        if theirs.suffix == ".safetensors":
            written, expected = load_file(ours), load_file(theirs)
            assert written.keys() == expected.keys()
            assert all((written[name] == expected[name]).all() for name in expected)
        elif theirs.suffix == ".json" and theirs.name != "modules.json":
            written, expected = json.loads(ours.read_text()), json.loads(theirs.read_text())
            names = [name for name in expected if name.startswith("module_")]  # only from 5.4 on
            assert written == {k: v for k, v in expected.items() if k not in names}
    listed = json.loads((tmp_path / "ours/modules.json").read_text())
    expected = json.loads((tmp_path / "theirs/modules.json").read_text())
    for own, other in zip(listed, expected, strict=True):
        assert own["type"].rpartition(".")[2] == other["type"].rpartition(".")[2]
        assert own["path"] == (other["path"] or ".")
