"""Diagnostics while a run trains: `diagnose` every N steps, in DIR/diagnostics.parquet.

- The sample is the same at every step, from all sets. A batch comes from one set, so texts' lengths
  and with them z would change from step to step for reasons that are not the model's.
- The gradients are of the run's own loss, outside the trainer's graph: the weights come out bitwise
  the same with and without. A sample smaller than a batch has fewer negatives: read their ratio.
- One set of rows before the first step, one every N optimiser steps, one at the end; of the
  weights in training, not of their moving average. A short run is measured `LEAST` times.
- A resumed run drops what lies beyond its checkpoint, so its table is the undisturbed run's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sse.common.errors import UserError
from sse.common.files import atomic_file
from sse.data.datamodule import SSEDataModule
from sse.loss.matryoshka import matryoshka_loss
from sse.text.token_batch import concatenate
from sse.training.diagnostics.diagnose import Row, Start, diagnose
from sse.training.module import SSEModule

SAMPLE_PAIRS = 256
LEAST = 10  # measurements of a run, however short
SCHEMA = pa.schema({  # the fields of `Row`, in order
    "step": pa.int64(), "side": pa.string(), "length": pa.string(), "quantity": pa.string(),
    "value": pa.float64(), "per_dim": pa.list_(pa.float32()),
})  # fmt: skip
# What the loggers show, of all lengths together; the rest would be a hundred curves.
SHOWN = {
    "z_std", "share_abs_z_above_1", "share_abs_z_above_3", "gate_slope_mean", "dy_dx_mean",
    "gradient_y_norm", "gradient_x_norm", "gradient_passed", "y_variance_top_tenth_share",
    "y_variance_participation", "x_effective_rank", "y_effective_rank", "loss", "alpha_mean",
    "beta_mean", "alpha_change_max_abs", "beta_change_max_abs", "bias_change_max_abs",
    "token_norm_growth_p50",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """n pairs as one bag: ids (N,), offsets (2 n + 1,), text_ids (2, n) of anchors, positives."""

    ids: Tensor
    offsets: Tensor
    text_ids: Tensor

    @classmethod
    def of(cls, data: SSEDataModule, pairs: int = SAMPLE_PAIRS) -> Sample:
        """Training pairs, evenly spaced over all sets, or all of them where there are few."""
        ends = np.cumsum([0, *map(len, data.train_rows)])
        picks = np.unique(np.linspace(0, ends[-1] - 1, min(pairs, ends[-1])).astype(np.int64))
        columns, text_ids = [], []
        for number, own in enumerate(data.sets):
            mine = picks[(picks >= ends[number]) & (picks < ends[number + 1])] - ends[number]
            rows = data.train_rows[number][mine]
            columns.append([column.take(rows) for column in own.tokens[:2]])
            text_ids.append(np.asarray(own.text_ids[rows, :2]))
        bag = concatenate([column for side in zip(*columns, strict=True) for column in side])
        return cls(
            torch.from_numpy(bag.ids.astype(np.int32)),
            torch.from_numpy(bag.offsets),
            torch.from_numpy(np.ascontiguousarray(np.concatenate(text_ids).T).view(np.int64)),
        )

    def to(self, device: torch.device) -> Sample:
        """On another device."""
        return Sample(self.ids.to(device), self.offsets.to(device), self.text_ids.to(device))

    def rows(self, module: SSEModule, start: Start, step: int) -> list[Row]:
        """`module` measured on it, with the run's own loss; equal texts are no negatives."""
        pairs = self.text_ids.shape[1]
        objective = module.objective

        def loss(y: Tensor) -> Tensor:
            ids = (self.text_ids[0], self.text_ids[1])
            rest = (module.dims, module.weights, objective.scales, objective.symmetric, ids)
            return matryoshka_loss(y[:pairs], y[pairs:], *rest)

        sides = {"anchor": pairs, "positive": pairs}
        return diagnose(module.model, self.ids, self.offsets, sides, loss, start, step)


class Diagnostics(Callback):
    """Measure, log and keep; on the first process only, since it needs nothing of the others.

    Args:
        path: the table, as DIR/diagnostics.parquet.
        every: the most optimiser steps between two measurements.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.rows: list[Row] = []
        self.seconds = 0.0  # spent on measuring and writing
        self._written = 0  # rows

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Note the start. A resumed run too stands there now: its checkpoint is read later."""
        if trainer.is_global_zero:
            self._start = Start.of(module.model)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before the first step; a resumed run takes over the rows up to its checkpoint."""
        if not trainer.is_global_zero:
            return
        self._sample = Sample.of(trainer.datamodule).to(module.device)
        total = trainer.datamodule.optimizer_steps(trainer)  # below 1 for a run without an end
        if total > 0:
            self.every = min(self.every, max(1, total // LEAST))
        step = trainer.global_step
        if step and self.path.exists():
            self.rows = [row for row in read_rows(self.path) if row.step <= step]
        if not step:
            self._measure(trainer, module)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Every N optimiser steps."""
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            self._measure(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """At the end."""
        if trainer.is_global_zero:
            self._measure(trainer, module)
            self._write()

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before the checkpoint is written, so that it never knows more steps than the table."""
        self._write()

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException
    ) -> None:
        """A run that diverges is one to look into."""
        self._write()

    def _measure(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        if self.rows and self.rows[-1].step >= step:
            return  # an accumulated batch, or the end of a run that is a multiple of N
        began = time.perf_counter()
        assert isinstance(module, SSEModule)
        rows = self._sample.rows(module, self._start, step)
        self.rows += rows
        drawn = (row for row in rows if row.length == "all" and row.quantity in SHOWN)
        shown = {f"diagnostics/{row.side}/{row.quantity}": row.value for row in drawn}
        for logger in trainer.loggers:
            logger.log_metrics(shown, step)
        self.seconds += time.perf_counter() - began

    def _write(self) -> None:
        if len(self.rows) > self._written:
            began = time.perf_counter()
            write_rows(self.path, self.rows)
            self._written = len(self.rows)
            self.seconds += time.perf_counter() - began


def write_rows(path: Path, rows: list[Row]) -> None:
    """The table as Parquet, whole or not at all."""
    table = pa.table([list(column) for column in zip(*rows, strict=True)], SCHEMA)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's table, in order.

    Raises:
        UserError: no such table.
    """
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is no table of diagnostics ({error}): remove it") from error
    columns = [column.to_pylist() for column in table.columns]
    return [
        Row(step, side, length, name, value, None if by is None else np.array(by, np.float32))
        for step, side, length, name, value, by in zip(*columns, strict=True)
    ]
