"""The same ops registered with torch.library, for torch.compile, torch.export and subclasses.

Four ops, `sse_kernels::{bag_dyt, bag_mean}` and their backwards, functional and with fakes. A plan
travels as its three tensors, all given or none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sse_kernels import bag_aten as host
from sse_kernels.backends import Backend, path_of
from sse_kernels.plan import BagPlan

_PLAN = "Tensor? rows, Tensor? starts, Tensor? whole, bool atomic, str backend"
_GATE = "Tensor alpha, Tensor beta, Tensor bias"
_TABLE = "SymInt vocab, ScalarType table"
Given = tuple[Tensor | None, Tensor | None, Tensor | None]


def bag_dyt(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    plan: BagPlan | None,
    atomic: bool,
    backend: Backend,
) -> Tensor:
    """`ops.bag_dyt` as a registered op."""
    args = (weight, ids, offsets, alpha, beta, bias, *_parts(plan), atomic, backend)
    return torch.ops.sse_kernels.bag_dyt(*args)[0]


def bag_mean(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    plan: BagPlan | None,
    atomic: bool,
    backend: Backend,
) -> Tensor:
    """`ops.bag_mean` as a registered op."""
    return torch.ops.sse_kernels.bag_mean(weight, ids, offsets, *_parts(plan), atomic, backend)


def _parts(plan: BagPlan | None) -> Given:
    return (None, None, None) if plan is None else (plan.rows, plan.starts, plan.whole)


def _whole(given: Given) -> BagPlan | None:
    rows, starts, whole = given
    if rows is None or starts is None or whole is None:
        return None
    return BagPlan(rows, starts, whole)


def _dyt(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    path = path_of(weight.device, rest[-1])
    return path.forward(weight, ids, offsets, alpha, beta, bias, True)


def _dyt_fake(
    weight: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (offsets.shape[0] - 1, weight.shape[1])
    out = torch.promote_types(weight.dtype, alpha.dtype)
    acc = host.accumulator(out)
    if path_of(weight.device, rest[-1]) is host:
        kept = out if weight.dtype == alpha.dtype else acc
        mean, t = weight.dtype, weight.new_empty(shape, dtype=kept)
    else:
        mean, t = acc, weight.new_empty(0, dtype=acc)
    return weight.new_empty(shape, dtype=out), weight.new_empty(shape, dtype=mean), t


def _dyt_backward(
    dy: Tensor,
    x: Tensor,
    t: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    vocab: int,
    table: torch.dtype,
    rows: Tensor | None,
    starts: Tensor | None,
    whole: Tensor | None,
    atomic: bool,
    backend: Backend,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    path = path_of(dy.device, backend)
    shares, *gate = path.backward(dy, x, t, offsets, alpha, beta, bias, table)
    plan = _whole((rows, starts, whole))
    dweight = path.table_gradient(shares, ids, offsets, plan, vocab, table, atomic)
    # Triton's three are views of one tensor, and a registered op's results may share no memory
    dalpha, dbeta, dbias = (g.clone() for g in gate)
    return dweight, dalpha, dbeta, dbias


def _dyt_backward_fake(
    dy: Tensor, x: Tensor, t: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vocab, table = rest[2], rest[3]
    dweight = dy.new_empty((vocab, dy.shape[1]), dtype=table)
    return dweight, *(alpha.new_empty(alpha.shape) for _ in range(3))  # type: ignore[return-value]


def _mean(weight: Tensor, ids: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
    return path_of(weight.device, rest[-1]).pool(weight, ids, offsets)


def _mean_fake(weight: Tensor, ids: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
    return weight.new_empty((offsets.shape[0] - 1, weight.shape[1]))


def _mean_backward(
    dy: Tensor,
    ids: Tensor,
    offsets: Tensor,
    vocab: int,
    table: torch.dtype,
    rows: Tensor | None,
    starts: Tensor | None,
    whole: Tensor | None,
    atomic: bool,
    backend: Backend,
) -> Tensor:
    path = path_of(dy.device, backend)
    shares = path.share(dy, offsets, table)
    plan = _whole((rows, starts, whole))
    return path.table_gradient(shares, ids, offsets, plan, vocab, table, atomic)


def _mean_backward_fake(
    dy: Tensor, ids: Tensor, offsets: Tensor, vocab: int, table: torch.dtype, *rest: Any
) -> Tensor:
    return dy.new_empty((vocab, dy.shape[1]), dtype=table)


def _save_dyt(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, ids, offsets, alpha, beta, bias, *rest = inputs
    _, x, t = output
    ctx.mark_non_differentiable(x, t)
    ctx.save_for_backward(x, t, ids, offsets, alpha, beta, bias, *rest[:3])
    ctx.rest = (weight.shape[0], weight.dtype, *rest[3:])


def _grad_dyt(ctx: Any, dy: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor | None, ...]:
    x, t, ids, offsets, alpha, beta, bias, *plan = ctx.saved_tensors
    vocab, table, atomic, backend = ctx.rest
    dweight, dalpha, dbeta, dbias = torch.ops.sse_kernels.bag_dyt_backward(
        dy, x, t, ids, offsets, alpha, beta, bias, vocab, table, *plan, atomic, backend
    )
    return (dweight, None, None, dalpha, dbeta, dbias, *(None,) * 5)


def _save_mean(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, ids, offsets, *rest = inputs
    ctx.save_for_backward(ids, offsets, *rest[:3])
    ctx.rest = (weight.shape[0], weight.dtype, *rest[3:])


def _grad_mean(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ids, offsets, *plan = ctx.saved_tensors
    vocab, table, atomic, backend = ctx.rest
    dweight = torch.ops.sse_kernels.bag_mean_backward(
        dy, ids, offsets, vocab, table, *plan, atomic, backend
    )
    return (dweight, *(None,) * 7)


def _register() -> None:
    bags = "Tensor ids, Tensor offsets"
    ops = {
        "bag_dyt": (f"Tensor weight, {bags}, {_GATE}, {_PLAN}", 3, _dyt, _dyt_fake),
        "bag_dyt_backward": (
            f"Tensor dy, Tensor x, Tensor t, {bags}, {_GATE}, {_TABLE}, {_PLAN}",
            4,
            _dyt_backward,
            _dyt_backward_fake,
        ),
        "bag_mean": (f"Tensor weight, {bags}, {_PLAN}", 1, _mean, _mean_fake),
        "bag_mean_backward": (
            f"Tensor dy, {bags}, {_TABLE}, {_PLAN}",
            1,
            _mean_backward,
            _mean_backward_fake,
        ),
    }
    for name, (args, results, run, fake) in ops.items():
        tensors = ", ".join(["Tensor"] * results)
        schema = f"({args}) -> {tensors if results == 1 else f'({tensors})'}"
        torch.library.define(f"sse_kernels::{name}", schema)
        torch.library.impl(f"sse_kernels::{name}", ("cpu", "cuda"), run)
        torch.library.register_fake(f"sse_kernels::{name}", fake)
    for name, grad, save in (("dyt", _grad_dyt, _save_dyt), ("mean", _grad_mean, _save_mean)):
        torch.library.register_autograd(f"sse_kernels::bag_{name}", grad, setup_context=save)


_register()
