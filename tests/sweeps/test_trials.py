"""`python experiments/sweep.py` runs every trial once, through kills and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock

from sse.cli.sweep import run
from sse.common.errors import UserError
from sse.sweeps import trials
from sse.sweeps.grid import check_trials, read_options, read_sweep
from sse.sweeps.results import collect, expected, read_facts, read_results
from tests.helpers.samples import sentences

SWEEP = Path(__file__).parents[2] / "experiments" / "sweep.py"
CONFIGS = SWEEP.parent / "configs" / "sweeps"


@pytest.fixture
def write(tmp_path):
    """Write a sweep's file over 300 tiny pairs."""
    pairs = tmp_path / "pairs.jsonl"
    rows = ({"anchor": text[:20], "positive": text[::-1]} for text in sentences(300, seed=5))
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "data.paths": str(pairs),
        "data.cache": str(tmp_path / "cache"),
        "data.vocab_size": 500,
        "data.batch_size": 32,
        "model.dim": 16,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
    }

    def make(grid, **more):
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"options": options | more, "grid": grid}))
        return str(path)

    return make


def run_once(config, out, *more):
    return run([f"--config={config}", f"--out={out}", "--jobs=2", "--threads=1", *more])


def test_a_sweep_runs_its_grid_into_one_tidy_table(write, tmp_path, capfd):
    config = write({"model.norm": ["dyt", "none"], "seed_everything": [0, 1]})
    out = tmp_path / "out"
    assert run_once(config, out) == 0, capfd.readouterr()
    assert "4 trials: 4 to run" in capfd.readouterr().out
    table = read_results(out)
    assert len(table) == 4, "one collection at one dimension"
    assert set(zip(table["model.norm"], table["seed_everything"], strict=True)) == {
        ("dyt", 0), ("dyt", 1), ("none", 0), ("none", 1)
    }  # fmt: skip
    assert list(table["trial"]) == sorted(expected(out))
    for _, row in table.iterrows():
        assert row["query_ndcg@10"].mean() == pytest.approx(row["ndcg@10"], abs=1e-6)
    assert table["queries"].nunique() == 1, "every trial answers the same queries"
    orders = table.groupby("seed_everything")["order"].unique()
    assert [len(found) for found in orders] == [1, 1], "equal data order for each seed"
    assert orders[0][0] != orders[1][0]
    [record] = out.glob("trials/norm=dyt,seed=0,*/trial.json")
    assert "metrics" not in json.loads(record.read_text()), "scores stand in metrics.json alone"
    for name in ("seconds_total", "pairs", "steps", "version.torch", "commit", "data.batch_size"):
        assert table[name].notna().all(), name
    assert not list(out.glob("trials/*/checkpoints")), "nothing large is kept unasked"

    done = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/trial.json")}
    assert run_once(config, out) == 0
    assert "4 trials: 0 to run, 4 done" in capfd.readouterr().out
    assert done == {path: path.stat().st_mtime_ns for path in out.glob("trials/*/trial.json")}
    fewer = ["--grid.seed_everything", "[1]", "--grid.model.norm", "[none]"]
    assert run_once(config, out, *fewer, "--model.lr=0.05") == 0
    assert len(expected(out)) == len(read_results(out)) == 5, "a folder may take several sweeps"


def test_a_killed_sweep_takes_its_trials_along_goes_on_and_ends_the_same(write, tmp_path):
    config = write({"seed_everything": [0, 1]}, **{"trainer.max_epochs": 30})
    outs = [tmp_path / "undisturbed", tmp_path / "killed"]
    assert run_once(config, outs[0]) == 0
    process = start(config, outs[1], stdout=subprocess.DEVNULL)
    wait_for(process, lambda: len(list(outs[1].glob("trials/*/config.yaml"))) == 2)
    [trial] = children(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{trial}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [done] = outs[1].glob("trials/*/trial.json")
    before = done.stat().st_mtime_ns
    assert run_once(config, outs[1]) == 0
    assert done.stat().st_mtime_ns == before
    tables = [read_results(out) for out in outs]
    for name in ("trial", "ndcg@10", "order", "steps"):
        assert list(tables[0][name]) == list(tables[1][name]), name
    for a, b in zip(*(table["query_ndcg@10"] for table in tables), strict=True):
        assert np.array_equal(a, b)


def test_a_broken_trial_is_reported_and_skipped_until_retried(write, tmp_path, capfd):
    # The last one has more pairs to choose than there are, which only its data can tell.
    config = write({"data.pairs": [200, 10_000]})
    out = tmp_path / "out"
    assert run_once(config, out) == 2
    output = capfd.readouterr()
    assert "BROKEN, --data.pairs is 10,000: there are 2" in output.out
    assert "1 of 2 trials broke" in output.err and "--retry" in output.err
    assert len(read_results(out)) == 1, "the others count"
    assert run_once(config, out) == 2
    assert "0 to run, 1 done, 1 broken" in capfd.readouterr().out
    assert run_once(config, out, "--retry") == 2
    assert "1 to run, 1 done, 1 broken" in capfd.readouterr().out


@pytest.mark.cluster
def test_a_sweep_on_ray_ends_as_on_one_machine(write, tmp_path, capfd):
    config = write({"data.pairs": [200, 10_000]})
    outs = [tmp_path / "local", tmp_path / "ray"]
    assert run_once(config, outs[0]) == 2, "one trial wants more pairs than there are"
    assert run_once(config, outs[1], "--ray=local") == 2
    output = capfd.readouterr()
    assert output.out.count("BROKEN, --data.pairs is 10,000") == 2, "both sweeps"
    tables = [read_results(out) for out in outs]
    for name in ("trial", "ndcg@10", "order", "steps"):
        assert list(tables[0][name]) == list(tables[1][name]), name
    assert run_once(config, outs[1], "--ray=local") == 2
    assert "0 to run, 1 done, 1 broken" in capfd.readouterr().out


def start(config, out, **more):
    """The command in a process of its own, its first trial training."""
    command = [sys.executable, SWEEP, f"--config={config}", f"--out={out}", "--jobs=1"]
    # A suite started in the background hands Ctrl-C down as ignored.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, text=True, **heard, **more)
    wait_for(process, lambda: list(out.glob("trials/*/logs/metrics.csv")))
    return process


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def children(process):
    """The trials' processes."""
    pids = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for file in pids for pid in file.read_text().split()]


def test_a_trial_whose_process_dies_is_tried_again_and_broken_the_second_time(write, tmp_path):
    config = write({"seed_everything": [0]}, **{"trainer.max_epochs": 4000})
    out = tmp_path / "out"
    process = start(config, out, stdout=subprocess.PIPE)
    [first] = children(process)
    os.kill(first, signal.SIGKILL)
    wait_for(process, lambda: children(process) not in ([first], []))
    time.sleep(1)
    assert not list(out.glob("trials/*/failed.json"))
    os.kill(children(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "BROKEN, its process ended 2 times, last by signal 9, perhaps for want" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_ends_its_trials_which_save_first(write, tmp_path, number):
    config = write({"seed_everything": [0, 1]}, **{"trainer.max_epochs": 4000})
    out = tmp_path / "out"
    process = start(config, out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    [trial] = children(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and errors == "error: interrupted\n"
    assert not Path(f"/proc/{trial}").exists()
    assert len(list(out.glob("trials/*/checkpoints/last.ckpt"))) == 1
    assert len(list(out.glob("trials/*"))) == 1, "what had not begun does not begin"
    assert not list(out.glob("trials/*/failed.json"))


def test_dry_run_lists_the_trials_and_trains_nothing(write, tmp_path, capfd):
    config = write({"model.norm": ["dyt", "none"], "seed_everything": [0, 1, 2]})
    out = tmp_path / "out"
    assert run_once(config, out, "--dry-run") == 0
    lines = capfd.readouterr().out.strip().split("\n")
    assert len(lines) == 7 and lines[-1] == "6 trials"
    assert lines[0].startswith("new    norm=dyt,seed=0")
    assert not out.exists()


def test_grids_join_and_axes_and_options_can_come_from_the_command_line(write, monkeypatch):
    monkeypatch.setenv("ALPHA", "0.25")
    config = write(
        [
            {"model.norm": ["none"]},
            {"model.norm": ["dyt", "none"], "model.alpha_init": ["${ALPHA}"]},
        ]
    )
    listed = read_sweep(config)
    assert [trial.varied for trial in listed] == [
        {"model.norm": "none"},
        {"model.norm": "dyt", "model.alpha_init": 0.25},
        {"model.norm": "none", "model.alpha_init": 0.25},
    ]
    over, grid = read_options(["--model.lr=0.2", "--grid.seed_everything", "[3, 4]"])
    more = read_sweep(config, over, grid)
    assert len(more) == 6 and all(trial.options["model.lr"] == 0.2 for trial in more)
    assert len({trial.name for trial in listed + more}) == 9, "other options, other folder"
    check_trials(more)


def test_the_sweeps_that_ship_are_valid(monkeypatch):
    monkeypatch.setenv("DATA", "folder")
    configs = sorted(CONFIGS.glob("*.yaml"))
    assert configs
    for config in configs:
        check_trials(read_sweep(str(config)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {model.nrom: [dyt]}", "model.nrom"),
        ("grid: {model.norm: [dyt, batchnorm]}", "norm is 'batchnorm'"),
        ("grid: {model.norm: dyt}", "the grid's model.norm is 'dyt': give a list"),
        ("grid: {model.norm: []}", "give a list of at least one value"),
        ("options: {model.dim: 8}", "holds options: give `grid`"),
        ("grid: {out: [a]}", "the sweep sets itself"),
        ("options: {model.lr: 1}\ngrid: {model.lr: [1]}", "in the grid and in the options"),
        ("options: {data.paths: '${NO_SUCH_THING}'}\ngrid: {model.lr: [1]}", "is not set"),
        ("grid: [", "not YAML"),
        ("grid: {model.lr: [fast]}", "model.lr"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_before_anything_runs(text, message, tmp_path, capfd):
    config = tmp_path / "sweep.yaml"
    config.write_text(text)
    assert run_once(config, tmp_path / "out") == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs=0"], "--jobs: 0: give at least 1"),
        (["extra"], "'extra' is no option"),
        (["--model.lr"], "give a value"),
        (["--collect"], "no finished trial"),
        (["--config=nowhere.yaml"], "no such file"),
    ],
)
def test_a_mistaken_option_is_one_line(arguments, message, write, tmp_path, capfd):
    assert run_once(write({"model.norm": ["none"]}), tmp_path / "out", *arguments) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_table_of_another_version_says_how_to_mend_it(tmp_path):
    with pytest.raises(UserError, match="no such table: make it with"):
        read_results(tmp_path)
    path = tmp_path / "results.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a whole parquet file"):
        read_results(tmp_path)
    import pyarrow as pa

    pq.write_table(pa.table({"trial": ["a"]}).replace_schema_metadata({"sse_results": "0"}), path)
    with pytest.raises(UserError, match="version 0, this package reads version 1.*--collect"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="no finished trial"):
        collect(tmp_path)


@pytest.mark.parametrize(("jobs", "threads", "each"), [(2, None, 2), (3, None, 1), (2, 3, 3)])
def test_trials_share_the_cores_by_openmp_threads(jobs, threads, each, monkeypatch, tmp_path):
    number = []
    monkeypatch.setattr(trials, "cores", lambda: 4)
    monkeypatch.setattr(trials, "run_trial", lambda trial, out, n, *_: number.append(n))
    assert list(trials.run_local(["one"], tmp_path, jobs, threads)) == [None]
    assert number == [each]


@pytest.mark.parametrize("files", [["trial.json"], ["metrics.json", "trial.json"]])
def test_a_trials_record_of_before_which_holds_all_facts_is_read(files, tmp_path):
    for name in files:
        total = {"total": 2} if name == "trial.json" else {}
        facts = {"steps": 1, "times": {"train": 1} | total}
        (tmp_path / name).write_text(json.dumps(facts))
    assert read_facts(tmp_path) == {"steps": 1, "times": {"train": 1, "total": 2}}


def test_two_processes_never_train_into_one_folder(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(trials, "LOCK_WAIT", 0.1)
    with FileLock(tmp_path / "lock"):
        assert trials.main([str(os.getppid()), str(tmp_path)]) == 2
    assert "another sweep is training this trial" in capfd.readouterr().err


def test_a_run_that_ended_before_it_was_recorded_is_not_trained_again(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert trials.main([str(os.getppid()), str(tmp_path), "--no.such.option"]) == 0
