"""Matryoshka-weighted in-batch contrastive loss: blockwise over columns, tiled over rows.

    q, docs = normalize(query[:, :d]), normalize(documents[:, :d])
    S_d     = scale * q @ docs.T                                      (B, M), query -> document
    loss    = sum_d w_d * cross_entropy(S_d, arange(B))

- The dims are nested prefixes, so their Gram matrices are running sums: over the column blocks
  0-32-64-128-256-512 each column is multiplied once (512 columns) instead of once for every dim
  that holds it (992).
- A tile of query rows goes through softmax and gradient at once and is forgotten: memory is linear
  in the batch (never B x M, nor one such matrix a dim), and a tile stays in the cache.
- The value and the gradient equal sentence-transformers'
  MatryoshkaLoss(MultipleNegativesRankingLoss) to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse.errors import UserError

# Squared floor of a vector's norm: F.normalize's 1e-12, below which no gradient flows.
NORM_FLOOR = 1e-24
# A logit that weighs nothing: finite, since 0 * inf is NaN, and far below any 20 * cosine.
EXCLUDED = -1e9
# Query rows of a tile: the fastest from 128 to 512 at batches of 512 and 2,048, and 2 MB at 2,048.
TILE_ROWS = 256
ALL = slice(None)


def check_dims(dims: Sequence[int], dim: int) -> tuple[int, ...]:
    """The Matryoshka dims, largest first; each must be a prefix of the model's `dim` columns."""
    for d in dims:
        if not 1 <= d <= dim:
            raise UserError(
                f"matryoshka dim {d} (--model.matryoshka_dims) is no prefix of {dim} dimensions: "
                f"give values from 1 to {dim}"
            )
    if len(set(dims)) != len(dims) or not dims:
        raise UserError(f"matryoshka dims {list(dims)} (--model.matryoshka_dims): give each once")
    return tuple(sorted(dims, reverse=True))


def matryoshka_loss(
    query: Tensor,
    documents: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    symmetric: bool = False,
    text_ids: tuple[Tensor, Tensor] | None = None,
    tile: int = TILE_ROWS,
) -> Tensor:
    """Sum over `dims` of the weighted in-batch cross-entropy; a scalar.

    Args:
        query: (B, D).
        documents: (M, D), M >= B: the B positives in the queries' order, then any hard negatives.
        dims: Matryoshka dims, prefixes of D, in any order.
        weights: one a dim, 1 by default.
        scale: inverse temperature of the cosine.
        symmetric: add document -> query over the positives, and halve: sentence-transformers'
            MultipleNegativesSymmetricRankingLoss.
        text_ids: ids of the query texts (B,) and of the document texts (M,); pairs that
            `equal_texts` finds then count neither way. None where no text repeats.
        tile: query rows computed at a time.
    """
    ascending = sorted(zip(dims, weights or [1.0] * len(dims), strict=True))
    return _Tiled.apply(query, documents, ascending, scale, symmetric, text_ids, tile)


class _Tiled(torch.autograd.Function):
    """Forward computes value and gradients tile by tile; backward hands the gradients out.

    With S = s * G / (|q_i| |d_j|), P = dloss/dS (softmax - one-hot, weighted, over B):

        dloss/dG_ij     = P_ij s / (|q_i| |d_j|)
        dloss/d|q_i|^2  = -sum_j P_ij S_ij / (2 |q_i|^2), and the same for d by columns

    G_d is the sum of the blocks' products up to d, so a block's gradient is the sum over the dims
    that hold it: a running sum from the largest dim down.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        documents: Tensor,
        dims: list[tuple[int, float]],
        scale: float,
        symmetric: bool,
        text_ids: tuple[Tensor, Tensor] | None,
        tile: int,
    ) -> Tensor:
        """The loss; its gradients in `ctx`."""
        batch = _Batch(query, documents, dims, scale, text_ids)
        rows = [slice(i, min(i + tile, len(query))) for i in range(0, len(query), tile)]
        # Document -> query needs each column's softmax over all rows before any gradient.
        columns = _column_lse(batch, rows) if symmetric else None
        grad_q, grad_d = torch.zeros_like(query), torch.zeros_like(documents)
        by_d = [documents.new_zeros(len(documents)) for _ in dims]
        loss = query.new_zeros(())
        for part in rows:
            loss += _tile(batch, part, columns, grad_q[part], grad_d, by_d)
        total = torch.zeros_like(by_d[0])
        for k in range(len(dims) - 1, -1, -1):
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
        return grad_q * grad, grad_d * grad, None, None, None, None, None


class _Batch:
    """The batch and what all its tiles share: column blocks and squared norms, one a dim."""

    def __init__(
        self,
        query: Tensor,
        documents: Tensor,
        dims: list[tuple[int, float]],
        scale: float,
        text_ids: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.query, self.documents, self.scale, self.text_ids = query, documents, scale, text_ids
        self.weights = [weight for _, weight in dims]
        bounds = [0, *(dim for dim, _ in dims)]
        self.blocks = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        self.norm2_q, self.norm2_d = self._norms(query), self._norms(documents)
        self.inverse_q = [n.clamp_min(NORM_FLOOR).rsqrt() * scale for n in self.norm2_q]
        self.inverse_d = [n.clamp_min(NORM_FLOOR).rsqrt() for n in self.norm2_d]

    def _norms(self, vectors: Tensor) -> list[Tensor]:
        squares = [vectors[:, block].square().sum(1) for block in self.blocks]
        return list(torch.stack(squares).cumsum(0).unbind())

    def logits(self, part: slice) -> Iterator[Tensor]:
        """(rows, M) at each dim, from the smallest up."""
        excluded = None
        if self.text_ids is not None:
            excluded = equal_texts(*self.text_ids, part)
        q = self.query[part]
        gram = q.new_zeros(len(q), len(self.documents))
        for k, block in enumerate(self.blocks):
            gram.addmm_(q[:, block], self.documents[:, block].T)
            logits = (gram * self.inverse_q[k][part, None]).mul_(self.inverse_d[k])
            yield logits if excluded is None else logits.masked_fill_(excluded, EXCLUDED)


def _column_lse(batch: _Batch, rows: list[slice]) -> list[Tensor]:
    """log-sum-exp over all queries of each positive's column, (B,) a dim."""
    b = len(batch.query)
    lse = [batch.query.new_full((b,), -torch.inf) for _ in batch.blocks]
    for part in rows:
        for k, logits in enumerate(batch.logits(part)):
            lse[k] = torch.logaddexp(lse[k], logits[:, :b].logsumexp(0))
    return lse


def _tile(
    batch: _Batch,
    part: slice,
    columns: list[Tensor] | None,
    grad_q: Tensor,
    grad_d: Tensor,
    by_d: list[Tensor],
) -> Tensor:
    """The loss of some query rows; adds to the gradients.

    `by_d` collects sum_i P_ij S_ij of each dim, for the documents' norms.
    """
    b = len(batch.query)
    loss = batch.query.new_zeros(())
    grams, by_q = [], []
    for k, logits in enumerate(batch.logits(part)):
        share = batch.weights[k] / (b if columns is None else 2 * b)
        own = logits.diagonal(part.start)
        lse = logits.logsumexp(1, keepdim=True)
        p = (logits - lse).exp_().mul_(share)
        p.diagonal(part.start).sub_(share)
        loss += (lse[:, 0] - own).sum() * share
        if columns is not None:
            p[:, :b] += (logits[:, :b] - columns[k]).exp_().mul_(share)
            p.diagonal(part.start).sub_(share)
            loss += (columns[k][part] - own).sum() * share
        ps = logits.mul_(p)
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


def equal_texts(query_ids: Tensor, document_ids: Tensor, part: slice = ALL) -> Tensor:
    """False negatives: (rows, M) bool, True where a document says the same as the row's own pair.

    Document j is no negative of query i when its text equals positive i, when it equals query i,
    or when query j equals query i (so positive j answers query i).

    Args:
        query_ids: (B,) integer ids of the query texts.
        document_ids: (M,) integer ids of the positives, then of the negatives.
        part: the query rows wanted.
    """
    b = len(query_ids)
    own_query, own_positive = query_ids[part, None], document_ids[:b][part, None]
    equal = own_positive == document_ids
    equal |= own_query == document_ids
    equal[:, :b] |= own_query == query_ids
    equal.diagonal(part.start or 0).fill_(False)
    return equal
