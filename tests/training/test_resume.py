"""A run stopped in any way goes on as if nothing had happened, or says why it cannot."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import sse.data.prepare
import sse.training.run
from sse.common.errors import UserError
from sse.training.checkpoints import LastCheckpoint
from sse.training.module import SSEModule
from sse.training.run import main
from tests.helpers.processes import Run, at_step
from tests.helpers.training_runs import make_options, same, weights

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"


@pytest.fixture
def options(tmp_path):
    return make_options(tmp_path)


def die(step, rank):
    at_step(step, functools.partial(os.kill, os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize(
    ("step", "extra"),
    [
        (17, []),  # in mid-epoch
        (10, ["--data.num_workers=2"]),  # before the last step of one
        (11, []),  # after it
        (17, ["--data.vocab_size=70", "--data.grow_vocab=6"]),
        (17, ["--ema=0.9", "--trainer.accumulate_grad_batches=2"]),  # half an accumulation is lost
    ],
)
def test_a_killed_run_resumes_bitwise(options, tmp_path, step, extra):
    """SIGKILL, then --resume: the weights of the undisturbed run."""
    slow = [*options, *extra, "--trainer.max_epochs=3"]
    main([*slow, f"--out={tmp_path / 'whole'}"])
    broken = [*slow, "--checkpoint_minutes=0", f"--out={tmp_path / 'broken'}"]
    run = Run(broken, tmp_path / "logs", 1, functools.partial(die, step))
    assert run.wait() == [-signal.SIGKILL], run.text()
    assert not (tmp_path / "broken" / "metrics.json").exists()
    facts = main([*options, *extra, "--trainer.max_epochs=3", f"--resume={tmp_path / 'broken'}"])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert facts["steps"] == json.loads((tmp_path / "whole" / "metrics.json").read_text())["steps"]


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--trainer.max_steps=11"],
        ["--data.num_workers=1", "--trainer.max_epochs=2"],
        ["--trainer.accumulate_grad_batches=2", "--ema=0.9"],
    ],
    ids=["epochs", "max-steps", "workers", "accumulation"],
)
def test_a_run_stopped_after_every_checkpoint_is_the_undisturbed_one(
    options, tmp_path, monkeypatch, extra
):
    """As many resumptions as checkpoints: the same weights, evaluations and best one."""
    # Epochs of four steps; evaluations in an epoch and at its end.
    options = [*options, "--data.batch_size=100", "--data.holdout=20", "--trainer.max_epochs=3"]
    options += ["--eval.times=6", "--checkpoint_minutes=0", *extra]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    facts = main([*options, f"--out={whole}"])
    save = LastCheckpoint.save

    def save_and_stop(self, trainer):
        save(self, trainer)
        raise Interrupted

    stops = 0
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "save", save_and_stop)
        place = f"--out={stopped}"
        while stops < 30:
            try:
                main([*options, place])
            except Interrupted:
                stops, place = stops + 1, f"--resume={stopped}"
            else:
                break
    assert stops == facts["steps"]
    assert same(weights(whole), weights(stopped))
    assert evaluations(whole) == evaluations(stopped)
    assert len(evaluations(whole)) >= 5
    best = [torch.load(checkpoint(run, "best"), weights_only=True) for run in (whole, stopped)]
    assert best[0]["global_step"] == best[1]["global_step"]
    assert same(best[0]["state_dict"], best[1]["state_dict"])


class Interrupted(Exception):
    """Right after a checkpoint."""


def evaluations(folder):
    """(step, nDCG@10) of each evaluation in training, over all resumptions."""
    found, name = [], "val/ndcg@10_32d"
    for log in folder.glob("logs/**/metrics.csv"):
        rows = csv.DictReader(log.read_text().splitlines())
        found += [(int(row["step"]), row[name]) for row in rows if row.get(name)]
    return sorted(found)


def test_resuming_with_another_option_says_which(options, tmp_path):
    main([*options, f"--out={tmp_path / 'run'}"])
    with pytest.raises(UserError, match="model.lr: None -> 0.2"):
        main([*options, f"--resume={tmp_path / 'run'}", "--model.lr=0.2"])
    with pytest.raises(UserError, match="no config.yaml"):
        main(["--resume", str(tmp_path / "elsewhere")])


def test_a_run_may_be_moved_and_resumed_even_before_its_first_checkpoint(options, tmp_path):
    main([*options, f"--out={tmp_path / 'run'}"])
    expected = weights(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["--resume", str(tmp_path / "moved")])["steps"] == 22
    log = (tmp_path / "moved" / "logs" / "metrics.csv").read_text()
    assert log.count("\n") > 2, "the first run's log stays"
    for path in (tmp_path / "moved" / "checkpoints").iterdir():
        path.unlink()
    main(["--resume", str(tmp_path / "moved")])
    assert same(weights(tmp_path / "moved"), expected)
    recipe = tmp_path / "moved" / "config.yaml"
    main(["--config", str(recipe), f"--out={tmp_path / 'again'}"])
    assert same(weights(tmp_path / "again"), expected)


def checkpoint(folder, name="last"):
    return folder / "checkpoints" / f"{name}.ckpt"


def tear(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip(path):
    """One bit of the table, which no length or header betrays."""
    data = bytearray(path.read_bytes())
    table = torch.load(path, weights_only=True)["state_dict"]["model.embedding.weight"]
    data[bytes(data).index(table.numpy().tobytes()) + 1000] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [tear, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(options, tmp_path, damage, capsys):
    main([*options, "--checkpoint_minutes=0", f"--out={tmp_path / 'run'}"])
    expected = weights(tmp_path / "run")
    assert steps(tmp_path / "run", "previous") == steps(tmp_path / "run", "last") == 22
    damage(checkpoint(tmp_path / "run"))
    capsys.readouterr()
    main(["--resume", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert (": going on from previous.ckpt" in said) == (damage is not Path.unlink)
    assert same(weights(tmp_path / "run"), expected)


def steps(folder, name):
    return torch.load(checkpoint(folder, name), weights_only=True)["global_step"]


def test_no_whole_checkpoint_is_one_clear_line(options, tmp_path):
    main([*options, "--checkpoint_minutes=0", f"--out={tmp_path / 'run'}"])
    tear(checkpoint(tmp_path / "run"))
    flip(checkpoint(tmp_path / "run", "previous"))
    with pytest.raises(UserError, match="no whole checkpoint, nor is any before it") as error:
        main(["--resume", str(tmp_path / "run")])
    assert "\n" not in str(error.value)
    assert "is damaged" in str(error.value)


def test_other_data_are_refused_and_named(options, tmp_path):
    main([*options, f"--out={tmp_path / 'run'}"])
    path = tmp_path / "pairs.jsonl"
    path.write_text(path.read_text().replace("circle", "square", 1))
    with pytest.raises(UserError, match="--resume with other data than .*sets: .* -> ") as error:
        main(["--resume", str(tmp_path / "run")])
    assert "\n" not in str(error.value)


def test_other_versions_are_named_and_resumed(options, tmp_path, capsys):
    main([*options, f"--out={tmp_path / 'run'}"])
    expected = weights(tmp_path / "run")
    state = torch.load(checkpoint(tmp_path / "run"), weights_only=True)
    state["run"] |= {"torch": "2.0.0", "machine": "vax"}
    torch.save(state, checkpoint(tmp_path / "run"))
    main(["--resume", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert f"torch: 2.0.0 -> {torch.__version__.partition('+')[0]}" in said
    assert "machine: vax -> " in said
    assert "may differ in rounding" in said
    assert same(weights(tmp_path / "run"), expected)


def stop_amid_training(rank):
    at_step(17, terminate)


def stop_amid_evaluation(rank):
    old = SSEModule.validation_step

    def hook(self, *rest):
        terminate()
        return old(self, *rest)

    SSEModule.validation_step = hook


def stop_amid_data(rank):
    sse.data.prepare.load_tokenizer = lambda *rest, **options: terminate()


def stop_amid_final_evaluation(rank):
    old = sse.training.run.evaluate
    sse.training.run.evaluate = lambda *rest: terminate() or old(*rest)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("before", "extra", "saved"),
    [
        (stop_amid_training, [], 18),
        (stop_amid_training, ["--trainer.accumulate_grad_batches=4"], 4),  # 3 batches are repeated
        (stop_amid_training, ["--trainer.accumulate_grad_batches=50", "--ema=0.9"], 1),
        (stop_amid_evaluation, ["--ema=0.9"], 6),
        (stop_amid_final_evaluation, [], 22),
        (stop_amid_data, [], None),
    ],
    ids=["step", "accumulation", "long-accumulation", "evaluation", "final-evaluation", "data"],
)
def test_sigterm_saves_and_exits_at_once_and_resumes_bitwise(
    options, tmp_path, before, extra, saved
):
    out = tmp_path / "stopped"
    run = Run([*options, *extra, f"--out={out}"], tmp_path / "logs", 1, before)
    [code], [text] = run.wait(), run.text()
    if saved is None:
        assert code == -signal.SIGTERM, "nothing to save: at once"
        assert not (out / "checkpoints").exists()
        return
    assert code == 128 + signal.SIGTERM, text
    assert f"error: stopped by SIGTERM: go on with --resume {out}" in text
    assert steps(out, "last") == saved
    resumed = main([*options, *extra, f"--resume={out}"])
    whole = main([*options, *extra, f"--out={tmp_path / 'whole'}"])
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["pairs"] == whole["pairs"]
    assert same(weights(tmp_path / "whole"), weights(out))


def test_ctrl_c_ends_in_one_line_and_can_be_resumed(options, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(TRAIN), *options, f"--out={out}", "--trainer.max_epochs=2000"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        csv = out / "logs" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not csv.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert (
        errors.strip().split("\n")[-1].startswith("error: stopped by SIGINT: go on with --resume")
    )
    assert not (out / "model").exists()
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.parametrize("way", ["--out", "--resume"])
def test_a_living_run_is_neither_joined_nor_resumed(options, tmp_path, way, capsys):
    from sse.training.run import run

    folder = tmp_path / "run"
    with FileLock(folder / ".run.lock"):
        (folder / "config.yaml").write_text("ema: 0.0\n")
        arguments = [*options, f"--out={folder}"] if way == "--out" else [f"--resume={folder}"]
        assert run(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "another process trains there: wait for it" in line
    assert not (folder / "checkpoints").exists()
