"""`last.ckpt`: written whole, at whole optimiser steps, also on a signal; a resumed run is exact.

Lightning's ModelCheckpoint also saves amid an accumulation, through the system's temporary folder.
"""

from __future__ import annotations

import copy
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from sse.common.errors import Stopped
from sse.common.files import atomic_file
from sse.common.signals import NotedSignals
from sse.training.processes import everywhere, highest, rank
from sse.training.resume import FACTS, LAST, PREVIOUS, facts


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints to a temporary name beside the file, then rename.

    What `last.ckpt` was becomes `previous.ckpt`, for the day when a disk returns other bytes than
    it was given. Lightning's own goes through the system's temporary folder, so that a file on
    another disk is copied into place and can be torn.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint`, whole or not at all; OSError where the disk is full."""
        path = Path(path)
        try:
            with atomic_file(path) as temporary:
                torch.save(checkpoint, temporary)
                if path.name == LAST and path.exists():
                    os.replace(path, path.with_name(PREVIOUS))
        except RuntimeError as error:  # torch's writer does not say what the system said
            free = shutil.disk_usage(Path(path).parent).free
            if free > sum(t.nbytes for t in checkpoint["state_dict"].values()):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


class LastCheckpoint(Callback):
    """Keep `last.ckpt`: every few seconds, at the end, and on SIGINT or SIGTERM.

    A signal waits for the batch in hand, so that the saved state is whole, and for an evaluation
    that follows it; a second one of the same kind ends the process at once. With several processes
    a signal to one stops all at one step.

    What a batch's end asks for is written when the next batch starts or the epoch has ended, so
    that a kill cannot come between a checkpoint and the evaluation of its step, which a resumed run
    would leave out.

    Args:
        folder: where it goes.
        seconds: time from one to the next; 0 for every step. A checkpoint holds the table and
            Adam's two moments (190 MB at 30522 x 512).
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.path = folder / LAST
        self.seconds = seconds
        self.saves = 0
        self.spent = 0.0  # seconds
        self._saved_at = 0.0
        self._step = 0
        self._loop: dict[str, Any] | None = None  # Lightning's counters after the last whole step
        self._due = False
        self._stop = 0  # the signal that all processes know of
        self._signals = NotedSignals()

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Remember who handles the signals, to give them back."""
        self._signals.remember()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the interval; take over the signals, where that is allowed.

        Not before: Lightning's own handler, in place by now, talks to the other processes amid
        whatever they do, and all would wait for ever.
        """
        self._signals.take_over()
        self._saved_at = time.monotonic()
        self._step = trainer.global_step
        epoch = trainer.fit_loop.epoch_loop
        if epoch.batch_progress.current.ready == 0:
            epoch.restarting = False  # with max_steps Lightning says so even at an epoch's start

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Note when it is time to save, and to stop when all know of a signal."""
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        late = time.monotonic() - self._saved_at >= self.seconds
        self._stop, due = highest([self._signals.number, int(late and rank() == 0)])
        if stepped:
            needed = due or self._stop or trainer.accumulate_grad_batches > 1
            self._loop = copy.deepcopy(trainer.fit_loop.state_dict()) if needed else None
        self._due = bool(due and stepped) or bool(self._stop and self._loop)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, step: int
    ) -> None:
        """Save, as of the last batch's end, and stop."""
        self._save_and_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save, as of the next epoch's start, and stop."""
        self._loop = _epoch_ended(trainer)
        self._save_and_stop(trainer)

    def _save_and_stop(self, trainer: L.Trainer) -> None:
        if self._due:
            self.save(trainer)
        if self._stop:
            go_on = f"go on with --resume {self.path.parent.parent}"
            raise everywhere(Stopped(self._stop, go_on))

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what a resumed run compares; stand at the last whole step.

        Until the next step the weights are that step's: only the count of batches has moved on.
        """
        checkpoint[FACTS] = facts()
        if self._loop is not None:
            checkpoint["loops"]["fit_loop"] = self._loop

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save the final state."""
        self._loop = None
        self.save(trainer)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Make `last.ckpt` anew, where the one before held the whole run: nothing is trained."""
        if not self.saves and trainer.ckpt_path not in (None, str(self.path)):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, whole or not at all."""
        start = time.monotonic()
        trainer.save_checkpoint(self.path)
        self._due = False
        self._saved_at = time.monotonic()
        self.spent += self._saved_at - start
        self.saves += 1

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._signals.give_back()


def _epoch_ended(trainer: L.Trainer) -> dict[str, Any]:
    """Lightning's counters as they stand when the next epoch starts.

    From those of an epoch's last batch, or of its end with `max_steps`, Lightning goes on with the
    right batches but counts the epoch wrongly, so that the next resumption repeats or skips some.
    """
    loop: dict[str, Any] = copy.deepcopy(trainer.fit_loop.state_dict())
    for count in ("total", "current"):
        epochs = loop["epoch_progress"][count]
        epochs["completed"] = epochs["processed"]
    batches = loop["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    return loop
