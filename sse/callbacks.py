"""What a run shows and keeps while it trains: progress with pairs/s, checkpoints, EMA."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)

# A checkpoint holds the table and Adam's two moments (190 MB at 30522 x 512): about 0.3 s to write.
CHECKPOINT_INTERVAL = datetime.timedelta(minutes=5)


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


def callbacks(folder: Path, monitor: str | None, ema: float) -> list[Callback]:
    """The callbacks of every run.

    Args:
        folder: where checkpoints go: `best.ckpt` (weights alone, by `monitor`) and `last.ckpt`.
        monitor: the metric whose maximum is best; None where nothing is held out.
        ema: decay of the exponential moving average of the weights; 0 for none. With it,
            evaluation, checkpoints' `state_dict` and the final model hold the averaged weights.
    """
    throughput = Throughput()
    # Steps between updates: an update reads and writes the whole table.
    found: list[Callback] = [throughput, Progress(throughput)]
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
    found.append(
        ModelCheckpoint(
            folder,
            "last",
            train_time_interval=CHECKPOINT_INTERVAL,
            save_on_exception=True,
            enable_version_counter=False,
        )
    )
    return found
