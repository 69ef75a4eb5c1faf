"""Several processes (gloo): what they train equals one process; a failure of one ends all."""

import csv
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sse.common.errors import UserError
from sse.loss.matryoshka import matryoshka_loss
from sse.training.module import SSEModule, own_rows
from sse.training.run import main
from tests.helpers.processes import Run, at_step
from tests.helpers.training_runs import make_options, same, weights

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return make_options(tmp_path_factory.mktemp("data"), negatives=True)


def logged(folder, name):
    with open(folder / "logs" / "metrics.csv") as file:
        return torch.tensor([float(row[name]) for row in csv.DictReader(file) if row[name]])


# 375 training pairs: eleven batches of 32 and one of 23, which no number of processes divides.
SHAPE = ["--data.holdout=25", "--trainer.log_every_n_steps=1", "--eval.times=1"]
DOUBLE = ["--trainer.precision=64-true"]


@pytest.mark.parametrize(
    ("world", "extra"),
    [
        (2, DOUBLE),
        (2, ["--model.lr=0.01"]),
        (3, [*DOUBLE, "--model.norm=layernorm"]),  # 32 columns do not divide by 3
        (2, [*DOUBLE, "--data.unique_texts=false", "--model.symmetric=true"]),
        (2, [*DOUBLE, "--ema=0.9", "--trainer.accumulate_grad_batches=2", "--model.norm_lr=0.05"]),
        (2, [*DOUBLE, "--trainer.gradient_clip_val=0.05", "--model.norm=rmsnorm"]),
        (2, [*DOUBLE, "--trainer.gradient_clip_val=0.05"]),
        (2, [*DOUBLE, "--model.norm=dyt_scalar", "--model.label_smoothing=0.1"]),
    ],
    ids=lambda value: (
        "-".join(o.removeprefix("--").split(".")[-1] for o in value)
        if isinstance(value, list)
        else f"{value} processes"
    ),
)
def test_n_processes_equal_one_with_the_whole_batch(options, tmp_path, world, extra):
    arguments = [*options, *SHAPE, *extra]
    size = 48 if world == 3 else 32
    run = Run(
        [*arguments, f"--data.batch_size={size // world}", f"--out={tmp_path / 'many'}"],
        tmp_path / "logs",
        world,
    )
    one = main([*arguments, f"--data.batch_size={size}", f"--out={tmp_path / 'one'}"])
    assert run.wait() == [0] * world, run.text()
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "many")
    for name, tensor in expected.items():
        # Adam divides by 1e-10 at least: a gradient's rounding, 1e-17 here, moves a step by 1e-8
        atol = 1e-8 if tensor.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol)
    names = ["train/loss"]
    if DOUBLE[0] in extra:  # in float32 a rank may differ
        names += ["val/ndcg@10_32d"]
    for name in names:
        values = [logged(tmp_path / run, name) for run in ("many", "one")]
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
        assert len(values[0])
    assert one["steps"] >= 11
    # The table alone would pass if what is exported were another.
    exported = torch.load(tmp_path / "many/checkpoints/best.ckpt", weights_only=True)
    assert exported["state_dict"]["model.embedding.weight"].shape[1] == 32


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_the_processes_parts_of_the_loss_add_up_to_it(world, symmetric, mask):
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(3, 7, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(4, (3, 7), generator=generator) if mask else None
    pair = (ids[0], ids[1:].flatten()) if mask else None
    module = SSEModule(dim=8, symmetric=symmetric, matryoshka_dims=[8, 3])
    whole = matryoshka_loss(
        columns[0], columns[1:].flatten(0, 1), module.dims, None, 20.0, symmetric, pair
    )
    parts = sum(
        module.objective(columns, own_rows(7, rank, world), ids, None) for rank in range(world)
    )
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, columns)[0] for value in (parts, whole))
    )


def test_without_gathering_a_process_sees_its_own_documents_only():
    columns = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = SSEModule(dim=8, gather=False)
    halves = [columns[:, :4], columns[:, 4:]]
    expected = sum(matryoshka_loss(h[0], h[1:].flatten(0, 1), module.dims) for h in halves) / 2
    found = sum(module.objective(columns, own_rows(8, rank, 2), None, None) for rank in range(2))
    torch.testing.assert_close(found, expected)
    gathered = SSEModule(dim=8)
    whole = sum(gathered.objective(columns, own_rows(8, rank, 2), None, None) for rank in range(2))
    assert whole > found, "more negatives, a larger loss"


def _fail():
    raise UserError("the disk of this node is on fire")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_all_with_its_message_once(options, tmp_path, rank):
    run = Run(
        [*options, "--data.batch_size=16", "--trainer.max_epochs=500", f"--out={tmp_path / 'run'}"],
        tmp_path / "logs",
        before=functools.partial(_at, step=5, action=_fail, ranks=(rank,)),
    )
    run.first_end()
    assert all(run.wait(15)), "every exit code is there and not 0"
    text = run.text()
    assert "".join(text).count("on fire") == 1
    assert "error: the disk of this node is on fire" in text[rank]
    assert "another process of the run is gone" in text[1 - rank]
    assert "Traceback" not in "".join(text)


def _at(rank, step, action, ranks):
    at_step(step, action, ranks)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--data.batch_size=1000"], "make no batch of 2000"),
        (["--model.dim=1", "--model.matryoshka_dims=[1]"], "--model.dim is 1, over 2 processes"),
        (["--model.norm=batchnorm"], "'batchnorm'"),
        (["--trainer.num_nodes=2"], "2 processes were started"),
        (["--trainer.precision=16-mixed"], "bf16-mixed"),
        (["--model.lr=1e38", "--model.norm=none", "--data.batch_size=16"], "loss is"),
        (["--data.paths=[missing.jsonl]"], "missing.jsonl"),
    ],
)
def test_what_ails_all_is_said_once(options, tmp_path, extra, words):
    run = Run([*options, f"--out={tmp_path / 'run'}", *extra], tmp_path / "logs")
    codes = run.wait(60)
    assert all(codes), run.text()
    first, second = run.text()
    assert words in first.strip().split("\n")[-1]
    assert "error" not in second
    assert not (tmp_path / "run" / "model").exists()


def test_processes_with_unequal_batches_are_refused(options, tmp_path):
    run = Run(
        [*options, f"--out={tmp_path / 'run'}"],
        tmp_path / "logs",
        each=[["--data.batch_size=16"], ["--data.batch_size=32"]],
    )
    assert run.wait(60) == [2, 2]
    first, second = run.text()
    line = "--data.batch_size is 16 in process 0 and 32 in process 1: give all processes the same"
    assert line in first
    assert "error" not in second
    assert not (tmp_path / "run").exists()


def test_processes_that_nobody_started_are_missed_in_one_line(options, tmp_path):
    with pytest.raises(UserError, match="torchrun --nproc_per_node 2"):
        main([*options, f"--out={tmp_path / 'run'}", "--trainer.devices=2"])
    with pytest.raises(UserError, match="--trainer.strategy fsdp"):
        main([*options, f"--out={tmp_path / 'run'}", "--trainer.strategy=fsdp"])


def test_the_first_process_alone_builds_the_cache_and_speaks(options, tmp_path):
    fresh = [*options, f"--data.cache={tmp_path / 'cache'}", "--data.batch_size=16"]
    run = Run([*fresh, f"--out={tmp_path / 'run'}"], tmp_path / "logs")
    assert run.wait() == [0, 0], run.text()
    first, second = run.text()
    assert "data:" in first
    assert "held-out pairs" in first
    for line in ("tokenizer:", "data:", "trained in", "waiting"):
        assert line not in second
    assert (tmp_path / "run" / "metrics.json").exists()


def _kill(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        (signal.SIGKILL, (1,)),
        (signal.SIGKILL, (0,)),
        (signal.SIGKILL, (0, 1)),
        (signal.SIGTERM, (1,)),
        (signal.SIGINT, (0, 1)),
    ],
    ids=str,
)
def test_a_stopped_run_of_two_resumes_bitwise(options, tmp_path, number, ranks):
    arguments = [*options, "--data.batch_size=16", "--ema=0.9", "--checkpoint_minutes=0"]
    whole = Run([*arguments, f"--out={tmp_path / 'whole'}"], tmp_path / "logs")
    broken = Run(
        [*arguments, f"--out={tmp_path / 'broken'}"],
        tmp_path / "stopped",
        before=functools.partial(
            _at, step=17, action=functools.partial(_kill, number), ranks=ranks
        ),
    )
    broken.first_end()
    codes, text = broken.wait(10), broken.text()
    for rank, code in enumerate(codes):
        if number == signal.SIGKILL:
            assert code == (-number if rank in ranks else 1), text
        else:
            assert code == 128 + number, text
    if number != signal.SIGKILL:
        assert "".join(text).count("go on with --resume") == 1
    assert whole.wait() == [0, 0], whole.text()
    resumed = Run([*arguments, f"--resume={tmp_path / 'broken'}"], tmp_path / "resumed")
    assert resumed.wait() == [0, 0], resumed.text()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_two_stopped_at_an_epochs_end_and_again_right_after_resume_bitwise(options, tmp_path):
    arguments = [*options, "--data.batch_size=16"]
    whole = Run([*arguments, f"--out={tmp_path / 'whole'}"], tmp_path / "logs")
    assert whole.wait() == [0, 0], whole.text()
    place = f"--out={tmp_path / 'broken'}"
    for step in (11, 12):  # after 11 of 22
        stop = functools.partial(_kill, signal.SIGTERM)
        before = functools.partial(_at, step=step - 1, action=stop, ranks=(0,))
        broken = Run([*arguments, place], tmp_path / f"stopped-{step}", before=before)
        assert broken.wait() == [128 + signal.SIGTERM] * 2, broken.text()
        checkpoint = torch.load(tmp_path / "broken/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == step
        place = f"--resume={tmp_path / 'broken'}"
    resumed = Run([*arguments, place], tmp_path / "resumed")
    assert resumed.wait() == [0, 0], resumed.text()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_another_number_of_processes_does_not_resume(options, tmp_path):
    arguments = [*options, "--data.batch_size=16"]
    main([*arguments, f"--out={tmp_path / 'run'}"])
    again = [o for o in arguments if "devices" not in o]
    run = Run([*again, f"--resume={tmp_path / 'run'}"], tmp_path / "logs")
    assert run.wait() == [2, 2]
    assert "trainer.devices: 1 -> 2" in run.text()[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "terminated"])
def test_torchrun_starts_the_same_script(options, tmp_path, how):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(TRAIN), *options, "--data.batch_size=16", f"--out={out}"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    if how == "whole":
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (out / "metrics.json").exists()
        return
    command += ["--trainer.max_epochs=5000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "logs/metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("stopped by SIGTERM") == 1
    state = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] > 0
