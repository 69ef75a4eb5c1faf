"""A run with a grown vocabulary: words are tokens, their rows start from pieces, all of it kept."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

import sse
import sse.data.prepare
from sse.common.errors import UserError
from sse.model.folder import read_folder
from sse.model.grown_rows import start_grown_rows
from sse.teacher.start import Start
from sse.text.grow import pieces_of
from sse.text.tokenizer import load_tokenizer
from sse.training.run import main, parse, read_data
from tests.helpers.samples import WORDS
from tests.helpers.training_runs import make_options

GROW = ["--data.vocab_size=70", "--data.grow_vocab=6"]


@pytest.fixture
def options(tmp_path):
    return [*make_options(tmp_path), *GROW]


def vocabulary(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()


@pytest.mark.parametrize("given", ["train", "a file"])
def test_the_exported_folder_has_the_words_and_loads_everywhere(options, tmp_path, given):
    if given == "a file":
        main([*options, "--data.grow_vocab=null", f"--out={tmp_path / 'base'}"])
        options.append(f"--data.tokenizer={tmp_path / 'base' / 'model' / 'tokenizer.json'}")
    out = tmp_path / "run"
    facts = main([*options, f"--out={out}"])
    model, texts = out / "model", ["Red circle", "green, SQUARE spins", "zebra", ""]
    words = [word for word, _ in sorted(vocabulary(model).items(), key=lambda item: item[1])[-6:]]
    assert set(words) <= set(WORDS), "the most frequent words that it cut"
    trained, untrained = (facts["metrics"][name] for name in ("trained", "untrained"))
    of_pairs = [each["held-out pairs"]["32"]["ndcg@10"] for each in (trained, untrained)]
    assert of_pairs[0] > of_pairs[1]
    ours = sse.Encoder(model).encode(texts)
    theirs = SentenceTransformer(str(model)).encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_second_run_finds_the_grown_tokenizer_and_another_size_is_another(
    options, tmp_path, monkeypatch
):
    first = read_data(parse(options))
    kept = sorted((tmp_path / "cache").rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(sse.data.prepare, "grow", None)
        again = read_data(parse(options))
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert sorted((tmp_path / "cache").rglob("*")) == kept
    other = read_data(parse([*options, "--data.grow_vocab=5"]))
    assert other.tokenizer.vocab_size == first.tokenizer.vocab_size - 1
    for data in (first, other):  # each has its own token cache
        ids = data.tokenizer.encode(data.pairs[0].texts("anchor")).ids
        assert np.array_equal(ids, data.sets[0].tokens[0].ids)


def test_the_untrained_rows_are_those_of_the_pieces(options):
    settings = parse(options)
    data, model = read_data(settings), settings.module()
    model.build(data.tokenizer, pieces=data.pieces)
    plain = settings.module()
    plain.build(data.tokenizer)
    expected = plain.model.embedding.weight.detach().clone()
    start_grown_rows(expected, data.pieces, model.hparams.seed)
    assert torch.equal(model.model.embedding.weight, expected)
    assert not torch.equal(expected, plain.model.embedding.weight)
    base = load_tokenizer(sse.data.prepare.base_tokenizer(data.pairs, data.hparams))
    assert pieces_of(base, data.tokenizer).ids.tolist() == data.pieces.ids.tolist()


def test_the_run_says_how_many_words_came_and_bad_input_is_one_line(options, tmp_path, capsys):
    read_data(parse([*options, "--data.grow_vocab=5000"]))
    assert "70 tokens and " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--data.grow_vocab is 0: give 1 to 10,000,000"):
        main([*options, "--data.grow_vocab=0"])
    path = tmp_path / "marks.jsonl"
    rows = [{"anchor": " ", "positive": "\n" * n} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    some = tmp_path / "cache" / "tokenizers"
    known = next(path for path in some.iterdir() if path.suffix == ".json")
    with pytest.raises(UserError, match=r"^--data.grow_vocab is 6, but the texts hold no word"):
        main([*options, f"--data.paths={path}", f"--data.tokenizer={known}"])


def test_words_go_on_from_the_rows_that_a_model_has_of_their_pieces(options, tmp_path):
    """--model.start with a model of the vocabulary before it grew."""
    main([*options, "--data.grow_vocab=null", f"--out={tmp_path / 'base'}"])
    start = [*options, f"--model.start={tmp_path / 'base' / 'model'}"]
    main([*start, f"--out={tmp_path / 'run'}", "--trainer.max_epochs=1"])
    before = read_folder(tmp_path / "base" / "model").table
    after = Start.read(tmp_path / "run" / "checkpoints" / "start.safetensors").table
    np.testing.assert_array_equal(after[: len(before)], before)
    pieces = read_data(parse(options)).pieces
    means = [before[pieces[row]].mean(0) for row in range(len(pieces))]
    np.testing.assert_allclose(after[len(before) :], means, rtol=1e-5, atol=1e-6)
