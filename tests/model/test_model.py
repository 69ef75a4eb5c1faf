"""The model computes what its equation says; its export loads anywhere and computes the same."""

import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

import sse
from sse.common.errors import UserError
from sse.model.load import SSEModel
from sse.model.model import SSE
from sse.model.norms import NORMS
from tests.helpers.samples import unseal
from tests.helpers.tolerances import assert_within, text_vectors

TEXTS = [
    "",
    "the red circle rolls over the small square",
    "emoji \U0001f389\U0001f680 and \u00e9\u00e8",
    "control \x00\x01\x7f\u200b characters",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u4e16\u754c \u0627\u0644\u0639\u0627\u0644\u0645",
    "red " * 20_000,
]


def mean_rows(model, text):
    """The mean of the text's table rows, in plain numpy."""
    ids = model.text_tokenizer.encode([text])[0]
    table = model.embedding.weight.detach().numpy().astype(np.float64)
    return table[ids].mean(0) if len(ids) else np.zeros(model.dim)


def equation(model, x):
    """Each norm by its textbook equation, in float64."""
    p = {name: v.detach().numpy().astype(np.float64) for name, v in model.norm.named_parameters()}
    if model.norm_name in ("dyt", "dyt_scalar", "dyt_frozen"):
        return p["beta"] * np.tanh(p["alpha"] * x + p["bias"])
    if model.norm_name == "dyt_outside":
        return p["beta"] * np.tanh(p["alpha"] * x) + p["bias"]
    if model.norm_name == "hardtanh":
        return p["beta"] * np.maximum(-1, np.minimum(1, p["alpha"] * x + p["bias"]))
    if model.norm_name == "layernorm":
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["weight"] + p["bias"]
    if model.norm_name == "rmsnorm":
        rms = np.sqrt((x**2).mean())
        return x / rms * p["weight"] if rms else x
    if model.norm_name == "gain":
        return x * p["gain"]
    return x


def encode(model, texts=TEXTS, **kwargs):
    return SSEModel(modules=[model], device="cpu").encode(texts, **kwargs)


@pytest.mark.parametrize("norm", NORMS)
def test_vectors_equal_the_equation(make_model, norm):
    model = make_model(norm)
    expected = np.stack([equation(model, mean_rows(model, text)) for text in TEXTS])
    _, tolerance = text_vectors(model, TEXTS, normalize=False)
    assert_within("model", encode(model), expected, tolerance)


def test_an_empty_text_has_the_vector_beta_tanh_bias(make_model):
    model = make_model("dyt")
    expected = model.norm.beta * torch.tanh(model.norm.bias)
    _, tolerance = text_vectors(model, [""], normalize=False)
    assert_within("model", encode(model, [""])[0], expected, tolerance[0])


def test_the_initial_values_are_the_published_ones(tokenizer):
    model = SSE(tokenizer, dim=256, seed=3)
    assert set(model.norm.alpha.tolist()) == {0.5}
    assert set(model.norm.beta.tolist()) == {1.0}
    assert set(model.norm.bias.tolist()) == {0.0}
    assert model.embedding.weight.std().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(model.embedding.weight, SSE(tokenizer, dim=256, seed=3).embedding.weight)
    small = SSE(tokenizer, dim=256, alpha_init=2.0, table_std=0.1, seed=3)
    assert small.norm.alpha[0] == 2.0
    assert small.embedding.weight.std().item() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("norm", NORMS)
def test_the_export_computes_the_same_natively_and_as_our_class(make_model, norm, tmp_path):
    model = make_model(norm, dim=64)
    folder = sse.export(model, tmp_path / "model")
    loaded = sse.load(folder)
    assert isinstance(loaded[0], SSE)
    assert loaded[0].norm_name == norm
    vectors = encode(model)
    if norm == "rmsnorm":  # its gain is stored times sqrt(D)
        _, tolerance = text_vectors(model, TEXTS, normalize=False)
        assert_within("model, reloaded", loaded.encode(TEXTS), vectors, tolerance)
    else:
        np.testing.assert_array_equal(loaded.encode(TEXTS), vectors)
    native = SentenceTransformer(str(folder), device="cpu")
    assert type(native[0]).__module__.startswith("sentence_transformers.")
    np.testing.assert_array_equal(native.encode(TEXTS), vectors)


def test_the_exports_load_in_a_clean_process_without_this_package(make_model, tmp_path):
    for norm in NORMS:
        sse.export(model := make_model(norm), tmp_path / norm)
        np.save(tmp_path / f"{norm}.npy", encode(model))
    code = f"""
import sys
sys.modules["sse"] = sys.modules["sse_kernels"] = None  # importing either now fails
import numpy as np
from sentence_transformers import SentenceTransformer
texts = eval(open("texts.txt", encoding="utf-8").read())
for norm in {list(NORMS)}:
    model = SentenceTransformer(norm, device="cpu")
    assert np.array_equal(model.encode(texts), np.load(norm + ".npy")), norm
"""
    (tmp_path / "texts.txt").write_text(repr(TEXTS), "utf-8")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_prompts_truncation_normalisation_and_similarity_work(make_model, tmp_path):
    model = SSEModel(
        modules=[make_model()], prompts={"query": "red ", "document": ""}, device="cpu"
    )
    model.save(tmp_path / "model")
    loaded = sse.load(tmp_path / "model", truncate_dim=8)
    vectors = loaded.encode(["blue circle"], normalize_embeddings=True)
    assert vectors.shape == (1, 8)
    assert np.linalg.norm(vectors) == pytest.approx(1.0, abs=1e-6)
    query = loaded.encode_query("blue circle")
    np.testing.assert_array_equal(query, loaded.encode("red blue circle"))
    assert loaded.similarity(query, query).item() == pytest.approx(1.0, abs=1e-6)
    assert loaded.similarity_fn_name == "cosine"


def test_max_tokens_cuts_here_and_in_the_export(tokenizer, tmp_path):
    from sse.text.tokenizer import TextTokenizer

    model = SSE(TextTokenizer(tokenizer.tokenizer, max_tokens=3), 16, seed=0)
    sse.export(model, tmp_path / "model")
    text, cut = "red circle large square spins", "red circle large"
    for loaded in (sse.load(tmp_path / "model"), SentenceTransformer(str(tmp_path / "model"))):
        assert np.array_equal(loaded.encode(text), loaded.encode(cut))
        assert not np.array_equal(loaded.encode(text), loaded.encode("red circle"))


def test_the_card_has_a_model_index_and_a_snippet_that_runs(make_model, tmp_path):
    import yaml

    metrics = {"toy": {"32": {"ndcg@10": 0.5}, "8": {"ndcg@10": 0.25}}}
    folder = sse.export(make_model(), tmp_path / "model", {"metrics": metrics})
    card = (folder / "README.md").read_text("utf-8")
    header = yaml.safe_load(card.split("---")[1])
    result = header["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "toy"
    assert result["metrics"] == [{"type": "cosine_ndcg@10", "value": 0.5, "name": "ndcg@10"}]
    snippet = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    process = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert "tensor" in process.stdout


def test_no_file_of_an_export_is_a_pickle(make_model, tmp_path):
    folder = sse.export(make_model(), tmp_path / "model")
    names = {p.suffix for p in folder.rglob("*") if p.is_file()}
    assert names <= {".json", ".safetensors", ".md"}


def publish(model, folder):
    """The published layout, as its author's code writes it."""
    folder.mkdir()
    tensors = {"embedding.weight": model.embedding.weight.detach().numpy()}
    for name in ("alpha", "beta", "bias"):
        tensors[f"dyt.{name}"] = getattr(model.norm, name).detach().numpy()
    save_file(tensors, folder / "model.safetensors")
    model.text_tokenizer.save(folder / "tokenizer.json")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "SSE.SSE"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_the_published_layout_loads(make_model, tmp_path):
    model = make_model()
    folder = publish(model, tmp_path / "published")
    np.testing.assert_array_equal(sse.load(folder).encode(TEXTS), encode(model))


def test_the_published_4_bit_file_loads(make_model, tmp_path):
    model = make_model()
    folder = publish(model, tmp_path / "published")
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop("embedding.weight")
    scale = np.abs(table).max(1, keepdims=True) + 1e-8
    q = np.clip(np.round((table / scale + 1) * 7.5), 0, 15).astype(np.uint8)
    packed = (q[:, ::2] << 4) | q[:, 1::2]
    (folder / "embedding.q4_k_m.bin").write_bytes(packed.tobytes() + scale.astype("<f4").tobytes())
    save_file(tensors, folder / "model_rest.safetensors")
    (folder / "model.safetensors").unlink()
    loaded = sse.load(folder)
    decoded = loaded[0].embedding.weight.detach().numpy()
    np.testing.assert_allclose(decoded, (q / 7.5 - 1) * scale, atol=1e-6)
    assert np.abs(decoded - table).max() <= scale.max() / 15 + 1e-6


def test_a_plain_static_embedding_folder_loads(tokenizer, tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    native = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer.tokenizer, embedding_dim=16)], device="cpu"
    )
    native.save(str(tmp_path / "plain"))
    loaded = sse.load(tmp_path / "plain")
    assert loaded[0].norm_name == "none"
    exact, tolerance = text_vectors(loaded[0], TEXTS, normalize=False)
    for vectors in (loaded.encode(TEXTS), native.encode(TEXTS)):
        assert_within("model, plain folder", vectors, exact, tolerance)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: shutil.rmtree(f), "is no folder"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "sse_config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "sse_config.json").write_text('{"format": 99}'), "format 99"),
        (lambda f: truncate(f / "model.safetensors", 0.5), "damaged"),
        (lambda f: truncate(f / "1_Dense" / "model.safetensors", 0.01), "damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "damaged"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(make_model, tmp_path, damage, words):
    folder = sse.export(make_model(), tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        sse.load(folder)
    assert "\n" not in str(error.value)


def truncate(path, share):
    with open(path, "r+b") as file:
        file.truncate(math.floor(path.stat().st_size * share))


def test_files_of_two_models_do_not_mix(make_model, tokenizer, tmp_path):
    folder = sse.export(make_model(dim=32), tmp_path / "a")
    other = sse.export(make_model(dim=16), tmp_path / "b")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match="was changed since it was written"):
        sse.load(folder)
    with pytest.raises(UserError, match="different models"):
        sse.load(unseal(folder))


def test_a_folder_with_other_files_is_never_replaced(make_model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no model"):
        sse.export(make_model(), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_importing_the_package_brings_no_torch():
    code = "import sys, sse; assert 'torch' not in sys.modules; assert sse.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tokenizer_of_another_model_is_refused_by_every_reader(make_model, tmp_path):
    from sse.evaluation.systems import load_model
    from sse.text.tokenizer import train_tokenizer

    folder = sse.export(make_model(), tmp_path / "model")
    other = train_tokenizer(["few words here"], 200, progress=False)
    unseal(folder)
    other.save(folder / "tokenizer.json")  # fewer tokens: every id would find a row, a wrong one
    for read in (sse.load, sse.Encoder, load_model):
        with pytest.raises(UserError, match="different models"):
            read(folder)
