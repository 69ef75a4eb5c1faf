"""Eager autograd: two Functions that call a path's kernels with no dispatcher in between.

A registered op costs several times as much on a call as these do; `library.py` has the
registered ones, which torch.compile and torch.export need.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse_kernels.plan import BagPlan, build_plan
from sse_kernels.table_grad import TableGrad


class Options:
    """What a call was asked for beside its tensors."""

    __slots__ = ("atomic", "path", "plan", "table_grad")

    def __init__(
        self, path: ModuleType, plan: BagPlan | None, table_grad: TableGrad | None, atomic: bool
    ) -> None:
        self.path = path
        self.plan = plan
        self.table_grad = table_grad
        self.atomic = atomic


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
        """Pool and gate; saves the mean, not the (N, D) rows."""
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
    """`bag_mean`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, offsets: Tensor, options: Options) -> Tensor:
        """Pool."""
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
