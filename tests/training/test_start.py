"""`--model.start`: a run begins with what a teacher gives, and goes on without the teacher."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import sse
from sse.common.errors import UserError
from sse.model.norms import NORMS
from sse.teacher.start import Start, random_rows
from sse.text.tokenizer import load_tokenizer, train_tokenizer
from sse.training import start
from sse.training.module import SSEModule
from sse.training.run import main
from tests.helpers.samples import sentences
from tests.helpers.teachers import write_static
from tests.helpers.training_runs import make_options, same, weights


@pytest.fixture
def options(tmp_path):
    return make_options(tmp_path)


@pytest.fixture
def teacher(tmp_path, tokenizer):
    table = torch.from_numpy(random_rows(tokenizer.vocab_size, 16, 3))
    return write_static(tmp_path / "teacher", tokenizer.tokenizer, table)


def started(folder):
    """The table that a run began with."""
    return load_file(folder / "checkpoints" / "start.safetensors")["table"]


def test_a_run_begins_with_the_start_and_its_own_rate(options, teacher, tmp_path, capsys):
    out = tmp_path / "run"
    main([*options, f"--model.start={teacher}", f"--out={out}", "--trainer.max_steps=1"])
    assert f"start from {teacher}: rows of" in capsys.readouterr().out
    (trained,) = (v for k, v in weights(out).items() if k.endswith("embedding.weight"))
    moved = np.abs(trained.numpy() - started(out)).max()
    assert 0 < moved < 0.031, "one step of Adam is at most the rate, 0.03"
    state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["hyper_parameters"]["lr"] == 0.03


@pytest.mark.parametrize("given", [["--model.lr=0.1"], []])
def test_a_rate_that_the_user_gives_stays(given):
    lr = {"lr": 0.2} if given else {}
    assert SSEModule(start="folder", **lr).hparams.lr == lr.get("lr", 0.03)
    assert SSEModule(**lr).hparams.lr == lr.get("lr", 0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_starts_from_the_table(tokenizer, tmp_path, norm):
    Start(random_rows(tokenizer.vocab_size, 8, 2)).save(tmp_path / "start")
    module = SSEModule(dim=8, norm=norm)
    module.build(tokenizer, tmp_path / "start")
    ids, offsets = torch.tensor([3, 4, 5]), torch.tensor([0, 2, 3])
    table = torch.from_numpy(random_rows(tokenizer.vocab_size, 8, 2))
    mean = torch.stack([table[3:5].mean(0), table[5]])
    torch.testing.assert_close(module.model.pool(ids, offsets), module.model.norm(mean))


def test_a_run_resumes_without_its_teacher_and_its_cache(options, teacher, tmp_path):
    options = [*options, f"--model.start={teacher}", "--model.norm=gain"]
    facts = main([*options, f"--out={tmp_path / 'whole'}"])
    main([*options, f"--out={tmp_path / 'part'}"])
    for name in ("last", "previous", "best"):
        (tmp_path / "part" / "checkpoints" / f"{name}.ckpt").unlink(missing_ok=True)
    shutil.rmtree(teacher)
    shutil.rmtree(tmp_path / "cache")
    again = main(["--resume", str(tmp_path / "part")])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    assert again["metrics"] == facts["metrics"], "the untrained model's among them"


def test_training_goes_on_from_a_model_of_ones_own(options, tmp_path):
    first = main([*options, f"--out={tmp_path / 'first'}", "--model.norm=dyt"])
    own = tmp_path / "first" / "model"
    tokenizer = f"--data.tokenizer={own}"
    more = [*options, tokenizer, f"--model.start={own}", "--model.norm=dyt"]
    second = main([*more, f"--out={tmp_path / 'second'}"])
    before = {
        name: facts["metrics"][system]["held-out pairs"]
        for name, facts, system in (("end", first, "trained"), ("start", second, "untrained"))
    }
    assert before["start"] == before["end"]
    assert sse.load(tmp_path / "second" / "model")[0].norm_name == "dyt"


def test_a_bad_teacher_is_one_line_that_names_the_option(options, tmp_path, capsys):
    from sse.training.run import run

    out = tmp_path / "run"
    assert run([*options, f"--out={out}", "--model.start=./nowhere"]) == 2
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("error: --model.start ./nowhere is no folder")
    assert not (out / "model").exists()
    assert not list(out.glob("checkpoints/*"))


def test_a_vocabulary_larger_than_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(start, "memory", lambda: 8 * 10**9)
    start.check_memory(400_000, 1_000)
    with pytest.raises(
        UserError, match=r"`dim` is 1000 for 1,100,000 tokens: training needs 18 GB"
    ):
        start.check_memory(1_100_000, 1_000)


def test_a_grown_word_that_the_teacher_lacks_is_read_as_its_text(options, tmp_path):
    letters = train_tokenizer(sentences(50), 60, progress=False)
    table = torch.from_numpy(random_rows(letters.vocab_size, 16, 3))
    teacher = write_static(tmp_path / "letters", letters.tokenizer, table)
    letters.save(tmp_path / "tokenizer.json")
    grow = [f"--data.tokenizer={tmp_path / 'tokenizer.json'}", "--data.grow_vocab=6"]
    once = ["--trainer.max_steps=1", "--eval.baselines=false", "--model.dim=16"]
    main([*options, *grow, *once, f"--model.start={teacher}", f"--out={tmp_path / 'run'}"])
    rows = started(tmp_path / "run")
    grown = load_tokenizer(str(tmp_path / "run" / "model"))
    words = list(range(letters.vocab_size, grown.vocab_size))
    assert len(rows) == grown.vocab_size
    assert len(words) == 6
    for word in words:
        pieces = letters.encode([grown.tokenizer.id_to_token(word)])[0]
        assert len(pieces) > 1
        expected = rows[pieces].mean(0)
        np.testing.assert_allclose(rows[word], expected, rtol=1e-4, atol=1e-5)
