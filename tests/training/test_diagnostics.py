"""Diagnostics: the values are the definitions', and a run is the same with them and without."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import sse
from sse.common.errors import UserError
from sse.loss.matryoshka import matryoshka_loss
from sse.model.norms import NORMS, Gate
from sse.text.token_batch import SHORT_TOKENS
from sse.training.diagnostics.callback import read_rows, write_rows
from sse.training.diagnostics.diagnose import Start, diagnose, diagnose_texts
from sse.training.diagnostics.saturation import dy_dx, effective_rank, gate_slope, imbalance
from sse.training.run import main
from tests.helpers.samples import sentences

TEXTS = ["", "red", "red green", *sentences(20, words=3), *sentences(20, words=14, seed=1), ""]
POSITIVES = ["blue", "", *sentences(5, words=2), *sentences(len(TEXTS) - 7, words=9, seed=2)]


def values(rows, side="anchor", length="all"):
    found = {row.quantity: row.value for row in rows if (row.side, row.length) == (side, length)}
    assert len(found) == sum((row.side, row.length) == (side, length) for row in rows)
    return found


def bag(model, texts):
    features = model.preprocess(texts)
    return features["input_ids"], features["offsets"]


def wide(make_model, norm="dyt", scale=6.0):
    """A model whose short texts leave the linear part of its gate."""
    model = make_model(norm)
    with torch.no_grad():
        model.embedding.weight *= scale
    return model


@pytest.mark.parametrize("norm", NORMS)
def test_values_are_the_definitions(make_model, norm):
    model = wide(make_model, norm)
    rows = diagnose_texts(model, TEXTS, POSITIVES)
    ids, offsets = bag(model, TEXTS + POSITIVES)
    x = torch.stack(
        [
            model.embedding.weight[ids[a:b]].mean(0) if b > a else torch.zeros(model.dim)
            for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]
    ).detach()
    x.requires_grad_()
    y = model.norm(x)
    y.retain_grad()
    loss = matryoshka_loss(y[: len(TEXTS)], y[len(TEXTS) :], [32])
    loss.backward()
    assert values(rows, "model")["loss"] == pytest.approx(loss.item(), rel=1e-5)
    long = offsets.diff() > SHORT_TOKENS
    anchor = torch.arange(len(x)) < len(TEXTS)
    for side, own in (("anchor", anchor), ("positive", ~anchor)):
        for length, picked in (("all", own), ("short", own & ~long), ("long", own & long)):
            found = values(rows, side, length)
            assert found["texts"] == picked.sum() > 3
            assert found["texts_empty"] == (offsets.diff()[picked] == 0).sum()
            z = x[picked]
            if isinstance(model.norm, Gate):
                z = model.norm.alpha * z
                z = z if norm == "dyt_outside" else z + model.norm.bias
            z = z.detach().double()
            full = picked & (offsets.diff() > 0)  # an empty text's gradient reaches no row
            after, before = y.grad[full].norm(), x.grad[full].norm()
            expected = {
                "tokens_mean": offsets.diff()[picked].double().mean(),
                "z_mean": z.mean(),
                "z_std": z.std(correction=0),
                "z_p95": z.quantile(0.95),
                "z_abs_max": z.abs().max(),
                "share_abs_z_above_1": (z.abs() > 1).double().mean(),
                "share_abs_z_above_3": (z.abs() > 3).double().mean(),
                "y_norm_mean": y[picked].norm(dim=1).mean(),
                "y_variance_mean": y[picked].double().var(0, correction=0).mean(),
                "gradient_y_norm": after,
                "gradient_x_norm": before,
                "gradient_passed": before / after,
            }
            slopes = {
                **dict.fromkeys(["dyt", "dyt_scalar", "dyt_outside", "dyt_frozen"], z.cosh() ** -2),
                "hardtanh": (z.abs() < 1).double(),
            }
            if norm in slopes:
                expected["gate_slope_mean"] = slopes[norm].mean()
                expected["gate_slope_lowest_dim"] = slopes[norm].mean(0).min()
            assert ("gate_slope_mean" in found) == (norm in slopes)
            for name, value in expected.items():
                assert found[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("norm", NORMS)
def test_dy_dx_is_the_jacobians_diagonal(make_model, norm):
    model = make_model(norm)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    x[3] *= 5
    expected = [torch.autograd.functional.jacobian(model.norm, row[None]).squeeze() for row in x]
    diagonal = torch.stack([jacobian.diagonal() for jacobian in expected])
    torch.testing.assert_close(dy_dx(model.norm, x), diagonal, rtol=1e-4, atol=1e-5)
    x[1] = 0
    assert dy_dx(model.norm, x).isfinite().all()


def test_every_gate_is_open_at_zero_and_shut_far_out(make_model):
    for norm in NORMS:
        slope = gate_slope(make_model(norm).norm, torch.tensor([[0.0, 30.0, -30.0]]))
        assert slope is None or slope.tolist() == [[1, 0, 0]], norm


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (7, 7)])
def test_the_effective_rank_is_that_of_an_svd(shape):
    vectors = np.random.default_rng(0).normal(size=shape) + 3
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    p = singular / singular.sum()
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert effective_rank(vectors - vectors.mean(0)) == pytest.approx(np.exp(entropy), rel=1e-5)


def test_ranks_and_imbalance_have_known_values():
    simplex = np.eye(6) - 1 / 6  # five equal singular values
    assert effective_rank(simplex) == pytest.approx(5, rel=1e-6)
    assert effective_rank(np.zeros((4, 3))) == 0
    line = np.outer(np.arange(5), [1.0, 2, 3])
    assert effective_rank(line) == pytest.approx(1, rel=1e-5)
    even = imbalance(np.full(20, 0.3))
    assert even == pytest.approx(
        {"max_over_median": 1, "top_tenth_share": 0.1, "participation": 20}
    )
    assert imbalance(np.array([0.0, 0, 2])) == {"top_tenth_share": 1, "participation": 1}
    assert imbalance(np.zeros(3)) == {}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "texts",
    [[""], ["", ""], ["red"], ["red", "red"], ["red green"], sentences(3, words=30)],
    ids=["empty", "empties", "one-word", "equal", "one-short", "long-only"],
)
def test_few_and_empty_texts_give_finite_values_only(make_model, norm, texts):
    for positives in (None, texts[::-1]):
        rows = diagnose_texts(make_model(norm), texts, positives)
        assert all(math.isfinite(row.value) for row in rows)
        assert all(np.isfinite(row.per_dim).all() for row in rows if row.per_dim is not None)
        side = "text" if positives is None else "anchor"
        short, long = (values(rows, side, length)["texts"] for length in ("short", "long"))
        assert short + long == values(rows, side)["texts"] == len(texts)


@pytest.mark.parametrize("norm", NORMS)
def test_weights_in_16_bits_are_measured_in_float32(make_model, norm):
    model = make_model(norm).bfloat16()
    found = values(diagnose_texts(model, TEXTS, POSITIVES))
    expected = values(diagnose_texts(model.float(), TEXTS, POSITIVES))
    assert found.keys() == expected.keys()
    for name in ("z_std", "y_norm_mean", "gradient_passed", "y_effective_rank"):
        assert found[name] == pytest.approx(expected[name], rel=0.01), name


def test_a_diverged_model_says_so(make_model):
    model = make_model()
    with torch.no_grad():
        model.embedding.weight.fill_(math.inf)
    with pytest.raises(UserError, match=r"step 0: text's z_.* is (nan|inf).*diverged"):
        diagnose_texts(model, ["red", "green"])
    with pytest.raises(UserError, match="2 texts with 1 positives"):
        diagnose_texts(model, ["red", "green"], ["blue"])


@pytest.mark.parametrize("norm", NORMS)
def test_changes_are_from_the_start_and_growth_is_by_token(make_model, norm):
    model = make_model(norm)
    start = Start.of(model)
    ids, offsets = bag(model, ["red red red red green green blue"])
    with torch.no_grad():
        for parameter in model.norm.parameters():
            parameter += 0.25
            parameter.view(-1)[0] -= 1
        model.embedding.weight *= 2
        model.embedding.weight[ids[0]] *= 3
    rows = diagnose(model, ids, offsets, {"anchor": 1}, start=start, step=7)
    assert {row.step for row in rows} == {7}
    found = values(rows, "model")
    for name, parameter in model.norm.named_parameters():
        flat = parameter.detach().view(-1)
        drift = 0.25 - 1 / len(flat)
        assert found[f"{name}_change_mean"] == pytest.approx(drift, abs=1e-5)
        assert found[f"{name}_change_max_abs"] == pytest.approx(0.75, abs=1e-5)
        assert found[f"{name}_mean"] == pytest.approx(flat.mean().item(), abs=1e-5)
    assert found["token_norm_growth_p50"] == pytest.approx(2)
    assert found["token_norm_growth_frequent"] == pytest.approx(6)
    assert found["token_norm_growth_rare"] == pytest.approx(2)
    norms = model.embedding.weight.detach().norm(dim=1)
    assert found["token_norm_p50"] == pytest.approx(np.percentile(norms, 50), rel=1e-5)


def test_diagnosing_touches_no_gradient_and_no_random_state(make_model):
    from sse_kernels.table_grad import TableGrad

    model = make_model()
    model.table_grad = TableGrad()
    model.pool(*bag(model, TEXTS)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    diagnose_texts(model, TEXTS, POSITIVES)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A run of two epochs of 13 steps."""
    folder = tmp_path_factory.mktemp("pairs")
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for text in sentences(420, words=9, seed=5):
            words = text.split()
            file.write(json.dumps({"anchor": " ".join(words[:4]), "positive": text}) + "\n")
    return [
        f"--data.paths={folder / 'pairs.jsonl'}",
        f"--data.cache={folder / 'cache'}",
        "--data.vocab_size=600",
        "--data.batch_size=32",
        "--data.holdout=0",
        "--model.dim=32",
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def equal(a, b):
    assert [row[:5] for row in a] == [row[:5] for row in b]
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.per_dim, other.per_dim)


@pytest.mark.parametrize("norm", ["dyt", "layernorm", "dyt_frozen"])
@pytest.mark.parametrize("extra", [[], ["--ema=0.9", "--trainer.accumulate_grad_batches=2"]])
def test_a_run_has_the_same_weights_with_and_without(options, tmp_path, norm, extra):
    options = [*options, f"--model.norm={norm}", *extra]
    for name, every in (("with", 3), ("without", 0)):
        main([*options, f"--out={tmp_path / name}", f"--diagnostics={every}"])
    with_, without = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(with_[name], without[name]) for name in without)
    assert not (tmp_path / "without" / "diagnostics.parquet").exists()
    rows = read_rows(tmp_path / "with" / "diagnostics.parquet")
    last = 14 if extra else 26
    every = last // 10  # ten times at least, so more often than each third step
    assert sorted({row.step for row in rows}) == sorted({*range(0, last + 1, every), last})
    assert len({row[:4] for row in rows}) == len(rows), "no row twice"
    assert "diagnostics/anchor/z_std" in (tmp_path / "with/logs/metrics.csv").read_text()


def test_the_first_and_the_last_rows_are_of_the_untrained_and_the_trained_model(options, tmp_path):
    dyt = ["--model.norm=dyt", "--model.alpha_init=0.75"]
    main([*options, f"--out={tmp_path / 'run'}", *dyt])
    rows = read_rows(tmp_path / "run" / "diagnostics.parquet")
    first, last = ([row for row in rows if row.step == step] for step in (0, 26))
    assert len(first) == len(last) > 0 and {row.step for row in rows} == {*range(0, 27, 2)}
    start, end = values(first, "model"), values(last, "model")
    assert start["alpha_mean"] == 0.75 and start["token_norm_growth_p95"] == 1
    assert start["alpha_change_max_abs"] == start["beta_change_max_abs"] == 0
    assert end["loss"] < start["loss"] and end["alpha_change_max_abs"] > 0
    trained = sse.load(tmp_path / "run" / "model").sse
    [alpha] = [row.per_dim for row in last if row.quantity == "alpha_mean"]
    np.testing.assert_array_equal(alpha, trained.norm.alpha.detach().numpy())
    for row in rows:
        if row.per_dim is not None:
            assert row.per_dim.mean() == pytest.approx(row.value, rel=1e-4, abs=1e-6)


def test_a_killed_runs_table_is_the_undisturbed_runs(options, tmp_path):
    """SIGKILL after rows that no checkpoint knows, then --resume: none twice, none lost."""
    options = [*options, "--diagnostics=5"]
    main([*options, f"--out={tmp_path / 'whole'}"])
    code = (
        "import os, signal, sys, sse.training.checkpoints\n"
        "old = sse.training.checkpoints.LastCheckpoint.on_train_batch_end\n"
        "def die(self, trainer, *rest):\n"
        "    old(self, trainer, *rest)\n"
        "    if trainer.global_step == 15:\n"
        "        self.save(trainer)\n"
        "    if trainer.global_step == 17:\n"
        "        trainer.callbacks[0]._measure(trainer, trainer.lightning_module)\n"
        "        trainer.callbacks[0]._write()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sse.training.checkpoints.LastCheckpoint.on_train_batch_end = die\n"
        "from sse.training.run import main\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "broken"
    command = [sys.executable, "-c", code, *options, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max(row.step for row in read_rows(out / "diagnostics.parquet")) == 17
    main([*options, f"--resume={out}"])
    expected = read_rows(tmp_path / "whole" / "diagnostics.parquet")
    equal(read_rows(out / "diagnostics.parquet"), expected)
    main([*options, f"--resume={out}"])  # nothing left to do
    equal(read_rows(out / "diagnostics.parquet"), expected)


def test_a_run_stopped_by_a_diverging_loss_keeps_its_rows(options, tmp_path):
    with pytest.raises(UserError, match="--model.lr"):
        main([*options, f"--out={tmp_path / 'run'}", "--model.lr=1e38", "--model.norm=none"])
    rows = read_rows(tmp_path / "run" / "diagnostics.parquet")
    assert {row.step for row in rows} == {0}
    main([*options, f"--out={tmp_path / 'run'}", "--model.norm=none"])
    again = read_rows(tmp_path / "run" / "diagnostics.parquet")
    equal(again[: len(rows)], rows)


def test_rows_come_back_as_written_and_a_foreign_file_is_one_line(make_model, tmp_path):
    rows = diagnose_texts(make_model(), TEXTS, POSITIVES)
    write_rows(tmp_path / "rows.parquet", rows)
    equal(read_rows(tmp_path / "rows.parquet"), rows)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="torn.parquet is no table of diagnostics"):
        read_rows(tmp_path / "torn.parquet")


def test_a_negative_interval_is_refused(options, tmp_path):
    with pytest.raises(UserError, match="--diagnostics is -1"):
        main([*options, f"--out={tmp_path / 'run'}", "--diagnostics=-1"])
