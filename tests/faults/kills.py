"""SIGKILL at random moments, then the same command again: the undisturbed run's result, to the bit.

A cycle kills one to three attempts in a row in one folder and lets the last go through.
"""

import os
import random
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .forked import forked, moments
from .subjects import Subject, litter


@dataclass
class Tally:
    """What came of the faults of one kind."""

    fault: str
    where: str
    times: int = 0
    hit: int = 0  # that struck while work was going on
    refused: int = 0  # ended in one clear line
    lost: int = 0  # the result, or the way to it, was gone
    wrong: int = 0  # another result, and nobody said so
    unclear: int = 0  # a traceback, a crash of the interpreter, a hang
    litter: int = 0  # runs without a kill after which temporary files stayed
    unfinished: int = 0  # cycles after which those of a killed run stayed, as they do for a day
    note: str = ""

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong or self.unclear or self.litter)

    def fail(self, kind: str, note: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.note = self.note or note[:300]


def undisturbed(subject: Subject, root: Path) -> tuple[str, float]:
    """The result without a fault, and the seconds it took (the shorter of two)."""
    seconds = []
    for number in range(2):
        folder = root / f"whole-{number}"
        outcome = forked(lambda folder=folder: subject.run(folder))
        assert outcome.code == 0, f"{subject.name}, undisturbed: {outcome.errors}"
        seconds.append(outcome.seconds)
    first, second = (subject.result(root / f"whole-{number}") for number in range(2))
    assert first == second, f"{subject.name} is not repeatable"
    return first, min(seconds)


def kill(subject: Subject, root: Path, times: int, seed: int) -> Tally:
    """`times` kills that hit, each cycle compared with the undisturbed run."""
    tally = Tally("kill -9", subject.name)
    generator = random.Random(f"{seed} {subject.name}")
    expected, seconds = undisturbed(subject, root)
    folder = root / "killed"
    while tally.hit < times and tally.times < 4 * times + 8:
        shutil.rmtree(folder, ignore_errors=True)
        told = []
        for _ in range(min(generator.choice((1, 1, 2, 3)), times - tally.hit)):
            moment = moments(generator, seconds)
            told.append(f"{moment:.3f}")
            outcome = forked(lambda: subject.run(folder), kill_after=moment)
            tally.times += 1
            tally.hit += outcome.killed
            if not outcome.killed:
                seconds = min(seconds, outcome.seconds)  # the machine may be quieter by now
            if not outcome.killed and outcome.code:
                tally.fail("unclear", f"seed {seed}, kills at {told}: {outcome.errors}")
        told_all = f"seed {seed}, kills at {', '.join(told)} s"
        seconds = min(seconds, _finish(subject, folder, expected, tally, told_all))
    return tally


def _finish(subject: Subject, folder: Path, expected: str, tally: Tally, told: str) -> float:
    """Go on without a kill, judge, and give the seconds it took."""
    outcome = forked(lambda: subject.run(folder))
    if outcome.code:
        tally.fail("lost", f"{told}: {outcome.errors}")
    elif subject.result(folder) != expected:
        tally.fail("wrong", f"{told}: another result")
    tally.unfinished += bool(litter(folder))
    return outcome.seconds


def together(subject: Subject, root: Path, times: int) -> Tally:
    """Two runs of the same in one folder at once: both end well, with the same result."""
    tally = Tally("two at once", subject.name)
    expected, _ = undisturbed(subject, root)
    for number in range(times):
        folder = root / f"both-{number}"
        folder.mkdir(parents=True)
        run = partial(subject.run, folder)
        other = os.fork()
        if other == 0:
            os._exit(0 if forked(run).code == 0 else 1)
        outcome = forked(run)
        _, status = os.waitpid(other, 0)
        tally.times += 1
        tally.hit += 1
        if outcome.code or status:
            tally.fail("lost", f"exit codes {outcome.code}, {status}: {outcome.errors}")
        elif subject.result(folder) != expected:
            tally.fail("wrong", "another result")
        if left := litter(folder):
            tally.fail("litter", f"{left}")
    return tally
