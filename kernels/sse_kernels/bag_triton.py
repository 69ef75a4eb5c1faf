"""The Triton path: the functions of `bag_aten`, in Triton's kernels; imported on first use."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from sse_kernels import bag_kernels as kernels
from sse_kernels.bag_aten import accumulator
from sse_kernels.checks import check_offsets, check_range
from sse_kernels.plan import CHUNK, BagPlan, build_plan

INTERPRETED = not isinstance(kernels.pool_gate, triton.JITFunction)
CHECK = os.environ.get("SSE_KERNELS_CHECK") == "1"
ROWS = 16  # bags per program of the elementwise backward


def block(dim: int) -> int:
    """Columns per program: a power of two, at most 1024."""
    return int(min(max(triton.next_power_of_2(dim), 16), 1024))


def config(dim: int, itemsize: int) -> dict[str, int]:
    """Block sizes and warps for rows of `dim` elements of `itemsize` bytes.

    A thread loads 16 bytes of each of BLOCK_L rows at once, so a warp covers 512 bytes of a row. A
    fixed table instead of autotuning, which needs a device and breaks the capture of CUDA graphs.
    """
    columns = block(dim)
    warps = min(max(columns * itemsize // 512, 1), 8)
    return {"BLOCK_L": 4 if itemsize == 8 else 8, "BLOCK_D": columns, "num_warps": warps}


def line_warps(dim: int) -> int:
    """Warps for one float32 row at a time, 16 bytes per thread."""
    return max(min(block(dim) // 128, 8), 1)


def pool(weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """Means of the bags, (B, D) in weight's dtype."""
    return _pool_gate(weight, ids, offsets, None, weight.dtype, False)[0]


def forward(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`bag_aten.forward` in one kernel; x is in the accumulator's dtype.

    t is empty, since `backward` computes it again.
    """
    out = torch.promote_types(weight.dtype, alpha.dtype)
    y, x = _pool_gate(weight, ids, offsets, (alpha, beta, bias), out, keep)
    return y, x, x.new_empty(0)


def _pool_gate(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    gate: tuple[Tensor, Tensor, Tensor] | None,
    out: torch.dtype,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    if CHECK:
        check_offsets(offsets, ids.numel())
        check_range(ids, weight.shape[0])
    weight = weight.detach()
    if weight.stride(1) != 1:
        weight = weight.contiguous()
    ids, offsets = ids.contiguous(), offsets.contiguous()
    bags, dim = offsets.numel() - 1, weight.shape[1]
    acc = accumulator(out)
    y = weight.new_empty(bags, dim, dtype=out)
    x = weight.new_empty(bags if keep else 0, dim, dtype=acc)
    alpha, beta, bias = (p.contiguous() for p in gate or (y, y, y))
    if y.numel():
        sizes = config(dim, weight.element_size())
        with _device_of(weight):
            kernels.pool_gate[bags, triton.cdiv(dim, sizes["BLOCK_D"])](
                weight, ids, offsets, alpha, beta, bias, y, x,
                weight.shape[0], dim, weight.stride(0), ids.numel(),
                GATE=gate is not None, KEEP=keep, ACC=_tl(acc), **sizes,
            )  # fmt: skip
    return y, x


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
    """`bag_aten.backward` in one kernel and one sum over its programs' partial sums."""
    shares, partial = _gate_grad(dy, x, offsets, (alpha, beta, bias), table)
    return shares, *partial.sum(1).to(alpha.dtype).unbind()


def share(dy: Tensor, offsets: Tensor, table: torch.dtype) -> Tensor:
    """The gradient of each token of a bag, (B, D), as `bag_aten.share` computes it."""
    return _gate_grad(dy, dy, offsets, None, table)[0]


def _gate_grad(
    dy: Tensor,
    x: Tensor,
    offsets: Tensor,
    gate: tuple[Tensor, Tensor, Tensor] | None,
    table: torch.dtype,
) -> tuple[Tensor, Tensor]:
    dy, offsets = dy.contiguous(), offsets.contiguous()
    bags, dim = dy.shape
    acc = torch.promote_types(accumulator(table), x.dtype if gate is not None else torch.float32)
    shares = dy.new_empty(bags, dim, dtype=accumulator(table))
    programs = triton.cdiv(bags, ROWS)
    partial = dy.new_empty(3, programs if gate is not None else 0, dim, dtype=acc)
    alpha, beta, bias = (p.contiguous() for p in gate or (dy, dy, dy))
    if shares.numel():
        columns = block(dim)
        with _device_of(dy):
            kernels.gate_grad[programs, triton.cdiv(dim, columns)](
                dy, x, offsets, alpha, beta, bias, shares, partial, bags, dim,
                GATE=gate is not None, ACC=_tl(acc), ROWS=ROWS, BLOCK_D=columns,
                num_warps=line_warps(dim),
            )  # fmt: skip
    return shares, partial


def table_gradient(
    shares: Tensor,
    ids: Tensor,
    offsets: Tensor,
    plan: BagPlan | None,
    vocab: int,
    table: torch.dtype,
    atomic: bool = False,
) -> Tensor:
    """New gradient (V, D); with `atomic` by float atomics, without plan and fixed order."""
    dim = shares.shape[1]
    if not atomic:
        grad = shares.new_empty(vocab, dim, dtype=table)
        add_table(grad, shares, plan or build_plan(ids, offsets, vocab), overwrite=True)
        return grad
    acc = accumulator(table)  # bfloat16 has no atomic add, and would round at every one
    grad = shares.new_zeros(vocab, dim, dtype=acc)
    if shares.numel():
        columns = block(dim)
        with _device_of(shares):
            kernels.scatter_add[shares.shape[0], triton.cdiv(dim, columns)](
                shares, ids.contiguous(), offsets.contiguous(), grad, vocab, dim,
                ACC=_tl(acc), BLOCK_D=columns, num_warps=line_warps(dim),
            )  # fmt: skip
    return grad.to(table)


def add_table(grad: Tensor, shares: Tensor, plan: BagPlan, overwrite: bool = False) -> None:
    """Add the table's gradient to `grad` (V, D); rows without tokens are left alone.

    `overwrite` writes every row instead, rows without tokens as 0.
    """
    if grad.stride(1) != 1:
        raise ValueError(f"a gradient's rows must be contiguous, got strides {grad.stride()}")
    dim, acc = shares.shape[1], _tl(shares.dtype)
    sizes = config(dim, shares.element_size())
    blocks = triton.cdiv(dim, sizes["BLOCK_D"])
    chunks = shares.new_empty(plan.whole.numel(), dim)
    if not grad.numel():
        return
    with _device_of(shares):
        if chunks.numel():
            kernels.chunk_sum[plan.whole.numel(), blocks](
                shares, plan.rows, plan.whole, chunks, dim, ACC=acc, CHUNK=CHUNK, **sizes
            )
        kernels.row_sum[grad.shape[0], blocks](
            shares, plan.rows, plan.starts, chunks, grad, dim, grad.stride(0),
            ADD=not overwrite, ACC=acc, CHUNK=CHUNK, **sizes,
        )  # fmt: skip


def _tl(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _device_of(tensor: Tensor) -> torch.cuda.device_of:
    return torch.cuda.device_of(tensor)  # Triton launches on the current device, not the tensor's
