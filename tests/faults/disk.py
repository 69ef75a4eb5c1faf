"""A disk that is full at some byte of the work: one clear line, nothing half-written, and with room
again the undisturbed run's result.

As root on a small tmpfs (ENOSPC, as on a real disk); otherwise, and besides, with RLIMIT_FSIZE
(EFBIG: no file may grow beyond some size).
"""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .forked import forked
from .kills import Tally, undisturbed
from .subjects import Subject, litter


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of `size` bytes; whether that was permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={max(size, 4096)}"
    done = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(subject: Subject, root: Path, times: int, seed: int) -> list[Tally]:
    """`times` full disks and `times` limits of a file's size."""
    generator = random.Random(f"{seed} {subject.name}")
    expected, _ = undisturbed(subject, root)
    whole = root / "whole-0"
    files = [p for p in whole.rglob("*") if p.is_file()]
    used, largest = sum(p.stat().st_size for p in files), max(p.stat().st_size for p in files)
    full, long = Tally("disk full", subject.name), Tally("file too large", subject.name)
    for _ in range(times):
        size = int(used * generator.uniform(0.02, 0.98))
        disk = root / "disk"
        with small_disk(disk, size) as mounted:
            if not mounted:
                full.note = "not tried: only root can mount a small disk"
                break
            outcome = forked(lambda disk=disk: subject.run(disk / "work"))
            kept = root / "kept"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(disk / "work", kept, dirs_exist_ok=True) if (
                disk / "work"
            ).exists() else kept.mkdir()
        _judge(subject, kept, expected, full, outcome, f"seed {seed}, a disk of {size} bytes")
    for _ in range(times):
        size = int(largest * generator.uniform(0.02, 0.98))
        folder = root / "limited"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = forked(lambda folder=folder: subject.run(folder), file_size=size)
        _judge(subject, folder, expected, long, outcome, f"seed {seed}, files to {size} bytes")
    return [full, long]


def _judge(
    subject: Subject, folder: Path, expected: str, tally: Tally, outcome: object, told: str
) -> None:
    tally.times += 1
    if outcome.code == 0:
        if subject.result(folder) != expected:
            tally.fail("wrong", f"{told}: exit 0 and another result")
        return
    tally.hit += 1
    if outcome.one_line:
        tally.refused += 1
    else:
        tally.fail("unclear", f"{told}: {outcome.code} {outcome.errors[-280:]}")
    if left := litter(folder):
        tally.fail("litter", f"{told}: {left}")
    again = forked(lambda: subject.run(folder))
    if again.code:
        tally.fail("lost", f"{told}: afterwards {again.errors[-280:]}")
    elif subject.result(folder) != expected:
        tally.fail("wrong", f"{told}: afterwards another result")
