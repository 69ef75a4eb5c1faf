"""Running a sweep's trials: one process per trial, several at once.

OUT/trials/NAME/          the folder of a training run, and beside its files:
    trial.json            a finished trial: options, times, commit; metrics.json has the scores
    failed.json           a broken one: what it said; skipped until --retry
    log.txt               what the run printed
OUT/sweep.json            the trials of the sweep

A process is the trainer's command line. It ends when the sweep's process is gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sse.common.files import write_json
from sse.common.machine import commit, cores
from sse.sweeps.grid import Trial
from sse.sweeps.results import DONE, SCORES, read_facts

FAILED = "failed.json"
# What a finished trial may keep besides its tables: 60 MB, and 190 to 380 MB, at 30522 x 512.
KEPT = ("model", "checkpoints")
ATTEMPTS = 2
GRACE = 30.0  # seconds that a stopped trial gets to save
LOCK_WAIT = 10.0  # seconds for a trial whose sweep is just ending
POLL = 0.2  # seconds between two looks at whether the sweep stops


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


def run_local(
    trials: Sequence[Trial],
    out: Path,
    jobs: int = 1,
    threads: int | None = None,
    keep: Sequence[str] = (),
) -> Generator[Outcome, None, None]:
    """Run trials on this machine, `jobs` at once; yields each as it ends.

    Closing the generator stops the running trials, which save first.

    Args:
        trials: what to train.
        out: the sweep's folder.
        jobs: trials at once.
        threads: threads per trial; by default the cores divided among them.
        keep: see `run_trial`.
    """
    threads = threads or max(1, cores() // jobs)
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs)
    try:
        runs = [pool.submit(run_trial, trial, out, threads, keep, stop) for trial in trials]
        for run in as_completed(runs):
            yield run.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def run_trial(
    trial: Trial,
    out: Path,
    threads: int = 1,
    keep: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> Outcome:
    """Train, evaluate and record one trial in a process of its own.

    A trial that was cut off goes on from its checkpoint. One whose process dies is tried once
    more. A failure is recorded in failed.json, and is the outcome.

    Args:
        trial: what to train.
        out: the sweep's folder.
        threads: OpenMP threads of the process.
        keep: of `model` and `checkpoints`, what to keep.
        stop: when set, the process gets SIGTERM and `GRACE` seconds.
    """
    stop = stop or threading.Event()
    folder = out / "trials" / trial.name
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if (folder / DONE).exists():  # another sweep of this folder was faster
        return Outcome(trial, read_facts(folder))
    (folder / FAILED).unlink(missing_ok=True)
    for _ in range(ATTEMPTS):
        code, log = _train(trial, folder, threads, stop)
        if code == 0:
            return _record(trial, folder, keep, time.perf_counter() - start)
        if stop.is_set():
            return Outcome(trial, None, "stopped")
        if 0 < code <= 128:  # the trainer's own, not a signal's
            return fail(out, trial, _reason(log), log[max(0, log.rfind("Traceback")) :])
    number = -code if code < 0 else code - 128
    hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
    return fail(out, trial, f"its process ended {ATTEMPTS} times, last by signal {number}{hint}")


def fail(out: Path, trial: Trial, error: str, detail: str = "") -> Outcome:
    """Record a broken trial."""
    write_json(
        out / "trials" / trial.name / FAILED,
        {"trial": trial.name, "options": trial.options, "error": error, "detail": detail},
    )
    return Outcome(trial, None, error)


def _train(trial: Trial, folder: Path, threads: int, stop: threading.Event) -> tuple[int, str]:
    """Run the trainer to its end, or to a stop; its exit code, and what it added to log.txt."""
    number = str(threads)
    with (folder / "log.txt").open("a+", encoding="utf-8", errors="replace") as log:
        size = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), str(folder), *trial.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number},
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which sends SIGTERM
        )
        code = _wait(process, stop)
        log.seek(size)
        return code, log.read()


def _reason(log: str) -> str:
    """The last error in what a trainer printed; an exception without its further lines."""
    lines = log.strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception)\b", line)]
    return (errors or lines)[-1].removeprefix("error: ")


def _wait(process: subprocess.Popen[bytes], stop: threading.Event) -> int:
    """The exit code; at a stop the process may save for `GRACE` seconds."""
    while not stop.is_set():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        return process.wait(GRACE)
    process.kill()
    return process.wait()


def _record(trial: Trial, folder: Path, keep: Sequence[str], seconds: float) -> Outcome:
    """Remove what is not kept, and write trial.json, which makes the trial a finished one."""
    for name in set(KEPT) - set(keep):
        shutil.rmtree(folder / name, ignore_errors=True)
    times = json.loads((folder / SCORES).read_text("utf-8"))["times"]
    record = {"trial": trial.name, "varied": trial.varied, "options": trial.options}
    record |= {"times": times | {"total": round(seconds, 2)}, "commit": commit()}
    write_json(folder / DONE, record)
    return Outcome(trial, read_facts(folder))


def main(arguments: Sequence[str]) -> int:
    """Train in this process, alone in the trial's folder, until the sweep's process is gone.

    Args:
        arguments: the sweep's process id, the trial's folder, the trainer's options.

    Returns:
        The exit code; 0 at once where the run had ended and only trial.json was missing.
    """
    from sse.training.run import run

    parent, name, *options = arguments
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    folder = Path(name)
    try:
        with FileLock(folder / "lock", timeout=LOCK_WAIT):
            if (folder / SCORES).exists():
                return 0
            if (folder / "config.yaml").exists():
                options = [f"--resume={folder}"]
            else:
                options.append(f"--out={folder}")
            return run([*options, "--trainer.enable_progress_bar=false"])
    except Timeout:
        sys.stderr.write(f"error: {folder}: another sweep is training this trial: wait for it\n")
        return 2


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
