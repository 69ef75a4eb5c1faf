"""The path without Triton: ATen's kernels in the order that is fastest on a CPU, for any device.

- forward: `embedding_bag` (already at the memory's limit), then the gate in place on (B, D);
- the table's gradient: an `embedding_bag` sum over the transposed batch (`plan.py`), which writes
  each row once, in a fixed order, rows without tokens as 0. ATen's own dense backward zero-fills
  V x D and adds token by token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sse_kernels.checks import check_offsets, check_range
from sse_kernels.plan import BagPlan, build_plan

MEAN, SUM = 1, 0  # embedding_bag's modes
STRIP = 4096  # rows added at a time: 8 MB at D = 512, which the last cache holds


def pool(weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """Means of the bags, (B, D) in weight's dtype; IndexError, ValueError for bad ids, offsets."""
    # ATen does not look at the last offset, and finds descending ones only with several threads.
    if offsets.is_cpu and (
        int(offsets[-1]) != ids.numel() or bool((offsets[1:] < offsets[:-1]).any())
    ):
        check_offsets(offsets, ids.numel())
    weight, kind = weight.detach(), weight.dtype
    if kind == torch.float16 and weight.is_cpu and ids.numel():
        # ATen sums float16 in float16 there: 5,000 tokens of 100 would be infinite.
        check_range(ids, weight.shape[0])
        rows, ids = ids.unique(return_inverse=True)
        weight = weight[rows].float()
    try:
        return torch.embedding_bag(weight, ids, offsets, False, MEAN, include_last_offset=True)[
            0
        ].to(kind)
    except RuntimeError:  # ATen's message names no table and no way out
        check_offsets(offsets, ids.numel())
        check_range(ids, weight.shape[0])
        raise


def forward(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool and gate: y = beta * t with t = tanh(alpha * x + bias), and x, t; all (B, D).

    Unless `keep` (for the backward pass), t may share y's memory.
    """
    x = pool(weight, ids, offsets)
    if x.dtype != alpha.dtype:
        out = torch.promote_types(x.dtype, alpha.dtype)
        acc = accumulator(out)
        alpha, beta, bias = alpha.to(acc), beta.to(acc), bias.to(acc)
        t = torch.addcmul(bias, x.to(acc), alpha).tanh_()
        return (t * beta).to(out), x, t
    if x.dtype in (torch.float32, torch.float64):
        # Two roundings, not addcmul's one: a Dense(diag(alpha), bias) module then gives the same
        # bits, so that a model exported to native modules equals this op exactly.
        t = torch.mul(x, alpha).add_(bias).tanh_()
    else:
        # In 16 bits each step rounds, as in eager torch: converting to 32 and back takes twice as
        # long.
        t = torch.addcmul(bias, x, alpha).tanh_()
    return (t * beta if keep else t.mul_(beta)), x, t


def backward(
    dy: Tensor,
    x: Tensor,
    t: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    table: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each token's gradient (B, D), as `share` has it; dalpha, dbeta, dbias (D,) in alpha's dtype.

    dz = dy * beta / cosh^2(z) with z = alpha x + bias, and 1 / cosh^2(z) = 4 e / (1 + e)^2 with
    e = exp(-2 |z|): without cancellation or overflow. ATen's exp gives a number the same bits
    wherever its threads cut a tensor, which its cosh does not.
    """
    acc = accumulator(torch.promote_types(x.dtype, alpha.dtype))
    dy, x, scale = dy.to(acc), x.to(acc), alpha.to(acc)
    e = torch.addcmul(bias.to(acc), x, scale).abs_().mul_(-2).exp_()
    dz = (dy * (4 * beta.to(acc))).mul_(e)
    dz.div_(e.add_(1)).div_(e)
    product = torch.mul(dy, t, out=e)  # done with e: its memory is warm
    dbeta, dbias = product.sum(0), dz.sum(0)
    dalpha = torch.mul(dz, x, out=product).sum(0)
    to = alpha.dtype
    return share(dz.mul_(scale), offsets, table), dalpha.to(to), dbeta.to(to), dbias.to(to)


def share(dx: Tensor, offsets: Tensor, table: torch.dtype) -> Tensor:
    """The gradient of each token of a bag, dx / max(length, 1), in the accumulator's dtype.

    Shares in the table's 16 bits would halve the reads, but bfloat16's rounding of them grows where
    a row's sum cancels, and float16 loses small gradients to underflow.
    """
    acc = accumulator(table)
    return dx.to(acc) / offsets.diff().clamp_(min=1).to(acc).unsqueeze(1)


def table_gradient(
    shares: Tensor,
    ids: Tensor,
    offsets: Tensor,
    plan: BagPlan | None,
    vocab: int,
    table: torch.dtype,
    atomic: bool = False,
) -> Tensor:
    """New gradient (V, D): row v is the sum of shares over the bags of token v.

    `atomic` belongs to the Triton path: here a fixed order costs nothing.
    """
    if ids.numel() and shares.dtype == torch.float64 and shares.device.type == "cpu":
        # ATen has no fast float64 embedding_bag: here its own backward is the faster of the two.
        lengths = offsets.diff()
        bags = torch.arange(lengths.numel(), dtype=ids.dtype)
        of = torch.repeat_interleave(bags, lengths, output_size=ids.numel())
        none = ids.new_empty(0)
        return torch.ops.aten._embedding_bag_dense_backward(
            shares, ids, of, lengths.to(ids.dtype), none, vocab, False, SUM, None
        )
    return sum_table(shares, plan or build_plan(ids, offsets, vocab), table)


def sum_table(shares: Tensor, plan: BagPlan, table: torch.dtype) -> Tensor:
    """Sum the shares of each row of the table; a new (V, D), rows without tokens 0."""
    if plan.rows.numel() == 0:
        return shares.new_zeros(plan.starts.numel() - 1, shares.shape[1], dtype=table)
    if shares.dtype == table:
        return _sum_rows(shares, plan.rows, plan.starts)
    # A 16-bit table, a strip of rows at a time: its sums in 32 bits need not reach the memory.
    if 4 * int((plan.starts.diff() > 0).sum()) < plan.starts.numel():
        grad = shares.new_zeros(plan.starts.numel() - 1, shares.shape[1], dtype=table)
        add_table(grad, shares, plan, replace=True)
        return grad
    grad = shares.new_empty(plan.starts.numel() - 1, shares.shape[1], dtype=table)
    for low in range(0, grad.shape[0], STRIP):
        part = plan.starts[low : low + STRIP + 1]
        begin, end = int(part[0]), int(part[-1])
        rows = _sum_rows(shares, plan.rows[begin:end], part - begin) if end > begin else 0
        grad[low : low + STRIP] = rows
    return grad


def add_table(grad: Tensor, shares: Tensor, plan: BagPlan, replace: bool = False) -> None:
    """Add the table's gradient to `grad` (V, D), a strip of rows that have tokens at a time.

    `replace` writes those rows instead, and leaves the others alone all the same.
    """
    lengths = plan.starts.diff()
    hit = lengths.nonzero().squeeze(1)  # (U,) int64
    edges = torch.cat([plan.starts[:-1][hit], plan.starts[-1:]])
    for low in range(0, hit.numel(), STRIP):
        at = hit[low : low + STRIP]
        part = edges[low : low + at.numel() + 1]
        begin, end = int(part[0]), int(part[-1])
        rows = _sum_rows(shares, plan.rows[begin:end], part - begin).to(grad.dtype)
        if replace:
            grad.index_copy_(0, at, rows)
        else:
            grad.index_add_(0, at, rows)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sum_rows(values: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sum values[rows[starts_i : starts_{i+1}]] for each i, in order."""
    return torch.embedding_bag(values, rows, starts, False, SUM, include_last_offset=True)[0]
