"""The Triton kernels. All addresses are 64-bit, all sums float32 (float64 for a float64 table).

- `pool_gate`: one program per bag and column block gathers BLOCK_L rows at a time.
- `gate_grad`: ROWS bags per program; its sums over bags are partial, one line per program.
- `chunk_sum`, `row_sum`: the table's gradient over the transposed batch (`plan.py`) in two stages.
  A chunk of sorted tokens that holds one token only is summed by a program of its own; a row then
  sums its chunks and its loose ends. The order is fixed, and no program reads more than two chunks
  and one line for each whole one.
- `scatter_add`: the table's gradient by float atomics, in no fixed order.
"""
# ruff: noqa: ANN001, ANN201, ANN202, D103 -- to Triton an annotation is a type of its own
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from sse_kernels.triton_math import sech2, tanh


@triton.jit
def pool_gate(
    weight, ids, offsets, alpha, beta, bias, y, mean,
    vocab, dim, stride, tokens,
    GATE: tl.constexpr, KEEP: tl.constexpr, ACC: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One bag's mean, and with GATE beta * tanh(alpha * mean + bias), for BLOCK_D columns."""
    bag = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = col < dim
    start = tl.load(offsets + bag).to(tl.int64)
    stop = tl.minimum(tl.load(offsets + bag + 1).to(tl.int64), tokens)  # no read past the ids
    step = tl.arange(0, BLOCK_L)
    total = tl.zeros([BLOCK_D], dtype=ACC)
    at = start
    while at < stop:
        token = tl.load(ids + at + step, mask=at + step < stop, other=-1).to(tl.int64)
        known = (token >= 0) & (token < vocab)  # an id out of range reads as a row of zeros
        here = weight + token[:, None] * stride + col[None, :]
        lines = tl.load(here, mask=known[:, None] & inside[None, :], other=0.0)
        total += tl.sum(lines.to(ACC), axis=0)  # a thread holds a column of all BLOCK_L lines
        at += BLOCK_L
    length = tl.maximum(stop - start, 1).to(ACC)
    x = total / length
    out = bag * dim + col
    if KEEP:
        tl.store(mean + out, x, mask=inside)
    if GATE:
        a = tl.load(alpha + col, mask=inside, other=0.0).to(ACC)
        c = tl.load(bias + col, mask=inside, other=0.0).to(ACC)
        b = tl.load(beta + col, mask=inside, other=0.0).to(ACC)
        x = b * tanh(x * a + c)
    tl.store(y + out, x.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gate_grad(
    dy, mean, offsets, alpha, beta, bias, shares, partial,
    bags, dim,
    GATE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each bag's dx / max(length, 1), and this program's share of dalpha, dbeta and dbias.

    With z = alpha * x + bias: dz = dy * beta * sech^2(z), dx = dz * alpha, and summed over bags
    dalpha = dz * x, dbeta = dy * tanh(z), dbias = dz. partial is (3, programs, D).
    """
    program = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = col < dim
    if GATE:
        a = tl.load(alpha + col, mask=inside, other=0.0).to(ACC)
        c = tl.load(bias + col, mask=inside, other=0.0).to(ACC)
        b = tl.load(beta + col, mask=inside, other=0.0).to(ACC)
        dalpha = tl.zeros([BLOCK_D], dtype=ACC)
        dbeta = tl.zeros([BLOCK_D], dtype=ACC)
        dbias = tl.zeros([BLOCK_D], dtype=ACC)
    bag = program * ROWS
    last = tl.minimum(bag + ROWS, bags)
    while bag < last:
        here = bag * dim + col
        dx = tl.load(dy + here, mask=inside, other=0.0).to(ACC)
        if GATE:
            x = tl.load(mean + here, mask=inside, other=0.0).to(ACC)
            z = x * a + c
            dbeta += dx * tanh(z)
            dz = dx * b * sech2(z)
            dbias += dz
            dalpha += dz * x
            dx = dz * a
        length = tl.load(offsets + bag + 1).to(tl.int64) - tl.load(offsets + bag).to(tl.int64)
        dx = dx / tl.maximum(length, 1).to(ACC)
        tl.store(shares + here, dx.to(shares.dtype.element_ty), mask=inside)
        bag += 1
    if GATE:
        plane = tl.num_programs(0).to(tl.int64) * dim
        line = partial + program * dim + col
        tl.store(line, dalpha, mask=inside)
        tl.store(line + plane, dbeta, mask=inside)
        tl.store(line + 2 * plane, dbias, mask=inside)


@triton.jit
def _sum_lines(values, rows, begin, end, col, inside, dim, total,
               GATHER: tl.constexpr, BLOCK_L: tl.constexpr):  # fmt: skip
    """Add values[rows[i]] (GATHER) or values[i], begin <= i < end, to total (BLOCK_D,)."""
    step = tl.arange(0, BLOCK_L)
    at = begin
    while at < end:
        line = at + step
        valid = line < end
        if GATHER:
            line = tl.load(rows + line, mask=valid, other=0).to(tl.int64)
        here = values + line[:, None] * dim + col[None, :]
        lines = tl.load(here, mask=valid[:, None] & inside[None, :], other=0.0)
        total += tl.sum(lines.to(total.dtype), axis=0)
        at += BLOCK_L
    return total


@triton.jit
def chunk_sum(
    shares, rows, whole, chunks,
    dim,
    ACC: tl.constexpr, CHUNK: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Stage one: sum a chunk of sorted tokens if it holds one token only."""
    chunk = tl.program_id(0).to(tl.int64)
    if tl.load(whole + chunk) != 0:
        col = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = col < dim
        begin = chunk * CHUNK
        total = tl.zeros([BLOCK_D], dtype=ACC)
        total = _sum_lines(shares, rows, begin, begin + CHUNK, col, inside, dim, total,
                           True, BLOCK_L)  # fmt: skip
        tl.store(chunks + chunk * dim + col, total, mask=inside)


@triton.jit
def row_sum(
    shares, rows, starts, chunks, grad,
    dim, stride,
    ADD: tl.constexpr, ACC: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Stage two: a row of the gradient from its chunks and loose ends; written, or added (ADD)."""
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + row).to(tl.int64)
    end = tl.load(starts + row + 1).to(tl.int64)
    col = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = col < dim
    first = (begin + CHUNK - 1) // CHUNK  # chunks first .. last - 1 lie within the row
    last = tl.maximum(end // CHUNK, first)
    head = tl.minimum(first * CHUNK, end)
    tail = tl.maximum(last * CHUNK, head)
    if (end > begin) | (ADD == 0):
        total = tl.zeros([BLOCK_D], dtype=ACC)
        total = _sum_lines(shares, rows, begin, head, col, inside, dim, total, True, BLOCK_L)
        total = _sum_lines(chunks, rows, first, last, col, inside, dim, total, False, BLOCK_L)
        total = _sum_lines(shares, rows, tail, end, col, inside, dim, total, True, BLOCK_L)
        here = grad + row * stride + col
        if ADD:
            total += tl.load(here, mask=inside, other=0.0).to(ACC)
        tl.store(here, total.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def scatter_add(
    shares, ids, offsets, grad,
    vocab, dim,
    ACC: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add a bag's share to the rows of its tokens, by atomics; grad is zeroed, in ACC's dtype."""
    bag = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = col < dim
    at = tl.load(offsets + bag).to(tl.int64)
    stop = tl.load(offsets + bag + 1).to(tl.int64)
    share = tl.load(shares + bag * dim + col, mask=inside, other=0.0).to(ACC)
    while at < stop:
        token = tl.load(ids + at).to(tl.int64)
        if (token >= 0) & (token < vocab):
            tl.atomic_add(grad + token * dim + col, share, mask=inside, sem="relaxed")
        at += 1
