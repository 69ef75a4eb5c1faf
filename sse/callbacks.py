"""What a run shows and keeps while it trains: progress with pairs/s, checkpoints, EMA.

`LastCheckpoint` instead of Lightning's ModelCheckpoint for `last.ckpt`: it saves at whole optimiser
steps only, also on a signal, so that a resumed run is exact.
"""

from __future__ import annotations

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

from sse.errors import Stopped
from sse.files import atomic_file

# Seconds. A checkpoint holds the table and Adam's two moments (190 MB at 30522 x 512) and takes
# about 0.5 s to write, under 2% of the time.
CHECKPOINT_INTERVAL = 30.0


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
        self.pairs += batch["pairs"] * trainer.world_size
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


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints to a temporary name beside the file, then rename.

    Lightning's own goes through the system's temporary folder, so that a file on another disk is
    copied into place and can be torn.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint`, whole or not at all; OSError where the disk is full."""
        try:
            with atomic_file(path) as temporary:
                torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch's writer does not say what the system said
            free = shutil.disk_usage(Path(path).parent).free
            if free > sum(t.nbytes for t in checkpoint["state_dict"].values()):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


class LastCheckpoint(Callback):
    """Keep `last.ckpt`: every CHECKPOINT_INTERVAL, at the end, and on SIGINT or SIGTERM.

    A signal waits for the step in hand, so that the saved state is whole; a second one of the same
    kind ends the process at once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self._saved_at = 0.0
        self._step = 0
        self._signal = 0
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take over the signals, where that is allowed."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the interval."""
        self._saved_at = time.monotonic()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Save when it is time; half an accumulated gradient is no state to go on from."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._signal or time.monotonic() - self._saved_at >= CHECKPOINT_INTERVAL:
            self.save(trainer)
        if self._signal:
            raise Stopped(self._signal, f"go on with --resume {self.path.parent.parent}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save the final state."""
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`, whole or not at all."""
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def callbacks(folder: Path, monitor: str | None, ema: float, progress: bool) -> list[Callback]:
    """The callbacks of every run.

    Args:
        folder: where checkpoints go: `best.ckpt` (weights alone, by `monitor`) and `last.ckpt`.
        monitor: the metric whose maximum is best; None where nothing is held out.
        ema: decay of the exponential moving average of the weights; 0 for none. With it,
            evaluation, checkpoints' `state_dict` and the final model hold the averaged weights.
        progress: show the bar.
    """
    throughput = Throughput()
    found: list[Callback] = [throughput]
    if progress:
        found.append(Progress(throughput))
    if ema:
        found.append(EMAWeightAveraging(decay=ema))
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
    found.append(LastCheckpoint(folder))
    return found
