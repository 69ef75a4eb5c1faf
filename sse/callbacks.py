"""What a run shows and keeps while it trains: progress with pairs/s, checkpoints, EMA.

`LastCheckpoint` instead of Lightning's ModelCheckpoint for `last.ckpt`: it saves at whole optimiser
steps only, also on a signal, so that a resumed run is exact.
"""

from __future__ import annotations

import copy
import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)

from sse.distributed import everywhere, highest, rank
from sse.errors import Stopped
from sse.files import atomic_file
from sse.resume import FACTS, LAST, PREVIOUS, facts


class Throughput(Callback):
    """Count the pairs trained on and the seconds that took, evaluation excluded."""

    def __init__(self) -> None:
        self.pairs = 0
        self.seconds = 0.0
        self._last: float | None = None

    @property
    def rate(self) -> float:
        """Pairs per second, over all processes."""
        return self.pairs / self.seconds if self.seconds else 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, step: int
    ) -> None:
        """Start the clock after a pause."""
        if self._last is None:
            self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Add a batch: from the end of the last one, so loading counts too."""
        now = time.perf_counter()
        assert self._last is not None
        self.pairs += batch["pairs"]
        self.seconds += now - self._last
        self._last = now
        if trainer.global_step % trainer.log_every_n_steps == 0:
            module.log("train/pairs_per_second", self.rate, batch_size=batch["pairs"])

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clock."""
        self._last = None


class Progress(TQDMProgressBar):
    """Lightning's bar with pairs/s, the loss and the last held-out nDCG@10."""

    def __init__(self, throughput: Throughput) -> None:
        super().__init__(refresh_rate=10)
        self.throughput = throughput

    def get_metrics(
        self, trainer: L.Trainer, module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands at the bar's end."""
        shown: dict[str, Any] = {"pairs/s": f"{self.throughput.rate:,.0f}"}
        logged = trainer.callback_metrics
        if "train/loss" in logged:
            shown["loss"] = f"{float(logged['train/loss']):.3f}"
        for name, value in logged.items():
            if name.startswith("val/"):
                shown[name.removeprefix("val/")] = f"{float(value):.3f}"
        return shown

    def init_validation_tqdm(self) -> Any:
        """No bar for the held-out pairs: they take a fraction of a second."""
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar


class MovingAverage(EMAWeightAveraging):
    """Average weights that are up to date: a lazy optimiser then has no row to leave for later."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Add a step to the average."""
        module.flush()
        super().on_train_batch_end(trainer, module, outputs, batch, step)


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

    A signal waits for the batch in hand, so that the saved state is whole; a second one of the same
    kind ends the process at once. With several processes a signal to one stops all at one step.

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
        self._loop: dict[str, Any] | None = None
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Remember who handles the signals, to give them back."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the interval; take over the signals, where that is allowed.

        Not before: Lightning's own handler, in place by now, talks to the other processes amid
        whatever they do, and all would wait for ever.
        """
        for number in self._handlers:
            signal.signal(number, self._on_signal)
        self._saved_at = time.monotonic()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Save when it is time, and stop when all know of a signal."""
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        if stepped and trainer.accumulate_grad_batches > 1:
            self._loop = copy.deepcopy(trainer.fit_loop.state_dict())
        late = time.monotonic() - self._saved_at >= self.seconds
        number, due = highest([self._signal, int(late and rank() == 0)])
        whole = stepped or self._loop is not None
        if (due and stepped) or (number and whole):
            self.save(trainer)
        if number:
            raise everywhere(Stopped(number, f"go on with --resume {self.path.parent.parent}"))

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what a resumed run compares; amid an accumulation stand at the last whole step.

        Until the next step the weights are that step's: only the count of batches has moved on.
        """
        checkpoint[FACTS] = facts()
        if self._loop is not None:
            checkpoint["loops"]["fit_loop"] = copy.deepcopy(self._loop)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save the final state."""
        self._loop = None
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, whole or not at all."""
        start = time.monotonic()
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self.spent += self._saved_at - start
        self.saves += 1

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def callbacks(
    folder: Path, monitor: str | None, ema: float, progress: bool, seconds: float = 30.0
) -> list[Callback]:
    """The callbacks of every run.

    Args:
        folder: where checkpoints go: `best.ckpt` (weights alone, by `monitor`) and `last.ckpt`.
        monitor: the metric whose maximum is best; None where nothing is held out.
        ema: decay of the exponential moving average of the weights; 0 for none. With it,
            evaluation, checkpoints' `state_dict` and the final model hold the averaged weights.
        progress: show the bar.
        seconds: time from one `last.ckpt` to the next.
    """
    throughput = Throughput()
    found: list[Callback] = [throughput]
    if progress:
        found.append(Progress(throughput))
    if ema:
        found.append(MovingAverage(decay=ema))
    if monitor:
        found.append(
            ModelCheckpoint(
                folder,
                "best",
                monitor=monitor,
                mode="max",
                save_weights_only=True,
                enable_version_counter=False,
            )
        )
    found.append(LastCheckpoint(folder, seconds))
    return found
