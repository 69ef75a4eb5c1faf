"""The Triton kernels of the Matryoshka contrastive loss; `op.py` has the derivation.

Both walk tiles of the logits, S_k = G_k * inverse_x * inverse_y. G_k, the Gram matrix of the first
k column blocks, is a running sum in registers. No tile is stored: the kernels write one vector per
dim, and in the backward pass the gradient of the own rows.

- `contrastive_lse`: a program per BM rows of x and span of y's rows: online log-sum-exp for each
  dim. The spans' parts are brought together outside.
- `contrastive_grad`: a program per BM rows of x, which walks all of y, recomputes the tiles and
  sums its rows' gradient in registers, in a fixed order. Run once with (x, y) = (queries,
  documents) and once the other way round: no atomics.

The dims are a loop, not one body each: five bodies did not fit the registers. So the backward
kernel multiplies a chunk once for every dim that holds it. UPCAST is for the interpreter, whose
products take bfloat16's bits for integers.
"""
# ruff: noqa: ANN001, ANN201, ANN202, D103 -- to Triton an annotation is a type of its own
# ruff: noqa: C901 -- an `if` on a constant is no branch, and every call is inlined
# mypy: disallow-untyped-defs=False, disable-error-code="assignment,var-annotated"

import triton
import triton.language as tl


@triton.jit
def _pairs(ids_x, ids_y, row, col, rows, columns, shift, MASK: tl.constexpr):
    """(BM, BN): which pairs count, and which are a query with its own positive.

    ids are (3, n), compared line by line: positive with document, query with query, query with
    document; any that agree exclude the pair, but for the own one.
    """
    own = col[None, :] == row[:, None] + shift
    counts = tl.broadcast_to(col[None, :] < columns, own.shape)
    if MASK:
        for line in tl.static_range(3):
            a = tl.load(ids_x + line * rows + tl.minimum(row, rows - 1))
            b = tl.load(ids_y + line * columns + tl.minimum(col, columns - 1))
            counts = counts & ((a[:, None] != b[None, :]) | own)
    return counts, own


@triton.jit
def _add_block(
    gram, x, y, at_x, at_y, bound,
    WHOLE: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """`gram` (BM, BN) plus the products of a block's columns, from its bound to the next."""
    start, last = tl.load(bound), tl.load(bound + 1)
    while start < last:
        if WHOLE:
            a, b = tl.load(x + start + at_x), tl.load(y + start + at_y)
        else:
            inside = (start + tl.arange(0, BD) < last)[None, :]
            a = tl.load(x + start + at_x, mask=inside, other=0.0)
            b = tl.load(y + start + at_y, mask=inside, other=0.0)
        if UPCAST:
            a, b = a.to(gram.dtype), b.to(gram.dtype)
        gram = tl.dot(a, tl.trans(b), gram, input_precision=PRECISION, out_dtype=gram.dtype)
        start += BD
    return gram


@triton.jit
def _tile(
    y, ids_x, ids_y, row, j, rows, columns, stride_y, shift,
    MASK: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """BN rows of y from j on: their numbers, address and offsets; which pairs count, which are own.

    A number past the end is the last one; such a pair does not count.
    """
    col = j + tl.arange(0, BN)
    close = tl.minimum(col, columns - 1)
    at_y = (close - j)[:, None] * stride_y + tl.arange(0, BD)[None, :]
    counts, own = _pairs(ids_x, ids_y, row, col, rows, columns, shift, MASK)
    return close, y + tl.cast(j, tl.int64) * stride_y, at_y, counts, own


@triton.jit
def _scales(at_x, at_y):
    """(BM, BN): what turns products into logits, one over both norms."""
    return tl.load(at_x)[:, None] * tl.load(at_y)[None, :]


@triton.jit
def _add_mass(logits, counts, here, highest, mass):
    """Online log-sum-exp of the dim `here`: its highest logit, its sum of exp(logit - highest)."""
    logits = tl.where(counts, logits, float("-inf"))
    top = tl.where(here, tl.maximum(highest, tl.max(logits, 1)[:, None]), highest)
    now = tl.sum(tl.where(here, top, 0.0), 1)  # the tops of this dim
    added = tl.sum(tl.exp(logits - now[:, None]), 1)
    return top, mass * tl.exp(highest - top) + tl.where(here, added[:, None], 0.0)


@triton.jit
def contrastive_lse(
    x, y, bounds, inverse_x, inverse_y, ids_x, ids_y, lse, own_logit, total, count,
    rows, columns, span, stride_x, stride_y, shift,
    K: tl.constexpr, KP: tl.constexpr, WHOLE: tl.constexpr, MASK: tl.constexpr,
    SMOOTH: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Of BM rows over one span of columns, for each dim: log-sum-exp, the own logit; with SMOOTH
    the sum and the number of the logits that count.
    """
    first = tl.program_id(0) * BM
    row = first + tl.arange(0, BM)
    near = tl.minimum(row, rows - 1)  # past the end the last row again, which is not stored
    x += first.to(tl.int64) * stride_x
    at_x = (near - first)[:, None] * stride_x + tl.arange(0, BD)[None, :]
    part = tl.program_id(1)
    j = part * span
    stop = tl.minimum(j + span, columns)
    ks = tl.arange(0, KP)[None, :]
    highest = tl.full([BM, KP], -1e30, dtype=ACC)
    mass = tl.zeros([BM, KP], dtype=ACC)
    match = tl.zeros([BM, KP], dtype=ACC)
    sums = tl.zeros([BM, KP], dtype=ACC)
    number = tl.zeros([BM], dtype=tl.int32)
    while j < stop:
        close, tile, at_y, counts, own = _tile(
            y, ids_x, ids_y, row, j, rows, columns, stride_y, shift, MASK, BN, BD
        )
        gram = tl.zeros([BM, BN], dtype=ACC)
        for k in range(K):
            gram = _add_block(gram, x, tile, at_x, at_y, bounds + k, WHOLE, BD, PRECISION, UPCAST)
            logits = gram * _scales(inverse_x + k * rows + near, inverse_y + k * columns + close)
            here = ks == k
            match += tl.where(here, tl.sum(tl.where(own, logits, 0.0), 1)[:, None], 0.0)
            if SMOOTH:
                sums += tl.where(here, tl.sum(tl.where(counts, logits, 0.0), 1)[:, None], 0.0)
            highest, mass = _add_mass(logits, counts, here, highest, mass)
        if SMOOTH:
            number += tl.sum(counts.to(tl.int32), 1)
        j += BN
    out = (part * K + ks) * rows + row[:, None]
    inside = (row < rows)[:, None] & (ks < K)
    tl.store(lse + out, highest + tl.log(mass), mask=inside)
    tl.store(own_logit + out, match, mask=inside)
    if SMOOTH:
        tl.store(total + out, sums, mask=inside)
        tl.store(count + part * rows + row, number, mask=row < rows)


@triton.jit
def _slope(
    logits, counts, own, lse_x, lse_y, spread_x, spread_y, weight, at_x, at_y, k, rows, columns,
    OF_X: tl.constexpr, OF_Y: tl.constexpr, HIT: tl.constexpr, SMOOTH: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """dloss/dlogits (BM, BN) of dim k: its softmaxes minus their targets, times its weight."""
    p = tl.where(own, -HIT, 0.0).to(ACC)
    if OF_X:
        p += tl.exp(logits - tl.load(lse_x + k * rows + at_x)[:, None])
    if OF_Y:
        p += tl.exp(logits - tl.load(lse_y + k * columns + at_y)[None, :])
    if SMOOTH:
        p -= tl.load(spread_x + at_x)[:, None] + tl.load(spread_y + at_y)[None, :]
    return tl.where(counts, p * weight, 0.0)


@triton.jit
def _add_chunks(
    grads, p, tile, at_y, k, CHUNKS: tl.constexpr, N_CHUNKS: tl.constexpr, WHOLE: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """`grads`, (BM, BD) a chunk, plus p times the chunk of y, for the chunks that dim k holds."""
    now = ()
    for c in tl.static_range(N_CHUNKS):
        new = grads[c]
        if CHUNKS[c][2] <= k:  # the dim holds the chunk
            if WHOLE:
                lines = tl.load(tile + CHUNKS[c][0] + at_y)
            else:
                held = (CHUNKS[c][0] + tl.arange(0, BD) < CHUNKS[c][1])[None, :]
                lines = tl.load(tile + CHUNKS[c][0] + at_y, mask=held, other=0.0)
            if UPCAST:
                lines = lines.to(ACC)
            new = tl.dot(p, lines, new, input_precision=PRECISION, out_dtype=ACC)
        now = now + (new,)
    return now


@triton.jit
def _store_grads(
    grad, x, grads, pull, share, row, first, at_x, rows, stride_grad,
    CHUNKS: tl.constexpr, N_CHUNKS: tl.constexpr, KP: tl.constexpr, ACC: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """Each chunk's gradient times `share`, less what flows through the norms: x * sum of `pull`
    (BM, KP) over the dims that hold the chunk. `share`, 1 / batch, comes last: float16 products of
    it would underflow.
    """
    ks = tl.arange(0, KP)[None, :]
    grad += first.to(tl.int64) * stride_grad
    out = (row - first)[:, None] * stride_grad + tl.arange(0, BD)[None, :]
    for c in tl.static_range(N_CHUNKS):
        at = CHUNKS[c][0] + tl.arange(0, BD)
        inside = (row < rows)[:, None] & (at < CHUNKS[c][1])[None, :]
        own_x = tl.load(x + CHUNKS[c][0] + at_x, mask=inside, other=0.0).to(ACC)
        back = tl.sum(tl.where(ks >= CHUNKS[c][2], pull, 0.0), 1)
        value = (grads[c] - back[:, None] * own_x) * tl.load(share)
        tl.store(grad + CHUNKS[c][0] + out, value.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def contrastive_grad(
    x, y, bounds, weights, share, inverse_x, inverse_y, flow_x, lse_x, lse_y, spread_x,
    spread_y, ids_x, ids_y, grad,
    rows, columns, stride_x, stride_y, stride_grad, shift,
    CHUNKS: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, WHOLE: tl.constexpr,
    N_CHUNKS: tl.constexpr, OF_X: tl.constexpr, OF_Y: tl.constexpr, HIT: tl.constexpr,
    MASK: tl.constexpr, SMOOTH: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dloss/dx of BM rows, for the columns of CHUNKS: (first column, end of its block, block).

    OF_X: x's rows have a softmax over y (lse_x); OF_Y: y's have one over x (lse_y, infinite where
    there is none). HIT is what the own pair's target sums to.
    """
    first = tl.program_id(0) * BM
    row = first + tl.arange(0, BM)
    near = tl.minimum(row, rows - 1)  # past the end the last row again, which is not stored
    x += first.to(tl.int64) * stride_x
    at_x = (near - first)[:, None] * stride_x + tl.arange(0, BD)[None, :]
    ks = tl.arange(0, KP)[None, :]
    by_norm = tl.zeros([BM, KP], dtype=ACC)
    grads = ()
    for _ in tl.static_range(N_CHUNKS):
        grads = grads + (tl.zeros([BM, BD], dtype=ACC),)
    j = 0
    while j < columns:
        close, tile, at_y, counts, own = _tile(
            y, ids_x, ids_y, row, j, rows, columns, stride_y, shift, MASK, BN, BD
        )
        gram = tl.zeros([BM, BN], dtype=ACC)
        for k in range(K):
            gram = _add_block(gram, x, tile, at_x, at_y, bounds + k, WHOLE, BD, PRECISION, UPCAST)
            factor = _scales(inverse_x + k * rows + near, inverse_y + k * columns + close)
            logits = gram * factor
            p = _slope(
                logits, counts, own, lse_x, lse_y, spread_x, spread_y, tl.load(weights + k),
                near, close, k, rows, columns, OF_X, OF_Y, HIT, SMOOTH, ACC,
            )  # fmt: skip
            by_norm += tl.where(ks == k, tl.sum(p * logits, 1)[:, None], 0.0)
            p = (p * factor).to(x.dtype.element_ty)
            if UPCAST:
                p = p.to(ACC)
            grads = _add_chunks(
                grads, p, tile, at_y, k, CHUNKS, N_CHUNKS, WHOLE, ACC, PRECISION, UPCAST, BD
            )
        j += BN
    flow = tl.load(flow_x + ks * rows + near[:, None], mask=ks < K, other=0.0)
    _store_grads(
        grad, x, grads, by_norm * flow, share, row, first, at_x, rows, stride_grad,
        CHUNKS, N_CHUNKS, KP, ACC, BD,
    )  # fmt: skip
