"""Training over N processes: each holds D / N columns of the table, and no gradient is averaged.

Mean and DyT treat every column for itself, so a process pools all N * B pairs of the global batch
over its own columns; only the vectors cross:

    forward     columns (n, D / N) of every process -> all columns (n, D)      all_gather
    loss        the process's own B queries against the documents of all
    backward    dloss_r / dvectors (n, D), summed over r for one's own columns     all_to_all

- The gradient of the columns is whole at once: no all-reduce of V x D, and the persistent gradient
  buffer of the kernels works as on one process.
- Adam's work and state are divided by N too; checkpoints hold the whole table, as from one process.
- LayerNorm and RMSNorm need whole rows: they follow the gather, with parameters on every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from sse_kernels.plan import BagPlan
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sse.common.errors import UserError
from sse.model.norms import Gain, Gate, NoNorm
from sse.model.static_model import StaticModel
from sse.training.processes import rank, total, world

MOMENTS = ("exp_avg", "exp_avg_sq")


class Shards:
    """Cuts a model's column-wise parameters down to this process's columns, and joins them again.

    Args:
        model: the whole model; it is cut in place.
        prefix: how the parameters' names begin in the module that is checkpointed.

    Raises:
        UserError: more processes than columns.
    """

    def __init__(self, model: StaticModel, prefix: str = "model.") -> None:
        if model.dim < world():
            raise UserError(
                f"`dim` is {model.dim}, over {world()} processes: give each at least one dimension"
            )
        self.model, self.prefix = model, prefix
        self.names = ["embedding.weight"]
        self.by_column = isinstance(model.norm, (Gate, Gain, NoNorm))
        if self.by_column:
            # A scalar that all columns share stays on every process.
            vectors = ((n, p) for n, p in model.norm.named_parameters() if p.dim())
            self.names += [f"norm.{name}" for name, _ in vectors]
        width = -(-model.dim // world())
        self.columns = slice(rank() * width, min(model.dim, (rank() + 1) * width))
        self._replace(self.cut)

    def cut(self, whole: Tensor) -> Tensor:
        """Keep the own columns, (..., D) -> (..., width)."""
        return whole[..., self.columns].clone(memory_format=torch.contiguous_format)

    def join(self, shard: Tensor) -> Tensor:
        """All columns, on every process."""
        rows = shard.detach().reshape(-1, shard.shape[-1])
        whole = gather_columns(rows, self.model.dim).to(shard.dtype)
        return whole.reshape(*shard.shape[:-1], self.model.dim)

    def undo(self) -> None:
        """Make the model whole again, on every process."""
        self._replace(self.join)

    def _replace(self, change: Any) -> None:
        for name in self.names:
            owner = self.model.get_submodule(name.rpartition(".")[0])
            old = getattr(owner, leaf := name.rpartition(".")[2])
            setattr(owner, leaf, nn.Parameter(change(old.data), old.requires_grad))

    def replicated(self) -> Iterator[nn.Parameter]:
        """The parameters that every process has whole."""
        return (p for name, p in self.model.named_parameters() if name not in self.names)

    def pool(self, ids: Tensor, offsets: Tensor, plan: BagPlan | None = None) -> Tensor:
        """Whole vectors of a bag that all processes have: (n, D)."""
        if self.by_column:
            return gather_columns(self.model.pool(ids, offsets, plan), self.model.dim)
        means = gather_columns(self.model.mean(ids, offsets, plan), self.model.dim)
        pooled: Tensor = self.model.norm(means)
        return pooled

    def reduce(self) -> None:
        """Sum the gradients of what every process has: each knows its queries' or columns' part."""
        for parameter in self.replicated():
            if parameter.grad is not None:
                parameter.grad.copy_(total(parameter.grad))

    def clip(self, limit: float) -> None:
        """Scale all gradients down to a norm of `limit` over all columns.

        torch.nn.utils.clip_grad_norm_ would take each process's columns for the whole.
        """
        own = {id(p) for p in self.replicated()}
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        square = gradients[0].new_zeros((), dtype=wide)
        for parameter in self.model.parameters():
            # What every process has counts once.
            if parameter.grad is not None and (id(parameter) not in own or rank() == 0):
                square += parameter.grad.to(wide).square().sum()
        factor = (limit / (total(square).sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)

    def whole_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put whole tensors in place of the shards, so that any number of processes can load it."""
        if states := checkpoint.get("optimizer_states"):
            # The optimiser hands out its own dicts: change copies.
            checkpoint["optimizer_states"] = [
                state | {"state": {i: dict(values) for i, values in state["state"].items()}}
                for state in states
            ]
        for holder, key in self._tensors(checkpoint):
            holder[key] = self.join(holder[key])

    def own_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The opposite: keep this process's columns."""
        for holder, key in self._tensors(checkpoint):
            holder[key] = self.cut(holder[key])

    def _tensors(self, checkpoint: dict[str, Any]) -> Iterator[tuple[dict[Any, Any], Any]]:
        """Where a checkpoint holds tensors by column: weights, averaged weights, Adam's moments."""
        for part in ("state_dict", "current_model_state"):
            if part in checkpoint:
                yield from ((checkpoint[part], self.prefix + name) for name in self.names)
        learnt = [name for name, p in self.model.named_parameters() if p.requires_grad]
        numbers = [i for i, name in enumerate(learnt) if name in self.names]
        for state in checkpoint.get("optimizer_states", []):
            for number in numbers:
                values = state["state"].get(number, {})
                yield from ((values, key) for key in MOMENTS if key in values)


def gather_columns(columns: Tensor, dim: int) -> Tensor:
    """Columns (n, width) of every process, side by side: (n, dim), with its gradient."""
    return _GatherColumns.apply(columns, dim)


class _GatherColumns(torch.autograd.Function):
    """Processes hold ceil(dim / N) columns each, the last ones fewer: they travel padded."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, dim: int) -> Tensor:
        """All-gather."""
        ctx.own, ctx.width = columns.shape[1], -(-dim // world())
        # Not every transport knows 16-bit numbers; the loss wants 32 bits anyway.
        sent = columns.to(torch.promote_types(columns.dtype, torch.float32))
        ctx.dtype = columns.dtype
        sent = nn.functional.pad(sent, (0, ctx.width - ctx.own)).contiguous()
        parts = list(sent.new_empty(world(), *sent.shape).unbind())
        dist.all_gather(parts, sent)
        return torch.cat(parts, 1)[:, :dim]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sum over the processes, in their order, of the gradients of one's own columns."""
        n = len(grad)
        padded = nn.functional.pad(grad, (0, ctx.width * world() - grad.shape[1]))
        sent = padded.view(n, world(), ctx.width).transpose(0, 1).contiguous()  # (N, n, width)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        return received.sum(0)[:, : ctx.own].to(ctx.dtype), None
