"""Launches of the contrastive loss's kernels; `op.py` imports it on first use."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from sse_kernels.bag_aten import accumulator
from sse_kernels.bag_triton import _device_of, _tl
from sse_kernels.contrastive import tiles_kernels as kernels

INTERPRETED = not isinstance(kernels.contrastive_lse, triton.JITFunction)
PROGRAMS = 512  # wanted of the forward kernel: a few for each multiprocessor
GROUP = 512  # columns whose gradient a program holds in registers
# Tile sizes, warps and stages of `contrastive_lse` and of `contrastive_grad`.
FORWARD = {"BM": 64, "BN": 64, "BD": 32, "num_warps": 4, "num_stages": 2}
BACKWARD = {"BM": 32, "BN": 32, "BD": 32, "num_warps": 8, "num_stages": 2}
NORM_FLOOR = 1e-24  # squared: F.normalize's 1e-12, below which no gradient flows


class Side(NamedTuple):
    """The queries, or the documents, with the norms of each row's prefixes.

    x (n, D); inverse (K, n) one over the norm of each prefix, the queries' times the scale;
    flow (K, n) one over the squared norm, 0 below the floor; ids (3, n) or empty.
    """

    x: Tensor
    inverse: Tensor
    flow: Tensor
    ids: Tensor


def side(x: Tensor, bounds: tuple[int, ...], scale: float, ids: Tensor | None) -> Side:
    """Norms of the prefixes, in the accumulator's dtype."""
    x = x.detach()
    if x.stride(1) != 1:
        x = x.contiguous()
    acc = accumulator(x.dtype)
    pairs = zip(bounds, bounds[1:], strict=False)
    squares = torch.stack([x[:, a:b].to(acc).square().sum(1) for a, b in pairs]).cumsum(0)
    inverse = squares.clamp_min(NORM_FLOOR).rsqrt() * scale
    flow = torch.where(squares > NORM_FLOOR, squares.reciprocal(), 0)
    lines = ids.contiguous() if ids is not None else x.new_empty(0, dtype=torch.int64)
    return Side(x, inverse, flow, lines)


class Softmax(NamedTuple):
    """Of each row and dim, (K, n): log-sum-exp, the own logit, the mean logit; 1 / count, (n,)."""

    lse: Tensor
    own: Tensor
    mean: Tensor | None
    share: Tensor | None


def softmax(
    x: Side,
    y: Side,
    edges: Tensor,
    bounds: tuple[int, ...],
    shift: int,
    smooth: bool,
    precision: str,
) -> Softmax:
    """Each row of x over all rows of y that count; row i's own is y's row i + shift."""
    rows, columns, k = len(x.x), len(y.x), len(bounds) - 1
    acc = x.inverse.dtype
    tiles = triton.cdiv(columns, FORWARD["BN"])
    parts = min(max(PROGRAMS // triton.cdiv(rows, FORWARD["BM"]), 1), tiles)
    span = triton.cdiv(tiles, parts) * FORWARD["BN"]
    parts = triton.cdiv(columns, span)
    lse, own, total = (x.x.new_empty(parts, k, rows, dtype=acc) for _ in range(3))
    count = x.x.new_empty(parts, rows if smooth else 0, dtype=torch.int32)
    with _device_of(x.x):
        kernels.contrastive_lse[triton.cdiv(rows, FORWARD["BM"]), parts](
            x.x, y.x, edges, x.inverse, y.inverse, x.ids, y.ids, lse, own, total, count,
            rows, columns, span, x.x.stride(0), y.x.stride(0), shift,
            K=k, KP=triton.next_power_of_2(k), WHOLE=whole(bounds, FORWARD["BD"]),
            MASK=x.ids.numel() > 0, SMOOTH=smooth, ACC=_tl(acc), PRECISION=precision,
            UPCAST=_upcast(x.x), **FORWARD,
        )  # fmt: skip
    share = count.sum(0).to(acc).reciprocal() if smooth else None
    mean = None if share is None else total.sum(0) * share
    return Softmax(torch.logsumexp(lse, 0), own.sum(0), mean, share)


class Target(NamedTuple):
    """Log-sum-exps of both sides, and what smoothing spreads to each row; None: there is none."""

    x: Tensor | None
    y: Tensor | None
    spread_x: Tensor | None
    spread_y: Tensor | None
    hit: float


def gradient(
    x: Side,
    y: Side,
    target: Target,
    weights: Tensor,
    share: Tensor,
    edges: Tensor,
    bounds: tuple[int, ...],
    shift: int,
    precision: str,
) -> Tensor:
    """dloss/dx, (n, D) in x's dtype; `weights` (K,) and their common factor `share` (scalar) in
    the accumulator's.
    """
    rows, columns, k = len(x.x), len(y.x), len(bounds) - 1
    grad = torch.empty_like(x.x, memory_format=torch.contiguous_format)
    grad[:, bounds[-1] :] = 0
    sides = [x.inverse if t is None else t for t in target[:4]]  # None: the kernel reads nothing
    for first in range(0, bounds[-1], GROUP):
        cut = chunks(bounds, BACKWARD["BD"], first, first + GROUP)
        with _device_of(x.x):
            kernels.contrastive_grad[(triton.cdiv(rows, BACKWARD["BM"]),)](
                x.x, y.x, edges, weights, share, x.inverse, y.inverse, x.flow, *sides, x.ids, y.ids,
                grad, rows, columns, x.x.stride(0), y.x.stride(0), grad.stride(0), shift,
                CHUNKS=cut, K=k, KP=triton.next_power_of_2(k),
                WHOLE=whole(bounds, BACKWARD["BD"]), N_CHUNKS=len(cut), OF_X=target.x is not None,
                OF_Y=target.y is not None, HIT=target.hit, MASK=x.ids.numel() > 0,
                SMOOTH=target.spread_x is not None, ACC=_tl(x.inverse.dtype), PRECISION=precision,
                UPCAST=_upcast(x.x), **BACKWARD,
            )  # fmt: skip
    return grad


def _upcast(x: Tensor) -> bool:
    return INTERPRETED and x.dtype == torch.bfloat16


def whole(bounds: tuple[int, ...], width: int) -> bool:
    """Whether every block is whole chunks of `width` columns, so that no load needs a mask."""
    return all(bound % width == 0 for bound in bounds)


def chunks(
    bounds: tuple[int, ...], width: int, start: int, stop: int
) -> tuple[tuple[int, int, int], ...]:
    """The blocks between two columns in pieces, as `contrastive_grad` takes them."""
    return tuple(
        (c, bounds[k + 1], k)
        for k in range(len(bounds) - 1)
        for c in range(bounds[k], bounds[k + 1], width)
        if start <= c < stop
    )
