"""Launches of `bf16_kernels`: the functions of `tiles`, same meaning.

Vectors of any float dtype are rounded to bfloat16 once, and their norms are those of the rounded.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sse_kernels.bag_triton import _device_of
from sse_kernels.contrastive import bf16_kernels as kernels
from sse_kernels.contrastive.bf16_kernels import BOUNDS
from sse_kernels.contrastive.tiles import INTERPRETED, NORM_FLOOR, Softmax, Target

LOG2E = math.log2(math.e)
MAX_SCALE = 40.0  # exp2(-2 scale log2 e), the least term, is then still a normal float32
# The interpreter multiplies float32: numpy has no bfloat16.
OPERAND = torch.float32 if INTERPRETED else torch.bfloat16
PROGRAMS = 264  # wanted of a kernel: two for each multiprocessor of an H100
# Tile sizes, warps and stages. Compiled for sm_90 forward and TOP spill nothing, but for the mean
# that smoothing asks for (400 bytes). LOW spills 48 bytes, with masks 128, with masks, smoothing
# and both directions 224; with BN 32 two to five times that.
FORWARD = {"BM": 128, "BN": 128, "BD": 32, "STAGES": 3, "num_warps": 8}
TOP = {"BM": 64, "BN": 64, "STAGES": 1, "num_warps": 4}
LOW = {"BM": 64, "BN": 16, "STAGES": 1, "num_warps": 4}


class Side(NamedTuple):
    """The queries, or the documents, as `tiles.Side`; x is rounded to `OPERAND`."""

    x: Tensor
    inverse: Tensor
    flow: Tensor
    ids: Tensor
    scale: float
    given: Tensor  # x before it was rounded


def refusal(query: Tensor, bounds: tuple[int, ...], scale: float) -> str | None:
    """Why these kernels do not take a call; None where they do."""
    if bounds != BOUNDS:
        return f"dims must be {list(BOUNDS[1:])}, got {list(bounds[1:])}"
    if scale > MAX_SCALE:
        return f"scale must be at most {MAX_SCALE:g}, got {scale}"
    if query.dtype == torch.float64:
        return "float64 vectors would lose their digits"
    if query.is_cuda and torch.cuda.get_device_capability(query.device)[0] < 9:
        return "the device has no tensor descriptors (sm_90 and later have)"
    return None


def side(x: Tensor, bounds: tuple[int, ...], scale: float, ids: Tensor | None) -> Side:
    """Rounded rows, and the norms of their prefixes in float32."""
    rounded = x.detach()[:, : bounds[-1]].to(OPERAND).contiguous()
    squares = _by_block(rounded, rounded).cumsum(0)
    inverse = squares.clamp_min(NORM_FLOOR).rsqrt() * scale
    flow = torch.where(squares > NORM_FLOOR, squares.reciprocal(), 0)
    lines = ids.contiguous() if ids is not None else x.new_empty(0, dtype=torch.int64)
    return Side(rounded, inverse, flow, lines, scale, x)


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
    highest = x.scale * y.scale * LOG2E  # one of the two is 1
    mass, _ = _sums(x, y, shift, highest, mean=False)
    positives = slice(shift, shift + len(x.x))
    own = _by_block(x.x, y.x[positives]).cumsum(0) * x.inverse * y.inverse[:, positives]
    mean = share = None
    if smooth:
        total, count = _sums(x, y, shift, highest, mean=True)
        share = count.float().reciprocal()
        mean = total / LOG2E * share
    return Softmax((mass.log2() + highest) / LOG2E, own, mean, share)


def _sums(x: Side, y: Side, shift: int, highest: float, mean: bool) -> tuple[Tensor, Tensor]:
    """What `prefix_mass` sums, (K, n), and with `mean` the numbers, (n,)."""
    rows, columns, k = len(x.x), len(y.x), len(BOUNDS) - 1
    mask = x.ids.numel() > 0
    sizes = FORWARD | ({"BN": 64} if mask else {})
    parts, tiles = _split(rows, columns, sizes)
    sums = x.inverse.new_empty(parts, k, rows)
    count = x.x.new_empty(parts, rows if mean else 0, dtype=torch.int32)
    with _device_of(x.x):
        kernels.prefix_mass[triton.cdiv(rows, FORWARD["BM"]), parts](
            x.x, y.x, x.inverse * LOG2E, y.inverse, _ends(FORWARD["BD"], x.x.device),
            x.ids, y.ids, sums, count,
            rows, columns, tiles, x.x.stride(0), y.x.stride(0), shift, highest,
            K=k, CHUNKS=BOUNDS[-1] // FORWARD["BD"], MASK=mask, MEAN=mean, **sizes,
        )  # fmt: skip
    return sums.sum(0), count.sum(0)


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
    """dloss/dx, (n, D) in the dtype that was given; `weights` (K,), `share` scalar, float32."""
    rows, columns, k = len(x.x), len(y.x), len(bounds) - 1
    parts, _ = _split(rows, columns, TOP)
    grads = x.inverse.new_empty(parts, rows, bounds[-1])
    pull = x.inverse.new_empty(parts, k, rows)
    lse = [torch.full_like(s.inverse, math.inf) if t is None else t * LOG2E
           for s, t in zip((x, y), target[:2], strict=True)]  # fmt: skip
    of_rows = torch.stack([x.inverse * LOG2E, lse[0]])
    of_columns = torch.stack([y.inverse, lse[1]])
    spread = [x.inverse if t is None else t for t in target[2:4]]  # None: the kernel reads nothing
    for top, sizes in ((True, TOP), (False, LOW)):
        with _device_of(x.x):
            kernels.half_gradient[triton.cdiv(rows, sizes["BM"]), parts](
                *_blocks(x.x, sizes["BM"]), *_blocks(y.x, sizes["BN"]), of_rows, of_columns,
                weights * share / LOG2E, *spread, x.ids, y.ids, grads, pull, rows, columns,
                triton.cdiv(triton.cdiv(columns, sizes["BN"]), parts), shift, target.hit,
                OF_X=target.x is not None, OF_Y=target.y is not None, MASK=x.ids.numel() > 0,
                SMOOTH=target.spread_x is not None, TOP=top, **sizes,
            )  # fmt: skip
    through = pull.sum(0) * x.flow
    grad = torch.zeros_like(x.given, memory_format=torch.contiguous_format)
    for b, block in enumerate(map(slice, bounds, bounds[1:])):
        grad[:, block] = grads[..., block].sum(0) - through[b:].sum(0)[:, None] * x.x[:, block]
    return grad


def _split(rows: int, columns: int, sizes: dict[str, int]) -> tuple[int, int]:
    """Parts of the columns that give `PROGRAMS` programs, and each part's tiles."""
    tiles = triton.cdiv(columns, sizes["BN"])
    parts = min(max(PROGRAMS // triton.cdiv(rows, sizes["BM"]), 1), tiles)
    each = triton.cdiv(tiles, parts)
    return triton.cdiv(tiles, each), each


def _by_block(a: Tensor, b: Tensor) -> Tensor:
    """(K, n): the products of each column block's rows, summed in float32."""
    return torch.stack(
        [(a[:, i:j].float() * b[:, i:j].float()).sum(1) for i, j in itertools.pairwise(BOUNDS)]
    )


@functools.cache
def _ends(width: int, device: torch.device) -> Tensor:
    """For each chunk of `width` columns the dim that it completes, or -1; copied once per run."""
    stops = range(width, BOUNDS[-1] + 1, width)
    dims = [BOUNDS.index(stop) - 1 if stop in BOUNDS else -1 for stop in stops]
    return torch.tensor(dims, dtype=torch.int32, device=device)


def _blocks(x: Tensor, rows: int) -> list[TensorDescriptor]:
    """Descriptors that read `rows` rows of 32, 64, 128 and 256 columns."""
    return [TensorDescriptor.from_tensor(x, [rows, columns]) for columns in (32, 64, 128, 256)]
