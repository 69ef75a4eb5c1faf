"""Autograd of `bag_dyt` and `bag_mean`: a Function each for eager calls, one op for compiled ones.

The Functions call a path's kernels with no dispatcher in between. `BagDyt` saves the (B, D) means,
never the (N, D) rows.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse_kernels.backends import path_of
from sse_kernels.plan import BagPlan, build_plan
from sse_kernels.table_grad import TableGrad


class Options(NamedTuple):
    """The arguments of a call beside its tensors."""

    path: ModuleType
    plan: BagPlan | None
    table_grad: TableGrad | None
    atomic: bool


class BagDyt(torch.autograd.Function):
    """`bag_dyt` with its analytic backward."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        alpha: Tensor,
        beta: Tensor,
        bias: Tensor,
        ids: Tensor,
        offsets: Tensor,
        options: Options,
    ) -> Tensor:
        """Result (B, D); the means are kept for the backward pass."""
        y, x, t = options.path.forward(weight, ids, offsets, alpha, beta, bias, True)
        ctx.save_for_backward(x, t, ids, offsets, alpha, beta, bias)
        ctx.options, ctx.weight = options, _remember(weight, options)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight, alpha, beta, bias."""
        x, t, ids, offsets, alpha, beta, bias = ctx.saved_tensors
        _, table, _ = ctx.weight
        shares, dalpha, dbeta, dbias = ctx.options.path.backward(
            dy, x, t, offsets, alpha, beta, bias, table
        )
        dweight = _table(ctx, shares, ids, offsets) if ctx.needs_input_grad[0] else None
        return dweight, dalpha, dbeta, dbias, None, None, None


class BagMean(torch.autograd.Function):
    """`bag_mean` with its backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, offsets: Tensor, options: Options) -> Tensor:
        """Means of the bags."""
        ctx.save_for_backward(ids, offsets)
        ctx.options, ctx.weight = options, _remember(weight, options)
        return options.path.pool(weight, ids, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of weight."""
        ids, offsets = ctx.saved_tensors
        shares = ctx.options.path.share(dy, offsets, ctx.weight[1])
        return _table(ctx, shares, ids, offsets), None, None, None


def _remember(weight: Tensor, options: Options) -> tuple[int, torch.dtype, Tensor | None]:
    """A backward pass needs the table's rows and dtype, and the leaf itself only to write to."""
    return weight.shape[0], weight.dtype, weight if options.table_grad is not None else None


def _table(ctx: Any, shares: Tensor, ids: Tensor, offsets: Tensor) -> Tensor | None:
    options: Options = ctx.options
    vocab, dtype, leaf = ctx.weight
    if options.table_grad is None or leaf is None:
        return options.path.table_gradient(
            shares, ids, offsets, options.plan, vocab, dtype, options.atomic
        )
    plan = options.plan or build_plan(ids, offsets, vocab)
    options.table_grad.write(leaf, shares, plan, options.path)
    return None


# One opaque op for torch.compile and torch.export, which cannot trace the sort of a backward pass.
# Eager calls do not come here: the dispatcher costs several times as much as a Function.


@torch.library.custom_op("sse_kernels::bag", mutates_args=())
def bag_op(
    weight: Tensor,
    gate: Optional[Tensor],  # noqa: UP045 -- the schema's parser knows no `Tensor | None`
    ids: Tensor,
    offsets: Tensor,
    plan: list[Tensor],
    atomic: bool,
    backend: str,
) -> Tensor:
    """`bag_dyt` with `gate`, alpha, beta and bias as (3, D); `bag_mean` without."""
    path = path_of(weight.device, backend)
    if gate is None:
        return path.pool(weight, ids, offsets)
    return path.forward(weight, ids, offsets, *gate, False)[0]


@bag_op.register_fake
def _(weight: Tensor, gate: Tensor | None, ids: Tensor, offsets: Tensor, *options: Any) -> Tensor:
    dtype = weight.dtype if gate is None else torch.promote_types(weight.dtype, gate.dtype)
    return weight.new_empty(offsets.shape[0] - 1, weight.shape[1], dtype=dtype)


@torch.library.custom_op("sse_kernels::bag_backward", mutates_args=())
def bag_backward_op(
    dy: Tensor,
    weight: Tensor,
    gate: Optional[Tensor],  # noqa: UP045
    ids: Tensor,
    offsets: Tensor,
    plan: list[Tensor],
    atomic: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of weight (V, D) and gate (3, D); computes the mean again rather than keep it."""
    path, dgate = path_of(dy.device, backend), dy.new_empty(0)
    if gate is None:
        shares = path.share(dy, offsets, weight.dtype)
    else:
        _, x, t = path.forward(weight, ids, offsets, *gate, True)
        shares, *parts = path.backward(dy, x, t, offsets, *gate, weight.dtype)
        dgate = torch.stack(parts)
    batch = BagPlan(*plan) if plan else None
    vocab, dtype = weight.shape[0], weight.dtype
    return path.table_gradient(shares, ids, offsets, batch, vocab, dtype, atomic), dgate


@bag_backward_op.register_fake
def _(dy: Tensor, weight: Tensor, gate: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    dgate = dy.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return weight.new_empty(weight.shape), dgate


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, gate, ids, offsets, plan, *ctx.options = inputs
    ctx.save_for_backward(weight, gate, ids, offsets, *plan)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    weight, gate, ids, offsets, *plan = ctx.saved_tensors
    dweight, dgate = bag_backward_op(dy, weight, gate, ids, offsets, plan, *ctx.options)
    return dweight, None if gate is None else dgate, None, None, [None] * len(plan), None, None


bag_op.register_autograd(_gradients, setup_context=_keep)
