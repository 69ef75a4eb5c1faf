"""The contrastive loss for tensor cores that read bfloat16: sums in float32, logits in base 2.

`op.py` has the derivation. Against `tiles_kernels.py`:

- The softmax has a fixed shift, since no logit exceeds `scale`: exp2(logit - scale log2 e) neither
  overflows nor, up to a scale of 40, underflows. So no running maximum.
- Backward multiplies each column block once. Block b's gradient takes the sum of dloss/dG_k over
  the dims k that hold it, which grows from the largest dim down.
- Half of the columns a program: 256 to 511 with TOP, which only the largest dim holds, else 0 to
  255. All 512 do not fit the registers of a program.
- Blocks are read through tensor descriptors, by the memory's own copy engine (TMA, from sm_90 on).

The prefixes are those of `BOUNDS`.
"""
# ruff: noqa: ANN001, ANN201, ANN202, D103 -- to Triton an annotation is a type of its own
# mypy: disallow-untyped-defs=False, disable-error-code="assignment,var-annotated"

import triton
import triton.language as tl

from sse_kernels.contrastive.tiles_kernels import _pairs

BOUNDS = (0, 32, 64, 128, 256, 512)  # the column blocks, between the dims


@triton.jit
def prefix_mass(
    x, y, inverse_x, inverse_y, ends, ids_x, ids_y, sums, count,
    rows, columns, tiles, stride_x, stride_y, shift, highest,
    K: tl.constexpr, CHUNKS: tl.constexpr, MASK: tl.constexpr, MEAN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Of BM rows over `tiles` tiles of columns, for each dim: sum of exp2(logit - highest); with
    MEAN instead the sum and the number of the logits that count, since both do not fit registers.

    One loop goes over tiles and chunks of BD columns, so that the loads of the next tile run under
    the products of this one. ends[c] is the dim that chunk c completes, or -1.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    near = tl.minimum(row, rows - 1)  # past the end the last row again, which is not stored
    part = tl.program_id(1)
    first = part * tiles
    tiles = tl.minimum(tiles, tl.cdiv(columns, BN) - first)
    at_x = x + near.to(tl.int64)[:, None] * stride_x + tl.arange(0, BD)[None, :]
    ks = tl.arange(0, 8)[None, :]
    total = tl.zeros([BM, 8], dtype=tl.float32)
    number = tl.zeros([BM], dtype=tl.int32)
    gram = tl.zeros([BM, BN], dtype=tl.float32)
    for step in tl.range(0, tiles * CHUNKS, num_stages=STAGES):
        chunk = step % CHUNKS
        col = (first + step // CHUNKS) * BN + tl.arange(0, BN)
        close = tl.minimum(col, columns - 1)
        at_y = y + close.to(tl.int64)[:, None] * stride_y + tl.arange(0, BD)[None, :]
        gram = tl.dot(tl.load(at_x + chunk * BD), tl.trans(tl.load(at_y + chunk * BD)), gram)
        k = tl.load(ends + chunk)
        if k >= 0:
            counts, _ = _pairs(ids_x, ids_y, row, col, rows, columns, shift, MASK)
            a = tl.load(inverse_x + k * rows + near)
            logits = (gram * a[:, None]) * tl.load(inverse_y + k * columns + close)[None, :]
            terms = logits if MEAN else tl.exp2(logits - highest)
            line = tl.sum(tl.where(counts, terms, 0.0), 1)
            total += tl.where(ks == k, line[:, None], 0.0)
            if k == K - 1:
                gram = tl.zeros([BM, BN], dtype=tl.float32)
                if MEAN:
                    number += tl.sum(counts.to(tl.int32), 1)
    out = (part * K + ks) * rows + row[:, None]
    tl.store(sums + out, total, mask=(row < rows)[:, None] & (ks < K))
    if MEAN:
        tl.store(count + part * rows + row, number, mask=row < rows)


@triton.jit
def _slope(
    gram, k: tl.constexpr, of_rows, of_columns, weights, spread_x, spread_y, rows, columns,
    near, close, counts, own, hit, OF_X: tl.constexpr, OF_Y: tl.constexpr, MASK: tl.constexpr,
    SMOOTH: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """dloss/dG_k of a tile in OPERAND's dtype, and its row sums times G_k.

    of_rows (2, K, rows): log2(e) scale / norm; log-sum-exp. of_columns (2, K, columns): 1 / norm;
    log-sum-exp. A log-sum-exp is infinite where there is none. weights (K,): the dim's share of the
    loss, over log2(e).
    """
    factor = tl.load(of_rows + k * rows + near)[:, None]
    factor = factor * tl.load(of_columns + k * columns + close)[None, :]
    logits = gram * factor
    p = tl.where(own, -hit, 0.0)
    if OF_X:
        p += tl.exp2(logits - tl.load(of_rows + (5 + k) * rows + near)[:, None])
    if OF_Y:
        p += tl.exp2(logits - tl.load(of_columns + (5 + k) * columns + close)[None, :])
    if SMOOTH:
        p -= tl.load(spread_x + near)[:, None] + tl.load(spread_y + close)[None, :]
    if MASK:  # without, only columns past the end do not count, whose vectors are 0
        p = tl.where(counts, p, 0.0)
    p *= factor * tl.load(weights + k)
    return p.to(OPERAND), tl.sum(p * gram, 1)


@triton.jit
def _read(side, first):
    """The five column blocks of the rows from `first` on, zeros past the end."""
    s32, s64, s128, s256 = side
    return (
        s32.load([first, 0]), s32.load([first, 32]), s64.load([first, 64]),
        s128.load([first, 128]), s256.load([first, 256]),
    )  # fmt: skip


@triton.jit
def _down(grads, slopes, d, FIRST: tl.constexpr, LAST: tl.constexpr):
    """Each block's gradient plus its columns of y times the slopes of the dims that hold it."""
    running = slopes[4 - FIRST]
    out = ()
    for b in tl.static_range(LAST - 1, FIRST - 1, -1):
        if b < 4:
            running += slopes[b - FIRST]
        out = (tl.dot(running, d[b], grads[b - FIRST]),) + out
    return out


@triton.jit
def _store(
    grads, grad, pull, pulls, part, row, rows,
    FIRST: tl.constexpr, LAST: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    line = grad + (part * rows + row).to(tl.int64)[:, None] * 512
    inside = (row < rows)[:, None]
    for b in tl.static_range(FIRST, LAST):
        col = tl.arange(0, grads[b - FIRST].shape[1])
        if b > 0:  # a block is as wide as all before it, so it starts at its own width
            col += grads[b - FIRST].shape[1]
        tl.store(line + col[None, :], grads[b - FIRST], mask=inside)
    if not TOP:
        ks = tl.arange(0, 8)[None, :]
        at = pull + (part * 5 + ks) * rows + row[:, None]
        tl.store(at, pulls, mask=inside & (ks < 5))


@triton.jit
def half_gradient(
    x32, x64, x128, x256, y32, y64, y128, y256, of_rows, of_columns, weights, spread_x, spread_y,
    ids_x, ids_y, grad, pull, rows, columns, tiles, shift, hit,
    OF_X: tl.constexpr, OF_Y: tl.constexpr, MASK: tl.constexpr, SMOOTH: tl.constexpr,
    TOP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Half of the columns of dloss/dx through the products, for BM rows and some tiles of y.

    grad (parts, rows, 512); pull (parts, 5, rows): row sums of dloss/dG_k * G_k, not with TOP.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    near = tl.minimum(row, rows - 1)
    part = tl.program_id(1)
    q = _read((x32, x64, x128, x256), tl.program_id(0) * BM)
    OPERAND: tl.constexpr = q[0].dtype
    FIRST: tl.constexpr = 4 if TOP else 0  # the blocks whose gradient is wanted
    LAST: tl.constexpr = 5 if TOP else 4
    grads = ()
    for b in tl.static_range(FIRST, LAST):
        grads = grads + (tl.zeros([BM, q[b].shape[1]], dtype=tl.float32),)
    ks = tl.arange(0, 8)[None, :]
    pulls = tl.zeros([BM, 8], dtype=tl.float32)
    start = part * tiles * BN
    for j in tl.range(start, tl.minimum(start + tiles * BN, columns), BN, num_stages=STAGES):
        col = j + tl.arange(0, BN)
        close = tl.minimum(col, columns - 1)
        counts, own = _pairs(ids_x, ids_y, row, col, rows, columns, shift, MASK)
        d = _read((y32, y64, y128, y256), j)
        gram = tl.zeros([BM, BN], dtype=tl.float32)
        slopes = ()
        for k in tl.static_range(5):
            gram = tl.dot(q[k], tl.trans(d[k]), gram)
            if k >= FIRST:
                slope, by = _slope(
                    gram, k, of_rows, of_columns, weights, spread_x, spread_y, rows, columns,
                    near, close, counts, own, hit, OF_X, OF_Y, MASK, SMOOTH, OPERAND,
                )  # fmt: skip
                slopes = slopes + (slope,)
                pulls += tl.where(ks == k, by[:, None], 0.0)
        grads = _down(grads, slopes, d, FIRST, LAST)
    _store(grads, grad, pull, pulls, part, row, rows, FIRST, LAST, TOP)
