"""The LightningModule: SSE trained with the Matryoshka in-batch contrastive loss."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from sse_kernels.table_grad import TableGrad
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sse.errors import UserError
from sse.loss import check_dims, check_smoothing, matryoshka_loss
from sse.model import SSE
from sse.norms import check_norm
from sse.tokenizer import TextTokenizer

PUBLISHED_DIMS = (512, 256, 128, 64, 32)


class SSEModule(L.LightningModule):
    """SSE, its loss and its optimiser; the defaults are the published recipe's.

    Args:
        dim: dimension of the table and the vectors.
        norm: `dyt` (bias inside the tanh, per dimension), `dyt_scalar` (one alpha), `dyt_outside`
            (bias outside), `dyt_frozen` (stays at its start), `hardtanh`, `derf` (erf),
            `layernorm`, `rmsnorm`, `gain` (a learnt scale of each dimension alone) or `none`.
        alpha_init: first value of alpha, in the dyt family, hardtanh and derf.
        table_std: standard deviation of the table's start.
        matryoshka_dims: prefixes trained; null for 512, 256, 128, 64, 32 as far as `dim` reaches.
        matryoshka_weights: one weight a dim; null for 1 each.
        scale: inverse temperature of the cosine.
        symmetric: also train document -> query.
        label_smoothing: share of the target spread evenly over a batch's candidates, 0 to below 1.
        lr: peak learning rate. A static table wants 0.1; the usual 5e-5 barely trains it.
        norm_lr: peak learning rate of the norm's own parameters; null for the table's.
        schedule: `cosine`, `linear` or `constant` after the warmup.
        warmup: share of the steps that rise to the peak.
        adam_beta2: decay of Adam's second moment.
        adam_eps: Adam's epsilon.
        weight_decay: AdamW's decoupled decay; 0 is Adam.
        seed: seed of the table's start.
    """

    def __init__(
        self,
        dim: int = 512,
        norm: str = "dyt",
        alpha_init: float = 0.5,
        table_std: float = 1.0,
        matryoshka_dims: list[int] | None = None,
        matryoshka_weights: list[float] | None = None,
        scale: float = 20.0,
        symmetric: bool = False,
        label_smoothing: float = 0.0,
        lr: float = 0.1,
        norm_lr: float | None = None,
        schedule: str = "cosine",
        warmup: float = 0.1,
        adam_beta2: float = 0.9999,
        adam_eps: float = 1e-10,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if dim < 1:
            raise UserError(f"dim is {dim} (--model.dim): give at least 1")
        default = [d for d in PUBLISHED_DIMS if d < dim]
        self.dims = check_dims(matryoshka_dims or [dim, *default], dim)
        self.weights = _weights(self.dims, matryoshka_dims, matryoshka_weights)
        check_norm(norm)
        check_smoothing(label_smoothing)
        if schedule not in SCHEDULES:
            raise UserError(
                f"unknown schedule '{schedule}' (--model.schedule): choose one of "
                f"{', '.join(SCHEDULES)}"
            )
        if not 0 <= warmup <= 1:
            raise UserError(f"warmup is {warmup} (--model.warmup): give a share from 0 to 1")
        self._heldout: list[Tensor] = []

    def build(self, tokenizer: TextTokenizer) -> None:
        """Make the table once the vocabulary is known."""
        self.model = self.untrained(tokenizer)
        self.model.table_grad = TableGrad()

    def untrained(self, tokenizer: TextTokenizer) -> SSE:
        """The model as it stands before the first step: the same for the same seed."""
        options = self.hparams
        return SSE(
            tokenizer,
            options.dim,
            options.norm,
            options.alpha_init,
            options.table_std,
            options.seed,
        )

    def training_step(self, batch: dict[str, Any], step: int) -> Tensor:
        """Anchors, positives and negatives pooled as one bag, then the loss."""
        pairs: int = batch["pairs"]
        vectors = self.model.pool(batch["ids"], batch["offsets"])
        # Logits in float32 under any precision: 20 * cosine in bfloat16 has steps of 0.125.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            loss = matryoshka_loss(
                vectors[:pairs],
                vectors[pairs:],
                self.dims,
                self.weights,
                self.hparams.scale,
                self.hparams.symmetric,
                _text_ids(batch),
                label_smoothing=self.hparams.label_smoothing,
            )
        self._check_finite(loss)
        self.log("train/loss", loss, batch_size=pairs)
        return loss

    def _check_finite(self, loss: Tensor) -> None:
        """Stop at the first NaN. On a GPU only where a value is fetched anyway: it would wait."""
        every = 1 if loss.device.type == "cpu" else self.trainer.log_every_n_steps
        if self.global_step % every == 0 and not math.isfinite(loss.item()):
            where = f"step {self.global_step}, epoch {self.current_epoch}"
            raise UserError(
                f"the loss is {loss.item()} at {where}: "
                f"lower --model.lr ({self.hparams.lr}) or --model.scale ({self.hparams.scale})"
            )

    def validation_step(self, batch: dict[str, Any], step: int) -> None:
        """Collect the held-out pairs' vectors."""
        self._heldout.append(self.model.pool(batch["ids"], batch["offsets"]).float().cpu())

    def on_validation_epoch_end(self) -> None:
        """nDCG@10 of each held-out anchor's own positive among all held-out positives."""
        if not self._heldout:
            return
        halves = [vectors.chunk(2) for vectors in self._heldout]
        self._heldout = []
        anchors, positives = (torch.cat(side) for side in zip(*halves, strict=True))
        for dim in (self.dims[0], self.dims[-1]):
            self.log(f"val/ndcg@10_{dim}d", own_positive_ndcg(anchors[:, :dim], positives[:, :dim]))

    def configure_optimizers(self) -> dict[str, Any]:
        """Fused Adam and a schedule by step."""
        options = self.hparams
        norm_lr = options.lr if options.norm_lr is None else options.norm_lr
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr}
            for part, lr in ((self.model.embedding, options.lr), (self.model.norm, norm_lr))
        ]
        optimizer = AdamW(
            [group for group in groups if group["params"]],
            lr=options.lr,
            betas=(0.9, options.adam_beta2),
            eps=options.adam_eps,
            weight_decay=options.weight_decay,
            fused=True,
        )
        total = self.trainer.datamodule.optimizer_steps(self.trainer)
        warmup = math.ceil(options.warmup * total)
        decay = SCHEDULES[options.schedule]

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return decay((step - warmup) / max(1, total - warmup))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


SCHEDULES = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * min(1.0, share))),
    "linear": lambda share: max(0.0, 1 - share),
    "constant": lambda share: 1.0,
}


def own_positive_ndcg(anchors: Tensor, positives: Tensor) -> float:
    """Mean nDCG@10 with one relevant document a query: 1 / log2(rank + 1) within the first ten.

    Args:
        anchors: (n, d).
        positives: (n, d); row i answers anchor i. Ties rank pessimistically.
    """
    scores = torch.nn.functional.normalize(anchors) @ torch.nn.functional.normalize(positives).T
    rank = (scores >= scores.diagonal()[:, None]).sum(1).double()
    gain = torch.where(rank <= 10, 1 / torch.log2(rank + 1), 0.0)
    return float(np.mean(gain.numpy()))


def _text_ids(batch: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Ids of the queries' and the documents' texts, where the batch brings them."""
    if "text_ids" not in batch:
        return None
    text_ids: Tensor = batch["text_ids"]  # (columns, B)
    return text_ids[0], text_ids[1:].flatten()


def _weights(
    dims: tuple[int, ...], given_dims: list[int] | None, weights: list[float] | None
) -> list[float]:
    """The weights in the order of `dims`, which is sorted."""
    if weights is None:
        return [1.0] * len(dims)
    given = given_dims or list(dims)
    if len(weights) != len(given):
        raise UserError(
            f"{len(weights)} matryoshka weights for {len(given)} dims "
            f"({given}): give one weight a dim (--model.matryoshka_weights)"
        )
    by_dim = dict(zip(given, weights, strict=True))
    return [by_dim[d] for d in dims]
