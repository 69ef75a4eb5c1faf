"""The torch-free encoder equals the torch model; the fast tokenizer is used only where equal."""

import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sse
from sse.common.errors import UserError
from sse.model import table as pool
from sse.model.norm_forms import NORM_FORMS
from sse.serving.encoder import Encoder
from tests.helpers.samples import unseal
from tests.helpers.tolerances import assert_within, text_vectors

TEXTS = [
    "",
    "the red circle rolls over the small square",
    "blue " * 700,
    "\x00\u200b",
    "é漢🎉 \ud800",
]
ANY_TEXT = st.text(st.characters(codec=None), max_size=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """One exported model per norm, each with the torch model it came from."""
    made = {}
    for seed, norm in enumerate(NORM_FORMS):
        import torch

        model = sse.SSE(tokenizer, 48, norm, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.norm.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path_factory.mktemp("models") / norm
        sse.export(model, folder)
        made[norm] = (folder, sse.load(folder, device="cpu"))
    return made


@pytest.fixture(scope="module")
def folder(folders):
    return folders["dyt"][0]


@pytest.fixture(params=["compiled", "numpy"])
def pooling(request, monkeypatch):
    """Both ways to pool."""
    if request.param == "numpy":
        monkeypatch.setattr(pool, "_table", None)
    elif pool._table is None:
        pytest.skip("sse.model._table is not compiled here")
    return request.param


@pytest.mark.parametrize("norm", NORM_FORMS)
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_torch_model(folders, norm, normalize, pooling):
    folder, torch_model = folders[norm]
    texts = TEXTS * 40
    for dim in (48, 17):
        exact, tolerance = text_vectors(torch_model[0], TEXTS, normalize, dim)
        cut = torch_model.encode(texts, normalize_embeddings=normalize, truncate_dim=dim)
        vectors = Encoder(folder).encode(texts, dim=dim, normalize=normalize, batch_size=7)
        assert vectors.dtype == np.float32
        assert_within(f"encoder, {pooling}", vectors, exact.repeat(40, 1), tolerance.repeat(40, 1))
        assert_within("encoder, torch", cut, exact.repeat(40, 1), tolerance.repeat(40, 1))
        one = Encoder(folder).encode(TEXTS[1], dim=dim, normalize=normalize)
        assert_within(f"encoder, {pooling}", one, exact[1], tolerance[1])


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=8))
def test_equals_the_torch_model_on_any_text(folders, texts):
    for folder, torch_model in folders.values():
        expected = torch_model.encode(texts, normalize_embeddings=True)
        exact, tolerance = text_vectors(torch_model[0], texts)
        assert_within("encoder, torch", expected, exact, tolerance)
        for fast in (True, False):
            vectors = _cached(folder, fast).encode(texts)
            assert_within("encoder, any text", vectors, exact, tolerance)


@functools.cache
def _cached(folder, fast):
    return Encoder(folder, fast=fast)


def test_loading_a_prefix_equals_cutting_to_it(folders):
    for folder, torch_model in folders.values():
        whole = Encoder(folder).encode(TEXTS, dim=20)
        _, tolerance = text_vectors(torch_model[0], TEXTS, dim=20)
        assert_within(
            "encoder, prefix", Encoder(folder, dim=20).encode(TEXTS), whole, 2 * tolerance
        )


def test_an_iterator_gives_the_same_as_a_list_and_is_read_lazily(folder, monkeypatch):
    monkeypatch.setattr("sse.serving.encoder.cores", lambda: 2)
    model, texts = Encoder(folder), [f"{i} red squares" for i in range(900)]
    expected = model.encode(texts, batch_size=10)
    np.testing.assert_array_equal(model.encode(iter(texts), batch_size=10), expected)
    taken = []
    stream = model.stream((taken.append(t) or t for t in texts), batch_size=10)
    first = [next(stream) for _ in range(3)]
    assert len(taken) < 150, "a stream must not read the whole input ahead"
    np.testing.assert_array_equal(np.concatenate(first), expected[:30])
    stream.close()


def test_no_texts_give_no_rows(folder):
    assert Encoder(folder).encode([]).shape == (0, 48)
    assert Encoder(folder).encode(iter([]), precision="binary").shape == (0, 6)


def test_threads_share_one_encoder(folder):
    model = Encoder(folder)
    lists = [[f"{i} {j} blue circles" for j in range(60)] for i in range(16)]
    expected = [model.encode(texts) for texts in lists]
    with ThreadPoolExecutor(8) as threads:
        for vectors, one in zip(threads.map(model.encode, lists), expected, strict=True):
            np.testing.assert_array_equal(vectors, one)


def test_prompts_are_those_of_the_model(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    path = unseal(tmp_path / "m") / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": {"query": "large "}}))
    model = Encoder(tmp_path / "m")
    asked = model.encode(["red circle"], prompt_name="query")
    np.testing.assert_array_equal(asked, model.encode(["large red circle"]))
    with pytest.raises(UserError, match="prompt 'answer'.*query"):
        model.encode(["red"], prompt_name="answer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim 0 is no prefix.*1 to 48"),
        ({"dim": 49}, "dim 49 is no prefix"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int3"}, "precision 'int3'"),
        ({"texts": ["red", None]}, "text 1 is NoneType"),
        ({"texts": ["red", b"blue"]}, "text 1 is bytes"),
        ({"texts": ["red"] * 2000 + [3.5]}, "text 2000 is float"),
    ],
)
def test_bad_input_is_named(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        Encoder(folder).encode(**({"texts": ["red"]} | arguments))


def test_a_tokenizer_beyond_the_table_is_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    path = unseal(tmp_path / "m") / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["zzz"] = 10**6  # as many tokens as rows, but one id is far outside
    vocab.pop("red")
    path.write_text(json.dumps(content))
    for fast in (True, False):
        with pytest.raises(UserError, match="beyond the table's"):
            Encoder(tmp_path / "m", fast=fast).encode(["zzz"])
    vocab |= {f"word{i}": 5000 + i for i in range(10)}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="belong to different models"):
        Encoder(tmp_path / "m")


def test_a_damaged_table_is_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        Encoder(tmp_path / "m")
    with pytest.raises(UserError, match="no folder"):
        Encoder(tmp_path / "nothing")


def test_encoding_imports_neither_torch_nor_sentence_transformers(folder):
    code = (
        "import sys, sse; from sse import Encoder; "
        f"v = Encoder({str(folder)!r}).encode(['red', 'blue'] * 2000); "
        "assert v.shape == (4000, 48); "
        "slow = {'torch', 'sentence_transformers', 'transformers', 'datasets', 'pyarrow', 'tqdm'}; "
        "print(*sorted(slow & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_info_says_which_tokenizer_and_why(folder):
    info = Encoder(folder, fast=False).info()
    assert (info["tokenizer"], info["tokenizer_because"]) == ("tokenizers", "asked for")
    assert json.loads(json.dumps(info))["table_bytes"] == 48 * 4 * info["vocabulary"]


@pytest.mark.parametrize("rows", ["float32", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named_where_a_text_needs_it(tokenizer, pooling, rows, value):
    table = np.ones((tokenizer.vocab_size, 8), rows)
    faulty, sound = tokenizer.encode(["red circle"]).ids[:2]
    table[faulty, 3] = value
    small = pool.EmbeddingTable(table, name="the table of m")
    out = np.empty((1, 8), np.float32)
    for _ in range(2):
        small.mean(np.array([sound]), np.array([0, 1]), out)
        assert (out == 1).all()
        with pytest.raises(UserError, match=f"^the table of m holds NaN or .* in row {faulty}:"):
            small.mean(np.array([sound, faulty]), np.array([0, 2]), out)


@pytest.mark.parametrize("way", [sse.load, lambda folder: sse.export(sse.load(folder), "never")])
def test_a_table_that_is_not_finite_is_neither_loaded_nor_written(way, tokenizer, tmp_path):
    import torch

    model = sse.SSE(tokenizer, 8, "none", seed=0)
    folder = sse.export(model, tmp_path / "model")
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(data)
    unseal(folder)
    with pytest.raises(UserError, match="NaN or infinite values in row"):
        way(folder)
    with torch.no_grad():
        model.embedding.weight[3, 3] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite values in row 3"):
        sse.export(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("texts", [None, 3, np.array("a text")])
def test_what_is_neither_a_text_nor_several_is_refused(texts, folder):
    with pytest.raises(UserError, match="^`texts` is .*: give one text, or several$"):
        Encoder(folder).encode(texts)
