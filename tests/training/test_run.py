"""`python experiments/train.py` keeps its contracts: files, options, one-line errors."""

import csv
import json
import logging
import math

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import sse
from sse.common.errors import UserError
from sse.data.split import hold_out, train_rows
from sse.model.folder import read_folder
from sse.model.norms import NORMS
from sse.training.module import SSEModule
from sse.training.run import main
from tests.helpers.samples import sentences
from tests.helpers.training_runs import make_options, same, weights


@pytest.fixture
def options(tmp_path):
    return make_options(tmp_path)


def test_a_run_writes_what_it_promises_and_learns(options, tmp_path):
    out = tmp_path / "run"
    facts = main([*options, f"--out={out}"])
    on_disk = json.loads((out / "metrics.json").read_text())
    assert on_disk == facts
    scores = {name: on_disk["metrics"][name]["held-out pairs"] for name in ("trained", "untrained")}
    assert scores["trained"]["32"]["ndcg@10"] > scores["untrained"]["32"]["ndcg@10"]
    assert {"ndcg@10", "mrr@10", "map@100", "recall@10", "accuracy@1"} <= set(
        scores["trained"]["32"]
    )
    assert {"BM25", "hybrid"} <= set(on_disk["metrics"])
    assert read_folder(out / "model").frequencies.texts == 2 * sum(on_disk["data"].values())
    assert on_disk["pairs_per_second"] > 0
    for name in (
        "config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "model/README.md",
    ):
        assert (out / name).is_file(), name
    assert list((out / "tensorboard").glob("events*"))
    assert "train/loss" in (out / "logs" / "metrics.csv").read_text().split("\n")[0]
    assert list((out / "report").glob("*.png"))
    vectors = sse.load(out / "model").encode(["red circle"])
    np.testing.assert_array_equal(
        vectors, SentenceTransformer(str(out / "model")).encode(["red circle"])
    )
    assert not list(out.rglob("*.tmp"))


def test_documents_without_pairs_are_trained_on_and_whole_ones_are_held_out(
    options, tmp_path, capsys
):
    texts = sentences(240, seed=1)
    for n in range(30):
        words = "".join(chr(97 + int(digit)) for digit in f"{n:03}")
        own = [f"{text.capitalize()} {words}." for text in texts[8 * n : 8 * n + 8]]
        parts = "\n".join(f"## Part {i} of {words}\n{' '.join(own[i:])}" for i in (0, 2, 4))
        (tmp_path / f"{words}.md").write_text(f"# The text {words}\n{parts}")
    options = [o for o in options if not o.startswith("--data.paths")]
    facts = main([*options, f"--data.documents={tmp_path}", f"--out={tmp_path / 'run'}"])
    said = capsys.readouterr().out
    assert "30 documents; 1 left out (.jsonl 1 a table of rows)" in said
    assert "nobody asked" in said
    assert facts["data"][tmp_path.name] > 0
    assert "held-out pairs" in facts["metrics"]["BM25"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(options, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        main([*options, f"--out={tmp_path / name}", f"--seed_everything={seed}"])
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_failed_run_does_not_block_its_folder(options, tmp_path):
    out = f"--out={tmp_path / 'run'}"
    with pytest.raises(UserError, match="loss is"):
        main([*options, out, "--model.lr=1e38", "--model.norm=none", "--eval.times=0"])
    assert main([*options, out])["steps"] == 22


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "dyt"])
def test_every_norm_trains_and_exports(options, tmp_path, norm):
    facts = main([*options, f"--out={tmp_path / norm}", f"--model.norm={norm}"])
    scores = {
        name: facts["metrics"][name]["held-out pairs"]["32"]["ndcg@10"]
        for name in facts["metrics"]
        if name != "BM25"
    }
    assert scores["trained"] > scores["untrained"]
    assert sse.load(tmp_path / norm / "model")[0].norm_name == norm


def test_the_frozen_norm_stays_where_it_started(options, tmp_path):
    more = ["--model.norm=dyt_frozen", "--model.alpha_init=2", "--model.weight_decay=0.1"]
    main([*options, *more, f"--out={tmp_path / 'run'}"])
    state = weights(tmp_path / "run")
    for name, value in (("alpha", 2.0), ("beta", 1.0), ("bias", 0.0)):
        assert (state[f"model.norm.{name}"] == value).all()
    main(["--resume", str(tmp_path / "run")])  # the optimiser's one group fits
    assert same(state, weights(tmp_path / "run"))


def test_repeated_texts_are_masked_where_the_sampler_allows_them(options, tmp_path):
    facts = main([*options, f"--out={tmp_path / 'run'}", "--data.unique_texts=false"])
    assert math.isfinite(facts["metrics"]["trained"]["held-out pairs"]["32"]["ndcg@10"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.norm=batchnorm"], "'batchnorm'"),
        (["--model.dim=many"], "model.dim"),
        (["--model.dimm=64"], "dimm"),
        (["--model.matryoshka_dims=[64]"], "no prefix of 32"),
        (["--model.label_smoothing=1"], "label_smoothing"),
        (["--data.paths=[missing.jsonl]"], "missing.jsonl"),
        (["--data.batch_size=4096"], "--data.batch_size"),
        (["--data.batch_size=1"], "at least 2"),
        (["--data.cap=0"], "data.cap"),
        (["--data.batches=random"], "round_robin"),
        (["--model.dim=-5"], "--model.dim"),
        (["--ema=2"], "--ema"),
        (["--profile"], "use --trainer.profiler simple"),
        (["--trainer.accelerator=mps"], "--trainer"),
        (["--out=/proc/nowhere/run"], "/proc/nowhere"),
        (["--data.tokenizer=nowhere.json"], "nowhere.json"),
        (["--model.schedule=step"], "'step'"),
        (["--model.optimizer=lazy_adam"], "lazy_adam has left: give adam"),
        (["--eval.beir=[nowhere]"], "nowhere"),
        (["--model.matryoshka_dims=[32,8]", "--model.matryoshka_weights=[1]"], "weights"),
        (["--model.matryoshka_scales=[12,20]", "--model.dim=16"], "2 numbers for 1 dims"),
        (["--model.matryoshka_scales=[0]", "--model.dim=16"], "more than 0"),
    ],
)
def test_bad_options_are_one_clear_line_and_leave_no_run(
    options, tmp_path, arguments, words, capsys
):
    from sse.training.run import run

    out = tmp_path / "run"
    assert run([*options, f"--out={out}", *arguments]) in (1, 2)
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("error: ")
    assert words in line
    assert not (out / "model").exists()
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize(
    "extra",
    [
        ["--trainer.precision=bf16-mixed"],
        ["--trainer.gradient_clip_val=1.0"],
        ["--trainer.max_steps=5"],
        ["--model.symmetric=true", "--model.matryoshka_dims=[16, 32]"],
        ["--data.batches=round_robin", "--data.max_tokens=4"],
        ["--data.holdout=0"],
    ],
)
def test_the_trainers_usual_options_work(options, tmp_path, extra):
    facts = main([*options, f"--out={tmp_path / 'run'}", *extra])
    wanted = {"--trainer.max_steps=5": 5, "--data.holdout=0": 26}
    assert facts["steps"] == wanted.get(extra[0], 22), "11 batches an epoch, 13 with the held-out"
    assert sse.load(tmp_path / "run" / "model").encode(["red"]).shape == (1, 32)
    kept = {path.name for path in (tmp_path / "run").rglob("*.ckpt")}
    assert kept == {"last.ckpt", "best.ckpt"} - ({"best.ckpt"} if "holdout" in extra[0] else set())
    if "holdout" not in extra[0]:
        scores = {name: by["held-out pairs"] for name, by in facts["metrics"].items()}
        dim = next(iter(scores["trained"]))
        assert scores["trained"][dim]["mrr@10"] > scores["untrained"][dim]["mrr@10"]


def test_the_profiler_says_where_the_time_goes(options, tmp_path, caplog):
    logger = logging.getLogger("lightning.pytorch")  # it does not hand on to the root's
    logger.addHandler(caplog.handler)
    try:
        main([*options, f"--out={tmp_path / 'run'}", "--trainer.profiler=simple"])
    finally:
        logger.removeHandler(caplog.handler)
    assert "run_training_batch" in caplog.text


@pytest.mark.parametrize("every", [0, 1, 5])
def test_the_loss_is_logged_every_so_many_steps(options, tmp_path, every):
    out = tmp_path / "run"
    main([*options, f"--out={out}", f"--trainer.log_every_n_steps={every}", "--eval.times=0"])
    path = out / "logs" / "metrics.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    losses = [row for row in rows if row.get("train/loss")]
    steps = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert len(losses) == (steps // every if every else 0)
    assert all(row["train/pairs_per_second"] for row in losses)


def test_a_batch_that_does_not_fit_ends_in_one_line(options, tmp_path, monkeypatch):
    def huge(self, batch):
        torch.empty(10**15)

    monkeypatch.setattr(SSEModule, "pool", huge)
    with pytest.raises(UserError, match=r"out of memory: lower --data.batch_size \(32\)"):
        main([*options, f"--out={tmp_path / 'run'}", "--eval.times=0"])


def test_an_existing_run_is_never_overwritten(options, tmp_path):
    main([*options, f"--out={tmp_path / 'run'}"])
    with pytest.raises(UserError, match="already holds a run"):
        main([*options, f"--out={tmp_path / 'run'}"])


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(options, tmp_path):
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+.*--model.lr"):
        main([*options, f"--out={tmp_path / 'run'}", "--model.lr=1e38", "--model.norm=none"])
    assert not (tmp_path / "run" / "model").exists()


def test_held_out_pairs_depend_on_their_text_alone_and_never_train():
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2**63, (500, 2)).astype(np.uint64)
    ids[17] = ids[3]  # the same pair twice
    order = generator.permutation(500)
    [rows], [shuffled] = hold_out([ids], 40), hold_out([ids[order]], 40)
    assert set(map(tuple, ids[rows])) == set(map(tuple, ids[order][shuffled]))
    kept = train_rows(ids, rows)
    assert not set(ids[kept].ravel().tolist()) & set(ids[rows].ravel().tolist())
    assert len(kept) + len(rows) == 500
    assert [len(r) for r in hold_out([ids[:50]], 1000)] == [5], "a tenth at most"


def test_a_text_without_tokens_teaches_nothing(options, tmp_path, capsys):
    """A zero vector's direction has a gradient of 1e12, which Adam would remember for the run."""
    pairs = tmp_path / "pairs.jsonl"
    lines = pairs.read_text().splitlines()
    empty = json.dumps({"anchor": "\u200b", "positive": "red circle"})
    pairs.write_text("\n".join([*lines, *[empty] * 20]))
    out = tmp_path / "run"
    main([*options, "--trainer.max_steps=3", "--eval.baselines=false", f"--out={out}"])
    state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    moments = state["optimizer_states"][0]["state"].values()
    assert max(moment["exp_avg_sq"].max().item() for moment in moments) < 1
    assert "20 texts have no token" in capsys.readouterr().out
