"""Claims about LazyAdam: rows brought up to date late hold what dense AdamW gives them."""

import copy
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import sse
from sse.common.errors import UserError
from sse.training.lazy_adam import LazyAdam
from sse.training.run import main
from tests.helpers.training_runs import make_options

VOCAB, DIM, STEPS = 300, 8, 200


def problem(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(VOCAB, DIM, generator=generator, dtype=dtype).requires_grad_()
    scale = torch.ones(DIM, dtype=dtype).requires_grad_()
    return table, scale


def zipf(step, count=40):
    """Ids of a batch: a few rows always, most of them rarely, some never."""
    generator = np.random.default_rng(step)
    return torch.from_numpy(np.minimum(generator.zipf(1.3, count), VOCAB - 20) - 1)


def loss_of(table, scale, ids, step):
    """A loss whose gradients span nine decades, down to where eps rules."""
    generator = torch.Generator().manual_seed(step)
    target = torch.randn(len(ids), DIM, generator=generator, dtype=table.dtype)
    decades = 10.0 ** -torch.arange(0, 9, 9 / DIM, dtype=table.dtype)
    return ((table[ids] * scale * target) * decades).sum() * 1e-3


def rate(step, peak=0.1, warmup=20):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def run(optimizer, table, scale, steps, each=lambda step: None):
    lazy = isinstance(optimizer, LazyAdam)
    for step in steps:
        optimizer.param_groups[0]["lr"] = rate(step)
        ids = zipf(step)
        if lazy:
            optimizer.touch(ids)
        optimizer.zero_grad()
        loss_of(table, scale, ids, step).backward()
        optimizer.step()
        each(step)
    if lazy:
        optimizer.flush()
    return table.detach().clone()


def dense(table, scale, **options):
    return torch.optim.AdamW([table, scale], **options)


def lazy(table, scale, **options):
    return LazyAdam([table, scale], table, **options)


OPTIONS = {"lr": 0.1, "betas": (0.9, 0.9999), "eps": 1e-10, "weight_decay": 0.0}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"weight_decay": 0.1},
        {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        {"betas": (0.9, 0.95), "eps": 1e-3},
    ],
    ids=str,
)
def test_two_hundred_steps_equal_dense_adamw(changed):
    options = OPTIONS | changed
    a, b = problem(), problem()
    expected = run(dense(*a, **options), *a, range(STEPS))
    found = run(lazy(*b, **options), *b, range(STEPS))
    assert (found - expected).abs().max() < 1e-6
    assert (found - expected).abs().mean() < 1e-8
    assert torch.equal(a[1], b[1]) or (a[1] - b[1]).abs().max() < 1e-6
    start = problem()[0].detach()
    assert (expected - start).abs().max() > 0.5, "the rows moved"


def test_a_flush_changes_nothing_that_follows():
    a, b = problem(), problem()
    one, two = lazy(*a, **OPTIONS), lazy(*b, **OPTIONS)
    whole = run(one, *a, range(STEPS))
    often = run(two, *b, range(STEPS), lambda step: two.flush() if step % 17 == 0 else None)
    assert (whole - often).abs().max() < 1e-7


def test_float32_stays_within_its_own_rounding():
    a, b = problem(torch.float32), problem(torch.float32)
    expected = run(dense(*a, **OPTIONS, fused=True), *a, range(STEPS))
    found = run(lazy(*b, **OPTIONS), *b, range(STEPS))
    exact = run(dense(*(c := problem()), **OPTIONS), *c, range(STEPS))
    untouched = found == problem(torch.float32)[0]
    assert untouched[-20:].all()
    assert (found - expected).abs().max() < 3e-5
    # the closed form rounds once where dense AdamW rounds at every step
    own, theirs = ((x.double() - exact).abs().mean() for x in (found, expected))
    assert own < 1.5 * theirs


PAIRS = {"lazy-lazy": (lazy, lazy), "lazy-dense": (lazy, dense), "dense-lazy": (dense, lazy)}


@pytest.mark.parametrize("makers", PAIRS.values(), ids=PAIRS)
def test_either_goes_on_from_the_others_state(makers):
    whole = problem()
    expected = run(dense(*whole, **OPTIONS), *whole, range(STEPS))
    table, scale = problem()
    first = makers[0](table, scale, **OPTIONS)
    half = STEPS // 2
    run(first, table, scale, range(half))
    state = copy.deepcopy(first.state_dict())
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    second = makers[1](table, scale, **OPTIONS)
    second.load_state_dict(state)
    found = run(second, table, scale, range(half, STEPS))
    assert (found - expected).abs().max() < 1e-6


def test_accumulated_gradients_move_the_rows_of_all_their_batches():
    tables = []
    for make in (dense, lazy):
        table, scale = problem()
        optimizer = make(table, scale, **OPTIONS)
        for step in range(60):
            optimizer.zero_grad()
            for part in range(3):
                ids = zipf(100 * step + part, 10)
                if make is lazy:
                    optimizer.touch(ids)
                loss_of(table, scale, ids, step).backward()
            optimizer.step()
        if make is lazy:
            optimizer.flush()
        tables.append(table.detach())
    assert (tables[0] - tables[1]).abs().max() < 1e-6


def test_what_it_cannot_do_exactly_it_refuses():
    table, scale = problem()
    for options in ({"betas": (0.9, 0.8)}, {"eps": 0.0}):
        with pytest.raises(ValueError, match="a lazy optimiser needs"):
            lazy(table, scale, **(OPTIONS | options))
    with pytest.raises(ValueError, match="bfloat16"):
        lazy(table.detach().bfloat16().requires_grad_(), scale, **OPTIONS)


@pytest.fixture
def options(tmp_path):
    """A run of a few seconds."""
    return [*make_options(tmp_path), "--model.weight_decay=0.01", "--eval.baselines=false"]


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--ema=0.9", "--diagnostics=7"],
        ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.5"],
        ["--trainer.precision=bf16-mixed"],
    ],
    ids=str,
)
def test_a_run_with_it_is_the_run_with_adam(options, tmp_path, extra, capsys):
    found = {}
    for name in ("adam", "lazy_adam"):
        out = tmp_path / name
        facts = main([*options, *extra, f"--model.optimizer={name}", f"--out={out}"])
        saved = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        vectors = sse.load(out / "model").encode(["red circle", "large 7"])
        logged = pd.read_csv(out / "logs" / "metrics.csv")
        found[name] = saved, vectors, logged["val/ndcg@10_32d"].dropna(), facts
    said = capsys.readouterr().out
    assert ("saves nothing here" in said) == ("--ema=0.9" in extra)
    assert ("the negatives of its own 32 alone" in said) == (
        len(extra) == 2 and "accumulate" in extra[0]
    )
    (a, u, logged, _), (b, v, own, _) = found.values()
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name in a["state_dict"]:
        # float32 noise grows where a gradient is near 0, so all but a few elements agree closely
        apart = (a["state_dict"][name] - b["state_dict"][name]).abs()
        assert apart.mean() < 1e-6, name
        assert apart.max() < 1e-2, name
    moments = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert moments[0][0].keys() == moments[1][0].keys()
    assert abs(u - v).max() < 1e-3
    assert abs(logged.to_numpy() - own.to_numpy()).max() < 1e-3


def test_a_stopped_run_goes_on_as_the_undisturbed_one(options, tmp_path):
    lazily = [*options, "--model.optimizer=lazy_adam", "--eval.times=0"]
    main([*lazily, f"--out={tmp_path / 'whole'}"])
    code = (
        "import sys, sse.training.checkpoints as c\n"
        "from sse.training.run import run\n"
        "old = c.LastCheckpoint.on_train_batch_end\n"
        "def stop(self, trainer, *rest):\n"
        "    if trainer.global_step == 15:\n"
        "        self._signal = 15\n"
        "    old(self, trainer, *rest)\n"
        "c.LastCheckpoint.on_train_batch_end = stop\n"
        "run(sys.argv[1:])\n"
    )
    broken = f"--out={tmp_path / 'broken'}"
    subprocess.run([sys.executable, "-c", code, *lazily, broken], capture_output=True, check=False)
    state = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 15
    main(["--resume", str(tmp_path / "broken")])
    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "broken")
    )
    for name in a:
        assert (a[name] - b[name]).abs().mean() < 1e-6, name


@pytest.mark.parametrize(
    "extra",
    [["--trainer.precision=bf16-true"], ["--model.adam_beta2=0.8"], ["--model.optimizer=x"]],
)
def test_a_run_that_would_not_be_exact_is_refused_in_one_line(options, tmp_path, extra):
    with pytest.raises(UserError, match="optimizer") as raised:
        main([*options, "--model.optimizer=lazy_adam", *extra, f"--out={tmp_path / 'run'}"])
    assert "\n" not in str(raised.value)
