"""A table learns a teacher's vectors of texts; these are computed once, whatever stops the run."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import sse
from sse.cli.teacher.distil import run
from sse.common.errors import UserError
from sse.teacher import vectors as vectors_module
from sse.teacher.regress import cosine_loss, regress, rotated
from sse.teacher.vectors import teacher_vectors
from sse.text.token_batch import TokenBatch
from sse.training.run import main
from tests.helpers.samples import sentences
from tests.helpers.teachers import WIDTH, write_transformer
from tests.helpers.training_runs import make_options
from tests.teacher.test_start import with_special_tokens

TEXTS = sentences(60, seed=8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("teacher") / "bert"
    return write_transformer(folder, with_special_tokens(tokenizer.tokenizer))


def test_vectors_are_the_teachers_and_a_stopped_run_goes_on(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors_module, "CHUNK", 16)
    expected = SentenceTransformer(str(teacher), device="cpu").encode(TEXTS)
    asked, real = [], SentenceTransformer.encode

    def encode(self, texts, **options):
        asked.append(len(texts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        teacher_vectors(teacher, TEXTS, tmp_path)
    file = next(tmp_path.rglob("vectors"))
    with open(file, "ab") as out:
        out.write(b"torn")
    found = teacher_vectors(teacher, TEXTS, tmp_path)
    assert asked == [16, 16, 16, 16, 12], "only what was missing"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = teacher_vectors(teacher, TEXTS, tmp_path)
    assert len(asked) == 5 and np.array_equal(found, again)
    teacher_vectors(teacher, TEXTS[1:], tmp_path)
    assert len(asked) > 5, "other texts are another entry"


def test_nan_of_a_teacher_is_one_line(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        SentenceTransformer, "encode", lambda self, texts, **rest: np.full((len(texts), 3), np.nan)
    )
    with pytest.raises(UserError, match="gives NaN or infinite vectors"):
        teacher_vectors(teacher, TEXTS, tmp_path)


def test_rotation_changes_no_cosine_and_puts_the_largest_axes_first():
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * [3, 1, 9, 1, 1, 2]
    vectors = vectors.astype(np.float32)
    turned = rotated(vectors, 9)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, rtol=1e-3, atol=1e-3)
    energy = (turned**2).sum(0)
    assert (np.diff(energy) <= 0).all()
    np.testing.assert_allclose(rotated(vectors, 2), turned[:, :2])


def test_the_loss_is_its_definition_and_training_lowers_it(make_model, tokenizer):
    own, target = torch.randn(5, 8), torch.randn(5, 6)
    parts = [1 - torch.cosine_similarity(own[:, :d], target[:, :d]).mean() for d in (6, 2)]
    torch.testing.assert_close(cosine_loss(own, target, [6, 2]), sum(parts) / 2)
    model, tokens = make_model("none"), tokenizer.encode([*TEXTS, ""])
    wanted = np.random.default_rng(0).normal(size=(len(tokens), 20)).astype(np.float32)
    before = model.embedding.weight.detach().clone()
    losses = regress(model, tokens, wanted, epochs=20, batch_size=16, lr=0.05)
    assert losses[-1] < losses[0] / 2
    after = model.embedding.weight.detach()
    assert torch.equal(after[:, 20:], before[:, 20:]), "columns beyond the teacher's stay"
    with pytest.raises(UserError, match="no text holds a token"):
        regress(model, TokenBatch(np.zeros(0, np.int32), np.array([0, 0])), wanted)


def test_the_command_makes_a_model_that_training_starts_from(teacher, tmp_path, capsys):
    path, out = tmp_path / "texts.jsonl", tmp_path / "distilled"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    command = [str(path), f"--teacher={teacher}", f"--out={out}", "--dim=32", "--epochs=40",
               "--batch-size=16", "--lr=0.05", f"--cache={tmp_path / 'cache'}"]  # fmt: skip
    assert run(command) == 0
    assert "1 - cosine fell from" in capsys.readouterr().err
    ours = sse.Encoder(out).encode(TEXTS, dim=WIDTH)
    theirs = SentenceTransformer(str(teacher), device="cpu").encode(
        TEXTS, normalize_embeddings=True
    )
    above = np.triu_indices(len(TEXTS), 1)
    together = np.corrcoef((ours @ ours.T)[above], (theirs @ theirs.T)[above])[0, 1]
    assert together > 0.6, "texts that are near to the teacher are near to the table"
    options = [*make_options(tmp_path), f"--model.start={out}", f"--data.tokenizer={out}"]
    main([*options, "--model.norm=none", f"--out={tmp_path / 'run'}"])
    assert run([str(path), f"--teacher={tmp_path}", f"--out={out}"]) == 2
    path.write_text("")
    assert run(command) == 2
    assert "no texts" in capsys.readouterr().err
