"""The command `python experiments/sweep.py`: list, run, resume and collect a sweep."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import write_json
from sse.sweeps.grid import Trial, check_trials, given_options, read_sweep
from sse.sweeps.trials import KEPT, Outcome, run_local, state

DESCRIPTION = """Run an ablation sweep: a training run per combination of options.

  python experiments/sweep.py --config experiments/configs/sweeps/norms.yaml --out runs/norms

Start it again after a stop or a kill: finished trials stay, a trial cut off goes on, and a broken
one is skipped until --retry. Further options are the trainer's, for all trials; --grid.OPTION
replaces or adds an axis:

  ... --data.paths "[pairs.jsonl]" --grid.seed_everything "[0, 1]"

Tables: OUT/results.parquet, OUT/diagnostics.parquet (`sse.sweeps.results` says what is in them)."""


def parser() -> argparse.ArgumentParser:
    """The options that are the sweep's own."""
    found = Parser(prog="sweep.py", description=DESCRIPTION)
    found.add_argument("--config", help="the sweep's YAML file")
    found.add_argument("--out", required=True, help="folder of the sweep")
    found.add_argument("--jobs", type=int, help="trials at once (default: one a core)")
    found.add_argument("--threads", type=int, help="threads of a trial (default: cores / jobs)")
    found.add_argument("--dry-run", action="store_true", help="list trials and expected time")
    found.add_argument("--retry", action="store_true", help="run broken trials again")
    found.add_argument(
        "--keep", action="append", default=[], choices=KEPT, help="also keep this of each trial"
    )
    found.add_argument("--collect", action="store_true", help="only gather the tables again")
    found.add_argument(
        "--ray", metavar="ADDRESS", help="spread trials by Ray: auto, local or HOST:PORT"
    )
    found.add_argument("--gpus", type=float, default=0, help="with --ray: GPUs of a trial")
    return found


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options, rest = parser().parse_known_args(arguments)
    out = Path(options.out)
    if out.is_file():
        raise UserError(f"--out {out} is a file: give a folder")
    if options.collect:
        return tables(out)
    if options.config is None:
        raise UserError("--config is missing: give the sweep's YAML file, or --collect")
    for name in ("jobs", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: give at least 1")
    over, grid = given_options(rest)
    trials = read_sweep(options.config, {"eval.baselines": False} | over, grid)
    check_trials(trials)
    jobs = options.jobs or min(len(trials), len(os.sched_getaffinity(0)))
    if options.dry_run:
        return list_trials(trials, out, jobs)
    sweep(trials, out, jobs, options)
    return None


def sweep(trials: list[Trial], out: Path, jobs: int, options: argparse.Namespace) -> None:
    """Run what is not finished, tell of each trial, and write the tables.

    Raises:
        UserError: a trial broke; the others have been run.
    """
    found = {trial.name: state(out, trial) for trial in trials}
    skip = ("done",) if options.retry else ("done", "failed")
    todo = [trial for trial in trials if found[trial.name] not in skip]
    record_trials(out, trials)
    print(  # noqa: T201, the account is the program's output
        f"{len(trials)} trials: {len(todo)} to run, {_count(found, 'done')} done, "
        f"{_count(found, 'failed')} broken; {jobs} at once; {out}",
        flush=True,
    )
    signal.signal(signal.SIGTERM, _terminated)
    begun = time.monotonic()
    for number, outcome in enumerate(_run(todo, out, jobs, options), 1):
        _tell(outcome, number, len(todo), time.monotonic() - begun)
    broken = [trial.name for trial in trials if state(out, trial) == "failed"]
    if len(broken) < len(trials):
        tables(out)
    if broken:
        raise UserError(
            f"{len(broken)} of {len(trials)} trials broke, the first {broken[0]} "
            f"(see {out / 'trials' / broken[0] / 'failed.json'}): mend it and use --retry"
        )


def record_trials(out: Path, trials: list[Trial]) -> None:
    """Add the trials to OUT's list: several sweeps may fill one folder, and be compared in it."""
    file = out / "sweep.json"
    known = json.loads(file.read_text("utf-8"))["trials"] if file.exists() else []
    by_name = {trial["trial"]: trial for trial in known}
    for t in trials:
        by_name[t.name] = {"trial": t.name, "varied": t.varied, "options": t.options}
    write_json(file, {"trials": list(by_name.values())})


def _run(todo: list[Trial], out: Path, jobs: int, options: argparse.Namespace) -> Iterator[Outcome]:
    if options.ray:
        from sse.sweeps.ray_trials import run_ray

        threads = options.threads or 1
        return run_ray(todo, out, options.ray, threads, options.keep, options.gpus)
    return run_local(todo, out, jobs, options.threads, options.keep)


def _tell(outcome: Outcome, number: int, total: int, seconds: float) -> None:
    left = seconds / number * (total - number)
    head = f"[{number}/{total}] {outcome.trial.name}"
    if outcome.facts is None:
        print(f"{head}: BROKEN, {outcome.error}", flush=True)  # noqa: T201
        return
    times = outcome.facts["times"]
    print(  # noqa: T201
        f"{head}: nDCG@10 {_quality(outcome.facts)}, {times['total']:.0f} s "
        f"({times['train']:.0f} training); {_clock(left)} left",
        flush=True,
    )


def _quality(facts: dict[str, Any]) -> str:
    """The mean over the collections at the largest dimension; the held-out pairs only if alone."""
    scored = dict(facts["metrics"].get("trained", {}))
    if len(scored) > 1:
        scored.pop("held-out pairs", None)
    values = [by_dim[max(by_dim, key=int)]["ndcg@10"] for by_dim in scored.values()]
    return f"{statistics.mean(values):.4f}" if values else "-"


def tables(out: Path) -> None:
    """Write the tables and say where."""
    from sse.sweeps.results import collect

    print(f"results: {collect(out)}")  # noqa: T201


def list_trials(trials: list[Trial], out: Path, jobs: int) -> None:
    """Print every trial with its state."""
    for trial in trials:
        print(f"{state(out, trial):7} {trial.name}")  # noqa: T201
    print(f"{len(trials)} trials, {jobs} at once")  # noqa: T201


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(found: dict[str, str], what: str) -> int:
    return sum(1 for value in found.values() if value == what)


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt
