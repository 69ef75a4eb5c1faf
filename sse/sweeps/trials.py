"""Running a sweep's trials: one real training run each, several at once, each pinned to its cores.

OUT/trials/NAME/trial.json   a finished trial: options, quality, times, versions, commit
OUT/trials/NAME/failed.json  a broken one: what it said; skipped until --retry
OUT/trials/NAME/log.txt      what the run printed
OUT/sweep.json               the trials of the sweep

- A worker process runs trial after trial, so that starting Python and reading the data are paid
  once, and keeps to its own cores and threads: OpenMP threads that fight for a core cost far more
  than they bring.
- A trial that a kill cut off goes on from its last checkpoint, bit by bit the same; without one it
  starts again. A worker that dies is replaced, and its trial tried once more before it counts as
  broken.
- A worker ends when the sweep's process is gone, and holds a lock on its trial while it runs, so
  that nobody trains into the same folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import multiprocessing as mp
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sse.common.errors import Stopped, UserError
from sse.common.files import write_json
from sse.sweeps.grid import Trial

DONE, FAILED = "trial.json", "failed.json"
# What a finished trial may keep besides its tables: 60 MB, and 190 to 380 MB, at 30522 x 512.
KEPT = ("model", "checkpoints")
ATTEMPTS = 2
GRACE = 30.0  # seconds that a stopped trial gets to save


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its facts, or what went wrong."""

    trial: Trial
    facts: dict[str, Any] | None
    error: str = ""


def state(out: Path, trial: Trial) -> str:
    """`done`, `failed`, `begun` or `new`."""
    folder = out / "trials" / trial.name
    for name, what in ((DONE, "done"), (FAILED, "failed")):
        if (folder / name).exists():
            return what
    return "begun" if (folder / "config.yaml").exists() else "new"


def run_trial(trial: Trial, out: Path, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Train, evaluate and record one trial in this process; returns what trial.json holds.

    Args:
        trial: what to train.
        out: the sweep's folder.
        keep: of `model` and `checkpoints`, what to keep.

    Raises:
        UserError: bad options or data; whatever else the training raises.
    """
    from sse.training.run import main

    folder = out / "trials" / trial.name
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with _locked(folder / "lock"):
        (folder / FAILED).unlink(missing_ok=True)
        if (folder / DONE).exists():  # another sweep of this folder was faster
            found: dict[str, Any] = json.loads((folder / DONE).read_text("utf-8"))
            return found
        if (folder / "config.yaml").exists():
            arguments = [f"--resume={folder}"]
        else:
            arguments = [*trial.arguments, f"--out={folder}"]
        facts = main([*arguments, "--trainer.enable_progress_bar=false"])
        # A trainer refers to itself: its model and moments, 200 MB, would wait for the collector,
        # which counts objects, not bytes.
        gc.collect()
        for name in set(KEPT) - set(keep):
            shutil.rmtree(folder / name, ignore_errors=True)
        facts["times"]["total"] = round(time.perf_counter() - start, 2)
        facts |= {"trial": trial.name, "varied": trial.varied, "options": trial.options}
        facts["commit"] = commit()
        write_json(folder / DONE, facts)
    return facts


def commit() -> str:
    """The checkout's commit, with + where files differ from it; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        asked = [
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked[0].stdout.strip()[:12] + ("+" if asked[1].stdout.strip() else "")


def fail(out: Path, trial: Trial, error: str, detail: str = "") -> Outcome:
    """Record a broken trial."""
    write_json(
        out / "trials" / trial.name / FAILED,
        {"trial": trial.name, "options": trial.options, "error": error, "detail": detail},
    )
    return Outcome(trial, None, error)


def attempt(trial: Trial, out: Path, keep: Sequence[str]) -> Outcome:
    """`run_trial`, its failure recorded and told instead of raised; a stop is passed on."""
    try:
        return Outcome(trial, run_trial(trial, out, keep))
    except (Stopped, KeyboardInterrupt):
        raise
    except UserError as error:
        return fail(out, trial, " ".join(str(error).split()))
    except Exception as error:
        first = (str(error).strip() or "no message").split("\n")[0]
        return fail(out, trial, f"{type(error).__name__}: {first}", traceback.format_exc())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process; wait a moment for one that is just ending."""
    with path.open("w") as file:
        for _ in range(50):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
        else:
            raise UserError(f"{path.parent}: another sweep is training this trial: wait for it")
        yield


def cores_of(jobs: int, threads: int | None) -> list[list[int]]:
    """The cores of each of `jobs` workers: disjoint as far as there are enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = cores or list(range(os.cpu_count() or 1))
    each = threads or max(1, len(cores) // jobs)
    return [[cores[(i * each + k) % len(cores)] for k in range(each)] for i in range(jobs)]


@dataclass
class _Worker:
    """A process and the pipe to it."""

    cores: list[int]
    out: Path
    keep: Sequence[str]
    trial: Trial | None = None
    process: Any = None
    pipe: Connection | None = None

    def start(self) -> None:
        """Spawn it with its number of threads in the environment, where OpenMP looks once."""
        context = mp.get_context("spawn")
        self.pipe, other = context.Pipe()
        given = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(given, str(len(self.cores))))
        try:
            arguments = (other, self.cores, self.out, self.keep, os.getpid())
            self.process = context.Process(target=_work, args=arguments, daemon=True)
            self.process.start()
        finally:
            for name, value in given.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value
        other.close()

    def give(self, trial: Trial) -> None:
        """Let it run a trial."""
        assert self.pipe is not None
        self.trial = trial
        self.pipe.send(trial)

    def stop(self) -> None:
        """Ask for the end: a running trial saves first."""
        if self.process is not None and self.process.is_alive():
            if self.trial is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.pid, signal.SIGTERM)
            assert self.pipe is not None
            self.pipe.close()

    def join(self) -> None:
        """Wait for the end, at most GRACE seconds."""
        if self.process is not None:
            self.process.join(GRACE)
            if self.process.is_alive():
                self.process.kill()


def run_local(
    trials: Sequence[Trial],
    out: Path,
    jobs: int = 1,
    threads: int | None = None,
    keep: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Run trials on this machine, `jobs` at once; yields each as it ends.

    Args:
        trials: what to train.
        out: the sweep's folder.
        jobs: trials at once.
        threads: threads of each; by default the cores divided among them.
        keep: see `run_trial`.
    """
    waiting = deque(trials)
    tries: dict[str, int] = {}
    workers = [_Worker(cores, out, keep) for cores in cores_of(jobs, threads)]
    workers = workers[: len(waiting)]
    try:
        for worker in workers:
            worker.start()
            worker.give(waiting.popleft())
        while busy := [worker for worker in workers if worker.trial is not None]:
            ready = wait([pipe for worker in busy if (pipe := worker.pipe)])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                trial = worker.trial
                assert trial is not None and worker.pipe is not None
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    outcome = _died(worker, trial, tries)
                    worker.start()
                    if outcome is None:
                        waiting.appendleft(trial)
                worker.trial = None
                if outcome is not None:
                    yield outcome
                if waiting:
                    worker.give(waiting.popleft())
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()


def _died(worker: _Worker, trial: Trial, tries: dict[str, int]) -> Outcome | None:
    """What to make of a worker that ended in mid-trial: None to try once more."""
    worker.process.join()
    code = worker.process.exitcode
    tries[trial.name] = tries.get(trial.name, 0) + 1
    if tries[trial.name] < ATTEMPTS:
        return None
    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
    hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return fail(worker.out, trial, f"its process ended {ATTEMPTS} times, last by {reason}{hint}")


def _work(pipe: Connection, cores: list[int], out: Path, keep: Sequence[str], parent: int) -> None:
    """A worker: trials in, outcomes back, until the pipe or the sweep's process ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep's process hears it and tells us
    while True:
        try:
            trial = pipe.recv()
        except (EOFError, OSError):
            return
        folder = out / "trials" / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
            try:
                outcome = attempt(trial, out, keep)
            except (Stopped, KeyboardInterrupt):
                return
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            pipe.send(outcome)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
