"""A sweep's trials spread by Ray: the same runs, folders and tables as on one machine.

OUT must lie on a file system that all machines see under the same path, as must the data: a trial
writes its folder itself, so that one cut off goes on from its checkpoint on whichever machine it
comes to next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.ray_session import ray_session
from sse.sweeps.grid import Trial
from sse.sweeps.trials import ATTEMPTS, DONE, Outcome, attempt, cores_of, fail


def run_ray(
    trials: Sequence[Trial],
    out: Path,
    address: str,
    threads: int = 1,
    keep: Sequence[str] = (),
    gpus: float = 0,
) -> Iterator[Outcome]:
    """Run trials as Ray tasks; yields each as it ends.

    Args:
        trials: what to train.
        out: the sweep's folder, shared by all machines.
        address: `local` for this machine alone, `auto`, or HOST:PORT.
        threads: cores, and so OpenMP threads, of a trial.
        keep: see `run_trial`.
        gpus: GPUs of a trial, as Ray counts them.

    Raises:
        UserError: Ray is not installed or does not start, or OUT is not shared.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'stable-static-embedding[cluster]'") from None
    shared = out.resolve()
    with ray_session(None if address == "local" else address, len(cores_of(1, None)[0])):
        # Ray tells OpenMP the task's number of cores.
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=ATTEMPTS - 1)(_task)
        waiting = {task.remote(trial, shared, keep): trial for trial in trials}
        while waiting:
            [ready], _ = ray.wait(list(waiting), num_returns=1)
            trial = waiting.pop(ready)
            try:
                outcome: Outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = fail(shared, trial, f"{type(error).__name__}: {_first_line(error)}")
            if outcome.facts and not (shared / "trials" / trial.name / DONE).exists():
                raise UserError(
                    f"--out {out}: trial {trial.name} ended, but its folder is not there: give a "
                    "folder that all machines of the cluster share"
                )
            yield outcome


def _task(trial: Trial, out: Path, keep: Sequence[str]) -> Outcome:
    """A trial on whichever machine; what it prints goes to its log."""
    folder = out / "trials" / trial.name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return attempt(trial, out, keep)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or ["no message"])[-1]
