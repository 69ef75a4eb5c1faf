"""A sweep's trials spread by Ray: the same processes, folders and tables as on one machine.

All machines must see OUT and the data under the same paths. A trial writes its folder itself, so
one that was cut off goes on from its checkpoint on any machine.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.machine import cores
from sse.serving.ray_session import ray_session
from sse.sweeps.grid import Trial
from sse.sweeps.results import DONE
from sse.sweeps.trials import ATTEMPTS, Outcome, fail, run_trial


def run_ray(
    trials: Sequence[Trial],
    out: Path,
    address: str,
    threads: int = 1,
    keep: Sequence[str] = (),
    gpus: float = 0,
) -> Generator[Outcome, None, None]:
    """Run trials as Ray tasks; yields each as it ends.

    Args:
        trials: what to train.
        out: the sweep's folder, which all machines share.
        address: `local` for this machine alone, `auto`, or HOST:PORT.
        threads: cores, and so OpenMP threads, per trial.
        keep: see `run_trial`.
        gpus: GPUs per trial, as Ray counts them.

    Raises:
        UserError: Ray is not installed or does not start, or `out` is not shared.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "trials are spread by Ray: pip install 'stable-static-embedding[cluster]'"
        ) from None
    out = out.resolve()
    with ray_session(None if address == "local" else address, cores()):
        task: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=ATTEMPTS - 1)(run_trial)
        waiting = {task.remote(trial, out, threads, keep): trial for trial in trials}
        while waiting:
            [ready], _ = ray.wait(list(waiting), num_returns=1)
            trial = waiting.pop(ready)
            try:
                outcome: Outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = fail(out, trial, f"{type(error).__name__}: {_last_line(error)}")
            if outcome.facts and not (out / "trials" / trial.name / DONE).exists():
                raise UserError(
                    f"{out}: trial {trial.name} ended, but its folder is not there: give a "
                    "folder that all machines of the cluster share"
                )
            yield outcome


def _last_line(error: Any) -> str:
    return (str(error).strip().splitlines() or ["no message"])[-1]
