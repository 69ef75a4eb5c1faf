"""The command `python experiments/sweep.py`: list, run, resume and collect a sweep."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sse.common.arguments import Parser, program
from sse.common.errors import UserError, one_line
from sse.common.files import write_json
from sse.common.machine import cores
from sse.common.ranges import real, whole
from sse.common.terminal import clock
from sse.sweeps.grid import Trial, check_trials, read_options, read_sweep
from sse.sweeps.results import HELD_OUT, collect
from sse.sweeps.trials import FAILED, KEPT, Outcome, run_local, state

DESCRIPTION = """Run an ablation sweep: a training run per combination of options.

  python experiments/sweep.py --config experiments/configs/sweeps/norms.yaml --out runs/norms

Start it again after a stop or a kill: finished trials stay, a trial cut off goes on, and a broken
one is skipped until --retry. Further options are the trainer's, for all trials; --grid.OPTION
replaces or adds an axis:

  ... --data.paths "[pairs.jsonl]" --grid.seed_everything "[0, 1]"

Tables: OUT/results.parquet, OUT/diagnostics.parquet (`sse.sweeps.results` says what is in them)."""


def parser() -> argparse.ArgumentParser:
    """The options that are the sweep's own."""
    made = Parser(prog=program("sweep"), description=DESCRIPTION)
    add = made.add_argument
    add("--config", help="the sweep's YAML file")
    add("--out", required=True, help="folder of the sweep")
    add("--jobs", type=whole(1), help="trials at once (default: one per core)")
    add("--threads", type=whole(1), help="threads per trial (default: cores / jobs)")
    add("--dry-run", action="store_true", help="list the trials")
    add("--retry", action="store_true", help="run broken trials again")
    add("--keep", action="append", default=[], choices=KEPT, help="also keep this of each trial")
    add("--collect", action="store_true", help="only gather the tables again")
    add("--ray", metavar="ADDRESS", help="spread trials by Ray: auto, local or HOST:PORT")
    add("--gpus", type=real(0), default=0, help="with --ray: GPUs per trial")
    return made


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
    over, grid = read_options(rest)
    trials = read_sweep(options.config, {"eval.baselines": False} | over, grid)
    check_trials(trials)
    states = {trial.name: state(out, trial) for trial in trials}
    if options.dry_run:
        lines = [f"{states[trial.name]:7}{trial.name}" for trial in trials]
        print("\n".join([*lines, f"{len(trials)} trials"]))  # noqa: T201
        return None
    sweep(trials, states, out, options)
    return None


def sweep(
    trials: list[Trial], states: dict[str, str], out: Path, options: argparse.Namespace
) -> None:
    """Run what is not finished, report each trial, and write the tables.

    Raises:
        UserError: a trial broke; the others have been run.
    """
    skip = ("done",) if options.retry else ("done", "failed")
    todo = [trial for trial in trials if states[trial.name] not in skip]
    jobs = options.jobs or min(len(trials), cores())
    record_trials(out, trials)
    counts = Counter(states.values())
    print(  # noqa: T201, the account is the program's output
        f"{len(trials)} trials: {len(todo)} to run, {counts['done']} done, "
        f"{counts['failed']} broken; {jobs} at once; {out}",
        flush=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    with closing(_run(todo, out, jobs, options)) as outcomes:
        for number, outcome in enumerate(outcomes, 1):
            _report(outcome, number, len(todo), time.monotonic() - begun)
    broken = [trial.name for trial in trials if state(out, trial) == "failed"]
    if len(broken) < len(trials):
        tables(out)
    if broken:
        raise UserError(
            f"{len(broken)} of {len(trials)} trials broke, the first {broken[0]} "
            f"(see {out / 'trials' / broken[0] / FAILED}): mend it and use --retry"
        )


def record_trials(out: Path, trials: list[Trial]) -> None:
    """Add the trials to OUT's list: several sweeps may fill one folder, and be compared in it."""
    file = out / "sweep.json"
    known = json.loads(file.read_text("utf-8"))["trials"] if file.exists() else []
    by_name = {trial["trial"]: trial for trial in known}
    for t in trials:
        by_name[t.name] = {"trial": t.name, "varied": t.varied, "options": t.options}
    write_json(file, {"trials": list(by_name.values())})


def _run(
    todo: list[Trial], out: Path, jobs: int, options: argparse.Namespace
) -> Generator[Outcome, None, None]:
    if options.ray:
        from sse.sweeps.ray_trials import run_ray

        threads = options.threads or 1
        return run_ray(todo, out, options.ray, threads, options.keep, options.gpus)
    return run_local(todo, out, jobs, options.threads, options.keep)


def _report(outcome: Outcome, number: int, total: int, seconds: float) -> None:
    """Print a trial's quality and times, or why it broke, and the time that the rest may take."""
    head = f"[{number}/{total}] {outcome.trial.name}"
    if outcome.facts is None:
        print(f"{head}: BROKEN, {outcome.error}", flush=True)  # noqa: T201
        return
    times = outcome.facts["times"]
    print(  # noqa: T201
        f"{head}: nDCG@10 {_quality(outcome.facts)}, {times['total']:.0f} s "
        f"({times['train']:.0f} training); {clock(seconds / number * (total - number))} left",
        flush=True,
    )


def _quality(facts: dict[str, Any]) -> str:
    """The mean over the collections at the largest dimension; the held-out pairs only if alone."""
    scored = dict(facts["metrics"].get("trained", {}))
    if len(scored) > 1:
        scored.pop(HELD_OUT, None)
    values = [by_dim[max(by_dim, key=int)]["ndcg@10"] for by_dim in scored.values()]
    return f"{statistics.mean(values):.4f}" if values else "-"


def tables(out: Path) -> None:
    """Write the tables and say where."""
    print(f"results: {collect(out)}")  # noqa: T201
