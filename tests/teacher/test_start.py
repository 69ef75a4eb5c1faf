"""A start from a teacher equals its definition, whatever the teacher."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers.processors import TemplateProcessing

import sse
from sse.common.errors import UserError
from sse.model.export import export
from sse.model.load import SSEModel
from sse.model.model import SSE
from sse.teacher.start import Start, distil, make_start, random_rows
from sse.teacher.token_vectors import token_inputs, token_vectors
from sse.teacher.tokens import Tokens
from sse.text.frequencies import Frequencies
from sse.text.tokenizer import train_tokenizer
from tests.helpers.samples import sentences
from tests.helpers.teachers import WIDTH, write_model2vec, write_static, write_transformer

DIM = 24  # wider than the teacher
RANK = WIDTH - 1  # a layer norm leaves no mean in its vectors
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def with_special_tokens(tokenizer):
    """The tokenizer as BERT has it: [CLS] before a text, [SEP] after it."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    special = [(name, copy.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    copy.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return copy


@pytest.fixture(scope="module")
def other():
    """A tokenizer with other, mostly shorter tokens than the fixture `tokenizer` has."""
    return train_tokenizer(sentences(50, seed=3), 60, progress=False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("teacher") / "bert"
    return write_transformer(folder, with_special_tokens(tokenizer.tokenizer))


@pytest.fixture(scope="module")
def small_teacher(tmp_path_factory, other):
    folder = tmp_path_factory.mktemp("teacher") / "small"
    return write_transformer(folder, with_special_tokens(other.tokenizer))


def start(folder, tokenizer, tmp_path, dim=DIM, **options):
    return make_start(str(folder), tokenizer, dim, cache=tmp_path / "cache", **options)


def mean_of_last_layer(folder, text):
    """What the teacher makes of a text, through sentence-transformers' own calls."""
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode([text], normalize_embeddings=False)[0]


def frequencies(vocab, seed=0):
    """Counts of tokens in 100 texts: some in all of them, some in none."""
    found = np.random.default_rng(seed).integers(0, 101, vocab)
    found[:2] = 0, 100
    return Frequencies(found, 100)


def test_a_distilled_start_equals_its_definition(teacher, tokenizer, tmp_path):
    counts = frequencies(tokenizer.vocab_size)
    table = start(teacher, tokenizer, tmp_path, frequencies=counts, seed=5, std=2.0).table
    model = SentenceTransformer(str(teacher), device="cpu")
    cls, sep = (tokenizer.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    ids = torch.tensor([[cls, token, sep] for token in range(tokenizer.vocab_size)])
    with torch.inference_mode():
        layer = model[0]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    vectors = layer["token_embeddings"].mean(1).numpy().astype(np.float64)
    share = counts.found * counts.idf() ** 2
    share /= share.sum()
    centred = vectors - share @ vectors
    # Rows of Mahalanobis length 1: their products need no axes.
    inverse = np.linalg.pinv((centred.T * share) @ centred, rcond=1e-6, hermitian=True)
    products = centred @ inverse @ centred.T
    lengths = np.sqrt(np.diag(products))
    cosines = products / np.outer(lengths, lengths)
    weights = counts.idf() / counts.idf().mean()
    ours = table[:, :RANK]
    expected = 4 * RANK * cosines * np.outer(weights, weights)
    np.testing.assert_allclose(ours @ ours.T, expected, rtol=1e-3, atol=1e-3 * RANK)
    random = 2 * random_rows(len(table), DIM, 5)[:, RANK:] * weights[:, None]
    np.testing.assert_allclose(table[:, RANK:], random, **NEAR)


def test_the_teachers_cosines_are_strongest_in_the_first_columns(teacher, tokenizer, tmp_path):
    counts = frequencies(tokenizer.vocab_size)
    table = start(teacher, tokenizer, tmp_path, frequencies=counts).table[:, :RANK]
    table = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    vectors = token_vectors(teacher, str(teacher), Tokens(tokenizer.tokenizer, len(table)))
    share = counts.found * counts.idf() ** 2
    centred = vectors - share @ vectors / share.sum()
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    known = table.any(1)
    agreement = np.linalg.norm(table[known].T @ centred[known], axis=1)
    assert (np.diff(agreement) < 1e-3 * agreement[0]).all()


def test_a_narrow_table_takes_the_first_columns(teacher, tokenizer, tmp_path):
    narrow = start(teacher, tokenizer, tmp_path, dim=4).table
    wide = start(teacher, tokenizer, tmp_path, dim=WIDTH).table
    ratio = np.abs(narrow) / np.abs(wide[:, :4])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-2)


def test_a_continuation_is_read_by_its_own_id_or_else_as_its_text(tokenizer, other):
    tokens = Tokens(tokenizer.tokenizer, tokenizer.vocab_size)
    reader = with_special_tokens(other.tokenizer)
    inputs = token_inputs(tokens, reader)
    cls, sep = reader.token_to_id("[CLS]"), reader.token_to_id("[SEP]")
    shared = lacking = 0
    for string, ids in zip(tokens.strings, inputs, strict=True):
        if (own := reader.token_to_id(string)) is not None:
            assert ids == [cls, own, sep]
            shared += string.startswith("##")
        elif string.startswith("##"):
            assert ids == reader.encode(string[2:]).ids
            lacking += 1
    assert shared
    assert lacking


def test_a_word_that_the_teacher_lacks_is_read_as_its_pieces(small_teacher, tokenizer, other):
    word = "circle"
    assert other.tokenizer.token_to_id(word) is None
    row = tokenizer.tokenizer.token_to_id(word)
    tokens = Tokens(tokenizer.tokenizer, tokenizer.vocab_size)
    vectors = token_vectors(small_teacher, str(small_teacher), tokens)
    expected = mean_of_last_layer(small_teacher, word)
    np.testing.assert_allclose(vectors[row], expected, rtol=1e-3, atol=1e-5)


def test_the_cache_gives_what_the_teacher_gave(teacher, tokenizer, tmp_path, monkeypatch):
    first = start(teacher, tokenizer, tmp_path)
    monkeypatch.setattr("sse.teacher.start.token_vectors", None)  # no call may come
    second = start(teacher, tokenizer, tmp_path)
    assert np.array_equal(first.table, second.table)
    assert "from the cache" in second.account


def test_another_teacher_or_vocabulary_is_no_hit(
    teacher, small_teacher, tokenizer, other, tmp_path
):
    for folder, tokens in ((teacher, tokenizer), (small_teacher, tokenizer), (teacher, other)):
        assert "from the cache" not in start(folder, tokens, tmp_path).account


def test_a_damaged_cache_is_made_again(teacher, tokenizer, tmp_path):
    first = start(teacher, tokenizer, tmp_path)
    (path,) = (tmp_path / "cache" / "starts").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
    again = start(teacher, tokenizer, tmp_path)
    assert np.array_equal(first.table, again.table)
    assert "from the cache" not in again.account


def test_without_counts_all_rows_weigh_alike(teacher, tokenizer, tmp_path):
    plain = start(teacher, tokenizer, tmp_path)
    counts = Frequencies(np.full(tokenizer.vocab_size, 7), 100)
    even = start(teacher, tokenizer, tmp_path, frequencies=counts)
    np.testing.assert_allclose(plain.table, even.table, **NEAR)


@pytest.mark.parametrize("norm", ["none", "dyt", "layernorm"])
def test_going_on_with_a_model_of_ones_own_starts_as_it_ended(make_model, tmp_path, norm):
    model = make_model(norm)
    export(SSEModel(modules=[model], device="cpu"), tmp_path / "own")
    own = start(tmp_path / "own", model.text_tokenizer, tmp_path, dim=32, norm=norm)
    copy = SSE(model.text_tokenizer, 32, norm, table=torch.from_numpy(own.table))
    copy.norm.load_vectors({k: torch.from_numpy(v) for k, v in own.vectors.items()})
    texts = sentences(5)
    before = sse.load(tmp_path / "own", device="cpu").encode(texts)
    after = SSEModel(modules=[copy], device="cpu").encode(texts)
    np.testing.assert_array_equal(before, after)


def test_another_norm_or_dim_takes_the_rows_alone(make_model, tmp_path):
    model = make_model("dyt")
    export(SSEModel(modules=[model], device="cpu"), tmp_path / "own")
    table = model.embedding.weight.detach().numpy()
    other_norm = start(tmp_path / "own", model.text_tokenizer, tmp_path, dim=32, norm="gain")
    narrower = start(tmp_path / "own", model.text_tokenizer, tmp_path, dim=8, norm="dyt")
    wider = start(tmp_path / "own", model.text_tokenizer, tmp_path, dim=40, norm="dyt")
    assert not (other_norm.vectors or narrower.vectors or wider.vectors)
    np.testing.assert_array_equal(other_norm.table, table)
    np.testing.assert_array_equal(narrower.table, table[:, :8])
    np.testing.assert_array_equal(wider.table[:, :32], table)
    assert 0.9 < wider.table[:, 32:].std() / table.std() < 1.1


@pytest.mark.parametrize("kind", ["StaticEmbedding", "model2vec"])
def test_a_static_table_gives_its_rows_at_the_spread_of_ours(kind, tokenizer, other, tmp_path):
    table = random_rows(other.vocab_size, 8, 1)
    weights = np.linspace(1, 2, len(table), dtype=np.float32)
    if kind == "model2vec":
        folder = write_model2vec(tmp_path / "static", other.tokenizer, table, weights)
        table = table * weights[:, None]
    else:
        folder = write_static(tmp_path / "static", other.tokenizer, 0.01 * table)
    ours = start(folder, tokenizer, tmp_path, dim=8).table
    np.testing.assert_allclose(np.sqrt(np.mean(ours**2)), 1, rtol=1e-4)
    pieces = other.encode(["circle"])[0]
    assert len(pieces) > 1
    expected = table[pieces].mean(0)
    row = ours[tokenizer.tokenizer.token_to_id("circle")]
    np.testing.assert_allclose(row / row[0], expected / expected[0], rtol=1e-3)


def test_a_token_that_nobody_knows_keeps_its_random_row():
    noise = random_rows(6, 4, 0)
    vectors = random_rows(6, 4, 1)
    vectors[2] = np.nan
    table = distil(vectors, noise)
    np.testing.assert_array_equal(table[2], noise[2])
    assert np.isfinite(table).all()


def test_a_start_is_read_as_it_was_written(tmp_path):
    written = Start(random_rows(3, 2, 0), {"gain": np.ones(2, np.float32)})
    written.save(tmp_path / "start.safetensors")
    read = Start.read(tmp_path / "start.safetensors")
    assert np.array_equal(read.table, written.table)
    assert np.array_equal(read.vectors["gain"], written.vectors["gain"])


def bad_teacher(kind, folder, tokenizer):
    """A folder, or a name, that is no usable teacher."""
    if kind == "no folder":
        return folder / "nowhere"
    if kind == "a file":
        folder.write_text("x")
        return folder
    if kind == "empty":
        folder.mkdir()
        return folder
    if kind == "broken modules.json":
        folder.mkdir()
        (folder / "modules.json").write_text("{")
        return folder
    if kind == "NaN rows":
        table = torch.full((tokenizer.get_vocab_size(), 4), torch.nan)
        return write_static(folder, tokenizer, table)
    write_transformer(folder, with_special_tokens(tokenizer))
    if kind == "no tokenizer":
        for path in folder.glob("*token*"):
            path.unlink()
    if kind == "NaN weights":
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        save_file({k: v * torch.nan for k, v in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no folder", "is no folder"),
        ("a file", "is no folder"),
        ("empty", "holds no model"),
        ("broken modules.json", "cannot be read"),
        ("NaN rows", "NaN"),
        ("NaN weights", "NaN"),
        ("no tokenizer", "has no tokenizer"),
    ],
)
def test_a_bad_teacher_is_one_clear_line_and_leaves_nothing(tokenizer, tmp_path, kind, words):
    folder = bad_teacher(kind, tmp_path / "bad", with_special_tokens(tokenizer.tokenizer))
    with pytest.raises(UserError, match=words) as caught:
        start(folder, tokenizer, tmp_path)
    assert "`start`" in str(caught.value)
    assert not list(tmp_path.glob("cache/starts/*.safetensors"))


def test_a_teacher_of_another_language_is_refused(teacher, tmp_path):
    greek = "αβγδεζηθικλμνξοπρστυφχψω"
    texts = [f"{a}{b}{c}" for a in greek for b in greek for c in greek]
    tokenizer = train_tokenizer(texts, 200, progress=False)
    with pytest.raises(UserError, match=r"knows \d+% of the"):
        start(teacher, tokenizer, tmp_path)
