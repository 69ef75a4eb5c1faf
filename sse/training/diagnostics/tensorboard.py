"""What TensorBoard shows of a run, in groups that stand in the order of their worth.

| group | shows |
|---|---|
| 1 loss | of training; of the held-out pairs, whole and by dimension |
| 2 quality | nDCG@10 of the held-out pairs while the model trains, and all scores after it |
| 3 speed | pairs per second, epochs |
| 4 learning rate | of the table and of the norm |
| 5 diagnostics | saturation, gradients, ranks |

Beside the curves stand a text about data and options, and the options as hyper-parameters of the
final score. metrics.csv has the same values under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from sse.evaluation.metrics import metric_label
from sse.evaluation.results import NO_DIM, Result
from sse.training.module import SSEModule, logs_at

FINAL = "ndcg@10"
PARTS = ("table", "norm")  # the optimiser's groups of parameters
GROUPS = {
    "train/loss": "1 loss/training, sum over dims",
    "train/loss_per_dim": "1 loss/training, nats per dimension",
    "val/loss": "1 loss/held out, sum over dims",
    "val/loss_": "1 loss/held out, nats, ",
    "val/ndcg@10_": "2 quality/held out while training, nDCG@10, ",
    "train/pairs_per_second": "3 speed/pairs per second",
    "epoch": "3 speed/epoch",
    "lr/": "4 learning rate/",
    "diagnostics/": "5 diagnostics/",
}
LOSS = """The loss of one dimension d is the cross-entropy of the own document among the batch's,
with the vectors cut to their first d numbers. It is in nats: 0 is perfect, and ln(n) is chance
among n documents, {chance:.2f} for a batch of {batch:,}. Training minimises the weighted sum over
the dimensions {dims}; "nats per dimension" is that sum divided by the sum of the weights."""


class Board(TensorBoardLogger):
    """Lightning's logger with the groups above; hyper-parameters wait for their score."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder, "tensorboard", version="", default_hp_metric=False)
        self.options: dict[str, Any] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars under the names of their groups."""
        super().log_metrics({grouped(name): value for name, value in metrics.items()}, step)

    def log_hyperparams(self, params: Any, *rest: Any, **more: Any) -> None:
        """Keep the options until `finish`: TensorBoard shows them beside a score only."""
        self.options = dict(vars(params) if hasattr(params, "__dict__") else params)

    def finish(self, results: Mapping[str, Result], step: int) -> None:
        """Write the final scores of all systems, and the options with those of the model."""
        scores = {
            f"2 quality/{system}, {metric_label(FINAL)}, {name}, {dim or 'no'} dims": row.values[
                FINAL
            ]
            for system, result in results.items()
            for name, by_dim in result.scores.items()
            for dim, row in by_dim.items()
            if dim in (NO_DIM, result.dims[0], result.dims[-1])
        }
        super().log_metrics(scores, step)
        own = {
            name: value for name, value in scores.items() if name.startswith("2 quality/trained")
        }
        if own:
            super().log_hyperparams(self.options, own)
        self.save()

    def about(self, text: str) -> None:
        """Write the panel of text."""
        self.experiment.add_text("about", text)

    def project(self, vectors: torch.Tensor, texts: Sequence[str]) -> None:
        """Write vectors (n, D) and their texts for the projector."""
        labels = [" ".join(text.split())[:80] or "(empty)" for text in texts]
        self.experiment.add_embedding(vectors, labels, tag="held-out documents")


class Watch(Callback):
    """Log the learning rates, and the training's loss in nats per dimension."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Where Lightning writes values down."""
        if not logs_at(trainer.global_step, trainer):
            return
        assert isinstance(module, SSEModule)
        size = batch["pairs"]
        for name, group in zip(PARTS, trainer.optimizers[0].param_groups, strict=False):
            module.log(f"lr/{name}", float(group["lr"]), batch_size=size)
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None:
            module.log("train/loss_per_dim", loss / sum(module.weights), batch_size=size)


def grouped(name: str) -> str:
    """The name with its group in TensorBoard.

    >>> grouped("val/ndcg@10_512d")
    '2 quality/held out while training, nDCG@10, 512d'
    """
    if name in GROUPS:
        return GROUPS[name]
    for start, group in GROUPS.items():
        if start[-1] in "/_" and name.startswith(start):
            return group + name.removeprefix(start)
    return name


def account(reports: Mapping[str, Sequence[str]], options: Mapping[str, Any], dims: Any,
            batch: int) -> str:  # fmt: skip
    """Data, options and what the loss means, in Markdown."""
    data = [f"- **{name}**: {'; '.join(lines)}" for name, lines in reports.items()]
    rows = [f"| {name} | {value} |" for name, value in options.items() if value != "None"]
    loss = LOSS.format(chance=math.log(batch), batch=batch, dims=", ".join(map(str, dims)))
    parts = ["## Data", *data, "## Loss", loss, "## Options", "| option | value |\n|---|---|"]
    return "\n\n".join(parts) + "\n" + "\n".join(rows)


def board_of(trainer: L.Trainer) -> Board | None:
    """The run's board, unless --trainer.logger names other loggers."""
    return next((logger for logger in trainer.loggers if isinstance(logger, Board)), None)
