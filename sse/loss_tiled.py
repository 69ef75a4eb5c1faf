"""The Matryoshka contrastive loss tiled over query rows: any device, memory linear in the batch.

- The dims are nested prefixes, so their Gram matrices are running sums: over the column blocks
  0-32-64-128-256-512 each column is multiplied once (512 columns) instead of once for every dim
  that holds it (992).
- A tile of query rows goes through softmax and gradient at once and is forgotten: memory is linear
  in the batch (never B x M, nor one such matrix a dim), and a tile stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Squared floor of a vector's norm: F.normalize's 1e-12, below which no gradient flows.
NORM_FLOOR = 1e-24
# A logit that weighs nothing: finite, since 0 * inf is NaN, and far below any 20 * cosine.
EXCLUDED = -1e9
ALL = slice(None)

TextIds = tuple[Tensor, Tensor]


class Options(NamedTuple):
    """What a loss was asked for beside its vectors; `sse.loss.matryoshka_loss` says what they mean.

    `dims` are (dim, weight), smallest first.
    """

    dims: list[tuple[int, float]]
    scale: float
    symmetric: bool
    text_ids: TextIds | None
    first: int
    label_smoothing: float


class Tiled(torch.autograd.Function):
    """Forward computes value and gradients tile by tile; backward hands the gradients out.

    With S = s * G / (|q_i| |d_j|), P = dloss/dS (softmax - target, weighted, over B):

        dloss/dG_ij     = P_ij s / (|q_i| |d_j|)
        dloss/d|q_i|^2  = -sum_j P_ij S_ij / (2 |q_i|^2), and the same for d by columns

    G_d is the sum of the blocks' products up to d, so a block's gradient is the sum over the dims
    that hold it: a running sum from the largest dim down.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, documents: Tensor, options: Options, tile: int) -> Tensor:
        """The loss; its gradients in `ctx`."""
        batch = _Batch(query, documents, options)
        rows = [slice(i, min(i + tile, len(query))) for i in range(0, len(query), tile)]
        # Document -> query needs each column's softmax over all rows before any gradient.
        columns = _columns(batch, rows) if options.symmetric else None
        grad_q, grad_d = torch.zeros_like(query), torch.zeros_like(documents)
        by_d = [documents.new_zeros(len(documents)) for _ in options.dims]
        loss = query.new_zeros(())
        for part in rows:
            loss += _tile(batch, part, columns, grad_q[part], grad_d, by_d)
        total = torch.zeros_like(by_d[0])
        for k in range(len(by_d) - 1, -1, -1):
            total = total + torch.where(
                batch.norm2_d[k] > NORM_FLOOR, by_d[k] / batch.norm2_d[k], 0
            )
            block = batch.blocks[k]
            grad_d[:, block].sub_(documents[:, block] * total[:, None])
        ctx.save_for_backward(grad_q, grad_d)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the loss's own."""
        grad_q, grad_d = ctx.saved_tensors
        return grad_q * grad, grad_d * grad, None, None


class _Batch:
    """The batch and what all its tiles share: column blocks and squared norms, one a dim."""

    def __init__(self, query: Tensor, documents: Tensor, options: Options) -> None:
        self.query, self.documents, self.options = query, documents, options
        bounds = [0, *(dim for dim, _ in options.dims)]
        self.blocks = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        self.norm2_q, self.norm2_d = self._norms(query), self._norms(documents)
        self.inverse_q = [n.clamp_min(NORM_FLOOR).rsqrt() * options.scale for n in self.norm2_q]
        self.inverse_d = [n.clamp_min(NORM_FLOOR).rsqrt() for n in self.norm2_d]

    def _norms(self, vectors: Tensor) -> list[Tensor]:
        squares = [vectors[:, block].square().sum(1) for block in self.blocks]
        return list(torch.stack(squares).cumsum(0).unbind())

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
            logits = (gram * self.inverse_q[k][part, None]).mul_(self.inverse_d[k])
            yield logits if excluded is None else logits.masked_fill_(excluded, EXCLUDED)


class _Columns(NamedTuple):
    """Of each positive's column: log-sum-exp over all queries, (B,) a dim; how many count, (B,)."""

    lse: list[Tensor]
    count: Tensor


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


def _tile(
    batch: _Batch,
    part: slice,
    columns: _Columns | None,
    grad_q: Tensor,
    grad_d: Tensor,
    by_d: list[Tensor],
) -> Tensor:
    """The loss of some query rows; adds to the gradients.

    `by_d` collects sum_i P_ij S_ij of each dim, for the documents' norms.
    """
    loss = batch.query.new_zeros(())
    grams, by_q = [], []
    excluded = batch.excluded(part)
    spread = _spread(batch, part, columns, excluded) if batch.options.label_smoothing else None
    for k, logits in enumerate(batch.logits(part, excluded)):
        lse = None if columns is None else columns.lse[k]
        p, value = _residual(batch, part, logits, lse, spread)
        share = batch.options.dims[k][1] / len(batch.query) / (1 if columns is None else 2)
        loss += value * share
        ps = logits.mul_(p.mul_(share))
        by_d[k] += ps.sum(0)
        norm2 = batch.norm2_q[k][part]
        # Below the floor the norm is a constant, so nothing flows through it.
        by_q.append(torch.where(norm2 > NORM_FLOOR, ps.sum(1) / norm2, 0))
        grams.append(p.mul_(batch.inverse_q[k][part, None]).mul_(batch.inverse_d[k]))
    for k in range(len(grams) - 1, -1, -1):
        block = batch.blocks[k]
        if k + 1 < len(grams):
            grams[k] += grams[k + 1]
            by_q[k] += by_q[k + 1]
        q = batch.query[part, block]
        grad_q[:, block] = grams[k] @ batch.documents[:, block] - by_q[k][:, None] * q
        grad_d[:, block].addmm_(grams[k].T, q)
    return loss


def _residual(
    batch: _Batch, part: slice, logits: Tensor, columns: Tensor | None, spread: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax - target, (rows, M), and the sum of the rows' cross-entropies at one dim.

    Args:
        batch: of which these are some rows.
        part: the rows.
        logits: (rows, M).
        columns: log-sum-exp of the positives' columns where document -> query counts too.
        spread: `_spread`, or None without label smoothing.
    """
    b, diagonal = len(batch.query), batch.options.first + part.start
    hit = 1 - batch.options.label_smoothing
    own = logits.diagonal(diagonal)
    lse = logits.logsumexp(1, keepdim=True)
    p = (logits - lse).exp_()
    p.diagonal(diagonal).sub_(hit)
    loss = (lse[:, 0] - hit * own).sum()
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
    count = batch.query.new_full((part.stop - part.start, 1), m)
    if excluded is not None:
        count -= excluded.sum(1, keepdim=True)
    spread = (batch.options.label_smoothing / count).repeat(1, m)
    if columns is not None:
        spread[:, :b] += batch.options.label_smoothing / columns.count
    return spread if excluded is None else spread.masked_fill_(excluded, 0)


def equal_texts(query_ids: Tensor, document_ids: Tensor, part: slice = ALL) -> Tensor:
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
