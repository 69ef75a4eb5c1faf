"""What a run shows and averages while it trains: pairs/s, the bar or lines, the moving average."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    ProgressBar,
    TQDMProgressBar,
)

from sse.common.terminal import clock
from sse.training.module import logs_at
from sse.training.processes import say


class Throughput(Callback):
    """Count the pairs trained on and the seconds that took, evaluation excluded.

    A resumed run goes on counting from its checkpoint's last whole step.
    """

    def __init__(self) -> None:
        self.pairs = 0
        self.seconds = 0.0
        self._last: float | None = None
        self._step = 0
        self._whole = {"pairs": 0, "seconds": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """The counts after the last whole step."""
        return self._whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`'s counts."""
        self.pairs, self.seconds = state_dict["pairs"], state_dict["seconds"]
        self._whole = state_dict

    @property
    def rate(self) -> float:
        """Pairs per second, over all processes."""
        return self.pairs / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Learn where a resumed run stands."""
        self._step = trainer.global_step

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
        if module.device.type == "cuda" and logs_at(trainer.global_step, trainer):
            torch.cuda.synchronize(module.device)  # a GPU runs behind the host
        now = time.perf_counter()
        assert self._last is not None
        self.pairs += batch["pairs"]
        self.seconds += now - self._last
        self._last = now
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._whole = {"pairs": self.pairs, "seconds": self.seconds}
        if logs_at(trainer.global_step, trainer):
            module.log("train/pairs_per_second", self.rate, batch_size=batch["pairs"])

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clock, once the device has done the last batch."""
        if self._last is not None and module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
            self.seconds += time.perf_counter() - self._last
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
            if name.startswith("val/ndcg@10_"):
                shown[name.removeprefix("val/")] = f"{float(value):.3f}"
        return shown

    def init_validation_tqdm(self) -> Any:
        """No bar for the held-out pairs: they take a fraction of a second."""
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar


class Lines(ProgressBar):
    """One line per evaluation and per minute, for an output that is no terminal."""

    def __init__(self, throughput: Throughput, every: float = 60.0) -> None:
        super().__init__()
        self.throughput, self.every = throughput, every  # seconds

    def enable(self) -> None:
        """Nothing: `say` is silent on all processes but the first."""

    def disable(self) -> None:
        """Nothing, as `enable`."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Learn how long the run is and start the clock."""
        self._first = trainer.global_step
        self._total = trainer.datamodule.optimizer_steps(trainer)
        self._began = self._said = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Print a line once a minute."""
        if time.monotonic() - self._said >= self.every:
            self._say(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print a line with the new scores."""
        if not trainer.sanity_checking:
            self._say(trainer)

    def _say(self, trainer: L.Trainer) -> None:
        step, self._said = trainer.global_step, time.monotonic()
        endless = self._total < 1
        parts = [f"step {step:,}" + ("" if endless else f" of {self._total:,}")]
        logged = trainer.callback_metrics
        if "train/loss" in logged:
            parts.append(f"loss {float(logged['train/loss']):.3f}")
        for name, value in logged.items():
            if name.startswith("val/ndcg@10_"):
                parts.append(f"nDCG@10 {float(value):.3f} ({name.removeprefix('val/ndcg@10_')})")
        parts.append(f"{self.throughput.rate:,.0f} pairs/s")
        if not endless and step > self._first:
            pace = (self._said - self._began) / (step - self._first)
            parts.append(f"{clock(pace * (self._total - step))} left")
        say(", ".join(parts))


class MovingAverage(EMAWeightAveraging):
    """Lightning's moving average, under the name that checkpoints know it by."""
