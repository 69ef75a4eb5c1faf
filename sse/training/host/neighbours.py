"""How many threads a training on a CPU takes: what the process may use, fewer while others want it.

A step's threads wait for the slowest of them at some hundred places. Where another process takes
one of two cores, both wait most of the time, and two threads are 2 to 15 times slower than one. Low
priority (nice) of the other process does not help: Linux shares cores among sessions first.

No bit of the result depends on the number of threads, so it may change between two steps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback

from sse.common.machine import cores

WINDOW = 0.25  # seconds between two looks
LIMIT = 0.25  # seconds that threads wait for a core in a second, from which one is too many
PAUSES = 4.0, 60.0  # seconds until all threads are tried again; doubled after each failure


def take_cores() -> str:
    """Give torch as many threads as this process may use; a line that says how many and why."""
    asked, free = torch.get_num_threads(), cores()
    if free < asked:
        torch.set_num_threads(free)
        return f"threads: {free}, since affinity mask and CPU quota allow no more"
    given = "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else f"{free} cores may be used"
    return f"threads: {asked} ({given})"


class Neighbours(Callback):
    """Takes threads away while other processes want their cores, and gives them back later.

    It looks at the seconds that the threads were ready to run and waited for a core (Linux,
    `/proc/self/task/*/schedstat`).

    Attributes:
        most: threads where nobody disturbs.
        fewest: threads at the worst time.
        seconds: how long there were fewer than `most`.
    """

    def __init__(self) -> None:
        self.most = self.fewest = torch.get_num_threads()
        self.seconds = 0.0
        self._pause = PAUSES[0]
        self._retry = self._since = self._waited = self._before = 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look from here on, where threads matter and change no bit."""
        self.most = self.fewest = torch.get_num_threads() if _same_bits(trainer) else 1
        self._since, self._waited = time.monotonic(), waited()

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, step: int
    ) -> None:
        """Look four times a second."""
        now = time.monotonic()
        if self.most > 1 and now - self._since >= WINDOW:
            spent, before = now - self._since, self._waited
            self._since, self._waited = now, waited()
            self._decide(now, spent, (self._waited - before) / spent)

    def _decide(self, now: float, spent: float, waiting: float) -> None:
        """Change the number of threads after `spent` seconds in which `waiting` threads waited."""
        threads = torch.get_num_threads()
        if threads < self.most:
            self.seconds += spent
        before, self._before = self._before, waiting
        failed = threads == self.most and now < self._retry + 2 * WINDOW
        # Twice in a row, since a checkpoint disturbs for a moment only. A trial ends sooner.
        if threads > 1 and waiting > LIMIT and (before > LIMIT or failed):
            self._pause = min(2 * self._pause, PAUSES[1]) if failed else PAUSES[0]
            self._retry = now + self._pause
            torch.set_num_threads(max(1, threads - max(1, round(waiting))))
            self.fewest = min(self.fewest, torch.get_num_threads())
        elif threads < self.most and now >= self._retry:
            torch.set_num_threads(self.most)
            self._retry = now

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Leave torch as it was found."""
        if self.most > 1:
            torch.set_num_threads(self.most)

    def account(self) -> str:
        """What happened, for the run's account; empty where nothing did."""
        if not self.seconds:
            return ""
        return (
            f"; {self.seconds:.1f} s with fewer than {self.most} threads (at least {self.fewest}), "
            "since other processes took the cores"
        )


def waited() -> float:
    """Seconds that the threads of this process have waited for a core; 0 where nobody counts."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text("ascii").split()[1])
        except (OSError, IndexError):  # a thread that has just ended
            continue
    return total / 1e9


def _same_bits(trainer: L.Trainer) -> bool:
    """Whether the number of threads changes no bit: a clipped norm is summed thread by thread."""
    alone = trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"
    return alone and not trainer.gradient_clip_val and str(trainer.precision) == "32-true"
