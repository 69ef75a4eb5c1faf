"""The Matryoshka contrastive loss tiled over query rows: any device, memory linear in the batch.

- The dims are nested prefixes, so their Gram matrices are running sums: over the column blocks
  0-32-64-128-256-512 each column is multiplied once (512 columns) instead of once for every dim
  that holds it (992).
- A tile of query rows goes through softmax and gradient at once and is forgotten: memory is linear
  in the batch (never B x M, nor one such matrix per dim), and a tile stays in the cache.
- Between the matrix products stands what passes over a tile element by element. On a CPU, in
  float32, `sse.loss._tiled` does it, a small C file built with the package where a C compiler is
  found. Without it and for other tensors torch does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse.loss import compiled

# Squared floor of a vector's norm: F.normalize's 1e-12, below which no gradient flows.
NORM_FLOOR = 1e-24
# A logit that weighs nothing: finite, since 0 * inf is NaN, and far below any 20 * cosine.
EXCLUDED = -1e9
TextIds = tuple[Tensor, Tensor]


class LossOptions(NamedTuple):
    """The arguments of `matryoshka_loss` besides its vectors."""

    dims: list[tuple[int, float, float]]  # (dim, weight, scale), smallest first
    symmetric: bool
    text_ids: TextIds | None
    first: int
    label_smoothing: float


class Tiled(torch.autograd.Function):
    """Forward computes value and gradients tile by tile; backward hands the gradients out.

    With S = s * G / (|q_i| |d_j|) at each dim, P = dloss/dS (softmax - target, weighted, over B):

        dloss/dG_ij     = P_ij s / (|q_i| |d_j|)
        dloss/d|q_i|^2  = -sum_j P_ij S_ij / (2 |q_i|^2), and the same for d by columns

    G_d is the sum of the blocks' products up to d, so a block's gradient is the sum over the dims
    that hold it: a running sum from the largest dim down.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, documents: Tensor, options: LossOptions, tile: int
    ) -> Tensor:
        """The loss; its gradients in `ctx`."""
        batch = _Batch(query, documents, options)
        rows = [slice(i, min(i + tile, len(query))) for i in range(0, len(query), tile)]
        grad_q, grad_d = torch.zeros_like(query), torch.zeros_like(documents)
        by_d = torch.zeros_like(batch.norm2_d)
        # One for all tiles: asking for new pages each time costs as much as the arithmetic.
        room = len(batch.blocks) * min(tile, len(query)) * len(documents)
        buffer = query.new_empty(room) if compiled.takes(query) else None
        # Document -> query needs each column's softmax over all rows before any gradient.
        columns = _columns(batch, rows) if options.symmetric else None
        loss = query.new_zeros(())
        for part in rows:
            if buffer is None:
                result = _tile(batch, part, columns, by_d)
            else:
                result = _compiled_tile(batch, part, columns, buffer, by_d)
            loss += result.loss
            _add_gradients(batch, part, result, grad_q[part], grad_d)
        by_d = _through_norms(by_d, batch.norm2_d)
        for k, block in enumerate(batch.blocks):
            grad_d[:, block].addcmul_(documents[:, block], by_d[k, :, None], value=-1)
        ctx.save_for_backward(grad_q, grad_d)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the loss's own."""
        grad_q, grad_d = ctx.saved_tensors
        return grad_q * grad, grad_d * grad, None, None


class _Batch:
    """The batch and what all its tiles share: column blocks and squared norms, one per dim."""

    def __init__(self, query: Tensor, documents: Tensor, options: LossOptions) -> None:
        self.query, self.documents, self.options = query, documents, options
        bounds = [0, *(dim for dim, _, _ in options.dims)]
        self.blocks = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        self.norm2_q, self.norm2_d = self._norms(query), self._norms(documents)  # (dims, B or M)
        scales = query.new_tensor([scale for _, _, scale in options.dims])
        self.inverse_q = self.norm2_q.clamp_min(NORM_FLOOR).rsqrt() * scales[:, None]
        self.inverse_d = self.norm2_d.clamp_min(NORM_FLOOR).rsqrt()
        directions = 2 if options.symmetric else 1
        pairs = max(1, len(query))  # a process may have none
        self.shares = [weight / pairs / directions for _, weight, _ in options.dims]

    def _norms(self, vectors: Tensor) -> Tensor:
        squares = [vectors[:, block].square().sum(1) for block in self.blocks]
        return torch.stack(squares).cumsum(0)

    def excluded(self, part: slice) -> Tensor | None:
        """(rows, M) bool, True at false negatives; None where no text repeats."""
        if self.options.text_ids is None:
            return None
        first = self.options.first
        return equal_texts(*self.options.text_ids, slice(first + part.start, first + part.stop))

    def logits(self, part: slice, excluded: Tensor | None) -> Iterator[Tensor]:
        """(rows, M) at each dim, from the smallest up."""
        q = self.query[part]
        gram = q.new_zeros(len(q), len(self.documents))
        for k, block in enumerate(self.blocks):
            gram.addmm_(q[:, block], self.documents[:, block].T)
            logits = (gram * self.inverse_q[k, part, None]).mul_(self.inverse_d[k])
            yield logits if excluded is None else logits.masked_fill_(excluded, EXCLUDED)


class _Columns(NamedTuple):
    """Of the positives' columns, (B,)."""

    lse: list[Tensor]  # log-sum-exp over the queries, per dim
    count: Tensor  # how many queries count


def _columns(batch: _Batch, rows: list[slice]) -> _Columns:
    b = len(batch.query)
    lse = [batch.query.new_full((b,), -torch.inf) for _ in batch.blocks]
    count = batch.query.new_full((b,), b)
    for part in rows:
        excluded = batch.excluded(part)
        if excluded is not None:
            count -= excluded[:, :b].sum(0)
        for k, logits in enumerate(batch.logits(part, excluded)):
            lse[k] = torch.logaddexp(lse[k], logits[:, :b].logsumexp(0))
    return _Columns(lse, count)


class _Tile(NamedTuple):
    """What a tile leaves for the gradients."""

    loss: Tensor | float  # of its rows, weighted
    grams: Sequence[Tensor] | Tensor  # dloss/dG, (rows, M) per dim, summed with the dims above it
    by_q: Tensor  # sum_j P_ij S_ij, (dims, rows), for the queries' norms


def _tile(batch: _Batch, part: slice, columns: _Columns | None, by_d: Tensor) -> _Tile:
    """By torch's operations; adds sum_i P_ij S_ij to `by_d` (dims, M), for the documents' norms."""
    loss, grams, by_q = batch.query.new_zeros(()), [], []
    excluded = batch.excluded(part)
    spread = _spread(batch, part, columns, excluded) if batch.options.label_smoothing else None
    for k, logits in enumerate(batch.logits(part, excluded)):
        lse = None if columns is None else columns.lse[k]
        p, value = _residual(batch, part, logits, lse, spread)
        loss += value * batch.shares[k]
        ps = logits.mul_(p.mul_(batch.shares[k]))
        by_d[k] += ps.sum(0)
        by_q.append(ps.sum(1))
        grams.append(p.mul_(batch.inverse_q[k, part, None]).mul_(batch.inverse_d[k]))
    for k in range(len(grams) - 2, -1, -1):
        grams[k] += grams[k + 1]
    return _Tile(loss, grams, torch.stack(by_q))


def _compiled_tile(
    batch: _Batch, part: slice, columns: _Columns | None, buffer: Tensor, by_d: Tensor
) -> _Tile:
    """`_tile` by `sse.loss.compiled`."""
    q, (dims, m) = batch.query[part], batch.norm2_d.shape
    grams = buffer[: dims * len(q) * m].view(dims, len(q), m)
    for block, gram in zip(batch.blocks, grams, strict=True):
        torch.mm(q[:, block], batch.documents[:, block].T, out=gram)
    smoothing, excluded = batch.options.label_smoothing, batch.excluded(part)
    more = compiled.More(
        lse=None if columns is None else torch.stack(columns.lse),
        row_spread=smoothing / _counts(batch, part, excluded) if smoothing else None,
        column_spread=smoothing / columns.count if columns else None,
        smoothing=smoothing,
    )
    norms = batch.inverse_q[:, part].contiguous(), batch.inverse_d
    diagonal = batch.options.first + part.start
    by_q, sums, loss = compiled.residuals(grams, *norms, batch.shares, excluded, diagonal, more)
    for each in sums:  # in order
        by_d += each
    return _Tile(loss, grams, by_q)


def _add_gradients(batch: _Batch, part: slice, tile: _Tile, grad_q: Tensor, grad_d: Tensor) -> None:
    by_q = _through_norms(tile.by_q, batch.norm2_q[:, part])
    for k, block in enumerate(batch.blocks):
        q = batch.query[part, block]
        torch.mm(tile.grams[k], batch.documents[:, block], out=grad_q[:, block])
        grad_q[:, block].addcmul_(by_q[k, :, None], q, value=-1)
        grad_d[:, block].addmm_(tile.grams[k].T, q)


def _through_norms(by: Tensor, norm2: Tensor) -> Tensor:
    """What flows through the norms into each block of columns, from P S summed: (dims, vectors)."""
    # Below the floor the norm is a constant, so nothing flows through it.
    return torch.where(norm2 > NORM_FLOOR, by / norm2, 0).flip(0).cumsum(0).flip(0)


def _residual(
    batch: _Batch, part: slice, logits: Tensor, columns: Tensor | None, spread: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax - target, (rows, M), and the sum of the rows' cross-entropies at one dim.

    `columns` is the log-sum-exp of the positives' columns where document -> query counts too.
    """
    b, diagonal = len(batch.query), batch.options.first + part.start
    hit = 1 - batch.options.label_smoothing
    own = logits.diagonal(diagonal)
    top = logits.amax(1, keepdim=True)
    p = (logits - top).exp_()
    total = p.sum(1, keepdim=True)
    p.div_(total).diagonal(diagonal).sub_(hit)
    loss = ((top + total.log())[:, 0] - hit * own).sum()
    if columns is not None:
        p[:, :b] += (logits[:, :b] - columns).exp_()
        p.diagonal(diagonal).sub_(hit)
        loss += (columns[part] - hit * own).sum()
    if spread is not None:
        p -= spread
        loss -= (spread * logits).sum()
    return p, loss


def _spread(
    batch: _Batch, part: slice, columns: _Columns | None, excluded: Tensor | None
) -> Tensor:
    """What label smoothing adds to the target, (rows, M): equal parts to all that count."""
    b, m = len(batch.query), len(batch.documents)
    count = _counts(batch, part, excluded)[:, None]
    spread = (batch.options.label_smoothing / count).repeat(1, m)
    if columns is not None:
        spread[:, :b] += batch.options.label_smoothing / columns.count
    return spread if excluded is None else spread.masked_fill_(excluded, 0)


def _counts(batch: _Batch, part: slice, excluded: Tensor | None) -> Tensor:
    """How many documents count for each query, (rows,)."""
    count = batch.query.new_full((part.stop - part.start,), len(batch.documents))
    return count if excluded is None else count - excluded.sum(1)


def equal_texts(query_ids: Tensor, document_ids: Tensor, part: slice = slice(None)) -> Tensor:
    """False negatives: (rows, M) bool, True where a document says the same as the row's own pair.

    Document j is no negative of query i when its text equals positive i, when it equals query i,
    or when query j equals query i (so positive j answers query i).

    Args:
        query_ids: (P,) integer ids of the query texts.
        document_ids: (M,) integer ids of the P positives, then of the negatives.
        part: the query rows wanted.
    """
    b = len(query_ids)
    own_query, own_positive = query_ids[part, None], document_ids[:b][part, None]
    equal = own_positive == document_ids
    equal |= own_query == document_ids
    equal[:, :b] |= own_query == query_ids
    equal.diagonal(part.start or 0).fill_(False)
    return equal
