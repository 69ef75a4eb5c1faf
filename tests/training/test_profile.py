"""Claims about --profile: every moment of training is in one stage, and the stages are true."""

import json
import time

import pytest
import torch

from sse.training.profile import STAGES, Stages, Traffic, ceiling
from sse.training.run import main
from tests.helpers.samples import sentences


@pytest.fixture
def options(tmp_path):
    """A run of a few seconds."""
    path = tmp_path / "pairs.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for text in sentences(400, seed=5):
            row = {"anchor": " ".join(text.split()[:3]) + text[-3:], "positive": text}
            file.write(json.dumps(row) + "\n")
    return [
        f"--data.paths={path}",
        f"--data.cache={tmp_path / 'cache'}",
        f"--out={tmp_path / 'run'}",
        "--data.vocab_size=600",
        "--data.batch_size=32",
        "--model.dim=32",
        "--eval.baselines=false",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]


def test_a_run_says_where_its_time_went(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sse.training.profile.BUFFER", 2**20)
    start = time.perf_counter()
    run = main([*options, "--profile"])
    took = time.perf_counter() - start
    facts = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert tuple(facts["seconds"]) == STAGES == tuple(facts["share"])
    assert sum(facts["share"].values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in facts["seconds"].values()), facts["seconds"]
    assert sum(facts["seconds"].values()) < min(took, run["times"]["train"])
    assert sum(facts["seconds"].values()) == pytest.approx(
        sum(action["seconds"] for action in facts["actions"].values()), abs=0.01
    )
    assert facts["steps"] == run["steps"] == 22
    for stage in ("forward", "backward", "optimiser"):
        expected = facts["bytes_a_step"][stage] * 22 / facts["seconds"][stage]
        assert facts["bytes_per_second"][stage] == pytest.approx(expected, rel=0.01)
    assert min(facts["ceiling_bytes_per_second"].values()) > 1e8
    assert (tmp_path / "run" / "profile.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for name in (*STAGES, "of ceiling", "triad"):
        assert name in printed, name


def test_without_it_nothing_is_measured(options, tmp_path):
    main(options)
    assert not list((tmp_path / "run").glob("profile*"))
    assert "profile: false" in (tmp_path / "run" / "config.yaml").read_text()


def test_time_goes_to_the_innermost_stage_and_only_within_an_epoch():
    stages = Stages()
    with stages.profile("[Callback]X.setup"):
        time.sleep(0.02)
    with stages.profile("run_training_epoch"):
        with stages.profile("[_TrainingEpochLoop].train_dataloader_next"):
            time.sleep(0.02)
        with stages.profile("[LightningModule]M.optimizer_step"):
            with stages.profile("[Strategy]S.training_step"):
                time.sleep(0.03)
                with stages.profile("loss"):
                    time.sleep(0.04)
            with stages.profile("[Strategy]S.backward"):
                time.sleep(0.05)
            time.sleep(0.06)
        with stages.profile("[LightningModule]M.on_validation_start"):
            pass
        time.sleep(0.07)  # Lightning's own loop over the held-out batches
        with stages.profile("[Callback]C.on_validation_end"), stages.profile("save_checkpoint"):
            time.sleep(0.08)
        with stages.profile("[LightningModule]M.on_validation_end"):
            pass
        time.sleep(0.09)
    wanted = {
        "data": 0.02, "forward": 0.03, "loss": 0.04, "backward": 0.05, "optimiser": 0.06,
        "evaluation": 0.07, "callbacks": 0.08, "other": 0.09,
    }  # fmt: skip
    for stage, seconds in wanted.items():
        assert seconds <= stages.seconds[stage], stage
    # a busy machine sleeps longer, but what it books is what passed
    assert sum(stages.seconds.values()) >= sum(wanted.values())
    assert stages.actions["[Callback]X.setup"] == 0


def test_an_action_ended_by_an_error_leaves_the_books_in_order():
    stages = Stages()
    stages.start("run_training_epoch")
    stages.start("[Strategy]S.training_step")
    stages.start("loss")
    stages.stop("[Strategy]S.training_step")
    stages.stop("run_training_epoch")
    booked = sum(stages.seconds.values())
    time.sleep(0.01)
    stages.start("elsewhere")
    assert sum(stages.seconds.values()) == booked


def test_the_bytes_of_a_step_have_known_values(make_model):
    class Module:
        model = make_model(dim=32)
        hparams = type("Options", (), {"optimizer": "adam"})

    rows = Module.model.embedding.weight.shape[0]
    traffic = Traffic.of(Module, tokens=100, texts=10, hit=rows)
    assert traffic.forward == 120 * 32 * 4
    assert traffic.backward == (100 + rows) * 32 * 4
    assert traffic.optimiser == 7 * rows * 32 * 4
    assert Traffic.of(Module, 100, 10, 5).backward == 105 * 32 * 4
    Module.hparams.optimizer = "lazy_adam"
    assert Traffic.of(Module, 100, 10, 5).optimiser == 13 * 5 * 32 * 4


def test_the_ceiling_is_a_rate_of_real_copies():
    rates = ceiling(torch.device("cpu"), size=2**20, repeats=3)
    assert set(rates) == {"copy", "triad"}
    assert all(1e8 < rate < 1e13 for rate in rates.values())
