"""The LightningModule: SSE trained with the Matryoshka in-batch contrastive loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as L
import torch
from sse_kernels.table_grad import TableGrad
from torch import Tensor

from sse.common.errors import UserError
from sse.common.ranges import check_ranges, real, whole
from sse.evaluation.retrieval_metric import RetrievalMetric, rank_own
from sse.loss.distil import check_distil
from sse.loss.matryoshka import check_prefixes
from sse.loss.objective import Objective, per_dim
from sse.model.grown_rows import start_grown_rows
from sse.model.norms import check_norm
from sse.model.static_model import StaticModel
from sse.teacher.start import Start
from sse.text.token_batch import TokenBatch
from sse.text.tokenizer import TextTokenizer
from sse.training.column_parallel import Shards
from sse.training.optimizer import check_optimizer, make_optimizer, make_schedule
from sse.training.processes import everywhere, rank, total, world

PUBLISHED_DIMS = (512, 256, 128, 64, 32)
LR, START_LR = 0.1, 0.03  # peak rates of a random table, and of one that a teacher made
SEEDS = whole(0, 2**32 - 1)


class SSEModule(L.LightningModule):
    """SSE, its loss and its optimiser.

    The defaults suit one's own pairs. The published recipe is in experiments/configs/sse_v2.yaml;
    it differs by the norm `dyt`, which learns at the table's rate there (`norm_lr` null).

    Args:
        dim: dimension of the table and the vectors.
        norm: `none`, `dyt` (bias inside the tanh, per dimension), `dyt_scalar` (one alpha),
            `dyt_outside` (bias outside), `dyt_frozen` (stays at its start), `hardtanh`,
            `layernorm`, `rmsnorm` or `gain` (a learnt scale of each dimension alone).
        alpha_init: first value of alpha, in the dyt family and hardtanh.
        table_std: standard deviation of the table's start.
        start: make the table of a teacher instead of random numbers: a transformer's or static
            model's folder, a hub name, or a model of this project to go on with.
        matryoshka_dims: prefixes trained; null for 512, 256, 128, 64, 32 as far as `dim` reaches.
        matryoshka_weights: one weight per dim; null for 1 each.
        matryoshka_scales: one `scale` per dim; null for the same at each. Small dims want less.
        scale: inverse temperature of the cosine.
        symmetric: also train document -> query.
        label_smoothing: share of the target spread evenly over a batch's candidates, 0 to below 1.
        gather: with several processes, take the documents of all as negatives; false: one's own.
        distil: `margin_mse` or `kl` adds a loss on a teacher's scores, from the columns `score`,
            `score_negative`, ... that `experiments/mine.py` writes; null for none.
        distil_weight: weight of that loss.
        distil_temperature: of `kl`.
        contrastive_weight: weight of the contrastive loss; 0 leaves it out.
        lr: peak learning rate; null for 0.1, or 0.03 with `start`. The usual 5e-5 barely trains a
            static table.
        norm_lr: peak learning rate of the norm's own parameters; null for the table's.
        schedule: `cosine`, `linear` or `constant` after the warmup.
        warmup: share of the steps that rise to the peak.
        adam_beta2: decay of Adam's second moment.
        adam_eps: Adam's epsilon.
        weight_decay: AdamW's decoupled decay; 0 is Adam.
        optimizer: `adam`, PyTorch's fused AdamW.
        seed: seed of the table's start.
    """

    def __init__(
        self,
        dim: Annotated[int, whole(1, 65_536)] = 512,
        norm: str = "none",
        alpha_init: Annotated[float, real()] = 0.5,
        table_std: Annotated[float, real(0, 1e6)] = 1.0,
        start: str | None = None,
        matryoshka_dims: list[Annotated[int, whole(1)]] | None = None,
        matryoshka_weights: list[Annotated[float, real(0)]] | None = None,
        matryoshka_scales: list[Annotated[float, real(above=0)]] | None = None,
        scale: Annotated[float, real(above=0)] = 20.0,
        symmetric: bool = False,
        label_smoothing: Annotated[float, real(0, below=1)] = 0.0,
        gather: bool = True,
        distil: str | None = None,
        distil_weight: Annotated[float, real(0)] = 1.0,
        distil_temperature: Annotated[float, real(above=0)] = 0.05,
        contrastive_weight: Annotated[float, real(0)] = 1.0,
        lr: Annotated[float, real(above=0)] | None = None,
        norm_lr: Annotated[float, real(0)] | None = 0.001,
        schedule: str = "cosine",
        warmup: Annotated[float, real(0, 1)] = 0.1,
        adam_beta2: Annotated[float, real(0, below=1)] = 0.9999,
        adam_eps: Annotated[float, real(above=0)] = 1e-10,
        weight_decay: Annotated[float, real(0)] = 0.0,
        optimizer: str = "adam",
        seed: Annotated[int, SEEDS] = 0,
    ) -> None:
        super().__init__()
        if lr is None:
            lr = START_LR if start else LR
        self.save_hyperparameters()
        check_ranges(SSEModule, self.hparams)
        default = [d for d in PUBLISHED_DIMS if d < dim]
        self.dims = check_prefixes(matryoshka_dims or [dim, *default], dim)
        listed = (self.dims, matryoshka_dims)
        ones, same = [1.0] * len(self.dims), [scale] * len(self.dims)
        self.weights = per_dim("matryoshka_weights", *listed, matryoshka_weights or ones)
        scales = per_dim("matryoshka_scales", *listed, matryoshka_scales or same)
        check_distil(distil)
        self.objective = Objective(
            self.dims,
            self.weights,
            scales,
            symmetric,
            label_smoothing,
            gather,
            contrastive_weight,
            distil,
            distil_weight,
            distil_temperature,
        )
        check_norm(norm)
        check_optimizer(optimizer, schedule)
        self._heldout: list[Tensor] = []
        self._pieces: TokenBatch | None = None
        self.validation = torch.nn.ModuleDict(
            {f"ndcg@10_{d}d": RetrievalMetric("ndcg@10") for d in (self.dims[0], self.dims[-1])}
        )
        self.shards: Shards | None = None
        self._start: Path | None = None

    @property
    def monitor(self) -> str:
        """The logged value whose maximum marks the best checkpoint."""
        return f"val/ndcg@10_{self.dims[0]}d"

    def build(
        self,
        tokenizer: TextTokenizer,
        start: Path | None = None,
        pieces: TokenBatch | None = None,
    ) -> None:
        """Make the table once the vocabulary is known.

        Args:
            tokenizer: its vocabulary gives the table's rows.
            start: the file of a `Start`; without it the rows are random.
            pieces: of the tokens that the vocabulary grew by, whose random rows come from them.
        """
        self._start, self._pieces = start, pieces
        self.model = self.untrained(tokenizer)
        self.model.table_grad = TableGrad()

    def untrained(self, tokenizer: TextTokenizer) -> StaticModel:
        """The model as it stands before the first step: the same for the same seed."""
        o = self.hparams
        if self._start is None:
            model = StaticModel(tokenizer, o.dim, o.norm, o.alpha_init, o.table_std, o.seed)
            if self._pieces is not None:
                start_grown_rows(model.embedding.weight, self._pieces, o.seed)
            return model
        start = Start.read(self._start)
        table = torch.from_numpy(start.table)
        model = StaticModel(tokenizer, o.dim, o.norm, o.alpha_init, table=table)
        if start.vectors:
            model.norm.load_vectors({k: torch.from_numpy(v) for k, v in start.vectors.items()})
        return model

    def shard(self) -> None:
        """With several processes: keep this one's columns of the model, until `whole`."""
        if world() > 1:
            self.shards = Shards(self.model)

    def whole(self) -> None:
        """Have the whole model on every process again."""
        if self.shards:
            self.shards.undo()
            self.shards = None

    def pool(self, batch: dict[str, Any]) -> Tensor:
        """Vectors of a bag, (n, D)."""
        pool = self.shards.pool if self.shards else self.model.pool
        return pool(batch["ids"], batch["offsets"], batch.get("plan"))

    def training_step(self, batch: dict[str, Any], step: int) -> Tensor:
        """Anchors, positives and negatives pooled as one bag, then the loss of the own queries."""
        pairs: int = batch["pairs"]
        vectors = self.pool(batch)
        if self.trainer.datamodule.empty_texts:
            # Such a vector may be 0, and the gradient of its direction 1e12.
            empty = batch["offsets"].diff() == 0
            vectors = torch.where(empty[:, None], vectors.detach(), vectors)
        # Logits in float32 under any precision: 20 * cosine in bfloat16 has steps of 0.125.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            columns = vectors.unflatten(0, (-1, pairs))  # (columns, B, D)
            own = own_rows(pairs, rank(), world())
            with self.trainer.profiler.profile("loss"):
                loss = self.objective(columns, own, batch.get("text_ids"), batch.get("scores"))
        self._report(loss, pairs)
        return loss

    def _report(self, loss: Tensor, pairs: int) -> None:
        """Log the batch's loss over all processes and stop at the first NaN.

        It is logged only where Lightning writes it down, since logging is not free. On a GPU a
        value is looked at only where it is fetched anyway, since looking waits for the device.
        """
        loss = total(loss.detach())
        logged = self.global_step == 0 or logs_at(self.global_step + 1, self.trainer)
        if logged:
            self.log("train/loss", loss, batch_size=pairs)
        if (logged or loss.device.type == "cpu") and not math.isfinite(loss.item()):
            where = f"step {self.global_step}, epoch {self.current_epoch}"
            raise everywhere(
                UserError(
                    f"the loss is {loss.item()} at {where}: "
                    f"lower `lr` ({self.hparams.lr}) or `scale` ({self.hparams.scale})"
                )
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Bring together the gradients that one process alone does not have."""
        if self.shards:
            self.shards.reduce()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all processes' columns."""
        if self.shards and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            self.shards.clip(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checkpoints hold the whole table."""
        if self.shards:
            self.shards.whole_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A process takes its columns."""
        if self.shards:
            self.shards.own_checkpoint(checkpoint)

    def validation_step(self, batch: dict[str, Any], step: int) -> None:
        """Collect the held-out pairs' vectors: a query is ranked against all of them."""
        self._heldout.append(self.pool(batch).float().cpu())

    def on_validation_epoch_end(self) -> None:
        """nDCG@10 of each held-out anchor's own positive among all, and the held-out loss.

        Every process has all vectors and ranks its own queries; the metric adds the parts up.
        """
        if not self._heldout:
            return
        halves = [vectors.chunk(2) for vectors in self._heldout]
        self._heldout = []
        anchors, positives = (torch.cat(side) for side in zip(*halves, strict=True))
        own = own_rows(len(anchors), rank(), world())
        for dim in dict.fromkeys((self.dims[0], self.dims[-1])):
            metric = self.validation[name := f"ndcg@10_{dim}d"]
            metric.update(*rank_own(anchors[own, :dim], positives[:, :dim], own.start))
            self.log(f"val/{name}", metric)
        losses = self.objective.by_dim(
            anchors, positives, self.trainer.datamodule.hparams.batch_size
        )
        for dim, loss in losses.items():
            self.log(f"val/loss_{dim}d", loss)
        weighted = zip(self.weights, losses.values(), strict=True)
        self.log("val/loss", sum(weight * loss for weight, loss in weighted))

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and a schedule by step."""
        options = self.hparams
        optimizer = make_optimizer(self.model, options)
        steps = self.trainer.datamodule.optimizer_steps(self.trainer)
        schedule = make_schedule(optimizer, options.schedule, options.warmup, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def logs_at(step: int, trainer: L.Trainer) -> bool:
    """Whether Lightning writes down what is logged in the step that is the `step`-th, from 1."""
    every = trainer.log_every_n_steps
    return bool(every > 0 and step % every == 0)


def own_rows(pairs: int, rank: int, world: int) -> slice:
    """The queries of a batch that a process answers for; parts differ by one at most."""
    return slice(pairs * rank // world, pairs * (rank + 1) // world)
