"""Matryoshka-weighted in-batch contrastive loss, computed blockwise over column prefixes.

    q, docs = normalize(query[:, :d]), normalize(documents[:, :d])
    S_d     = scale * q @ docs.T                                      (B, M), query -> document
    loss    = sum_d w_d * cross_entropy(S_d, arange(B))

The dims are nested prefixes, so their Gram matrices are running sums: over the column blocks
0-32-64-128-256-512 each column is multiplied once (512 columns) instead of once for every dim that
holds it (992). The value and the gradient equal sentence-transformers'
MatryoshkaLoss(MultipleNegativesRankingLoss) to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse.errors import UserError

# Squared floor of a vector's norm: F.normalize's 1e-12, below which no gradient flows.
NORM_FLOOR = 1e-24
# A logit that weighs nothing: finite, since 0 * inf is NaN, and far below any 20 * cosine.
EXCLUDED = -1e9


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
    excluded: Tensor | None = None,
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
        excluded: (B, M) bool, pairs that count neither way (`equal_texts`); never the diagonal.
    """
    ascending = sorted(zip(dims, weights or [1.0] * len(dims), strict=True))
    return _Blockwise.apply(query, documents, ascending, scale, symmetric, excluded)


class _Blockwise(torch.autograd.Function):
    """Forward computes the gradient of every Gram matrix at once; backward only multiplies.

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
        excluded: Tensor | None,
    ) -> Tensor:
        """The loss, and in `ctx` the gradients by the Gram matrices and the squared norms."""
        b = len(query)
        gram = query.new_zeros(b, len(documents))
        norm2_q, norm2_d = query.new_zeros(b), query.new_zeros(len(documents))
        loss = query.new_zeros(())
        saved = []
        start = 0
        for dim, weight in dims:
            q, d = query[:, start:dim], documents[:, start:dim]
            gram.addmm_(q, d.T)
            norm2_q += q.square().sum(1)
            norm2_d += d.square().sum(1)
            start = dim
            inverse_q = norm2_q.clamp_min(NORM_FLOOR).rsqrt() * scale
            inverse_d = norm2_d.clamp_min(NORM_FLOOR).rsqrt()
            logits = (gram * inverse_q[:, None]).mul_(inverse_d)
            if excluded is not None:
                logits.masked_fill_(excluded, EXCLUDED)
            term, p = _cross_entropy(logits, weight, symmetric)
            loss += term
            if any(ctx.needs_input_grad):
                ps = logits.mul_(p)
                # Below the floor the norm is a constant, so nothing flows through it.
                by_q = torch.where(norm2_q > NORM_FLOOR, -ps.sum(1) / norm2_q, 0.0)
                by_d = torch.where(norm2_d > NORM_FLOOR, -ps.sum(0) / norm2_d, 0.0)
                saved += [p.mul_(inverse_q[:, None]).mul_(inverse_d), by_q, by_d]
        ctx.save_for_backward(query, documents, *saved)
        ctx.bounds = [0, *(dim for dim, _ in dims)]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Blocks from the last to the first, each with the sum of its dims' gradients."""
        query, documents, *saved = ctx.saved_tensors
        grad_q, grad_d = torch.zeros_like(query), torch.zeros_like(documents)
        by_gram = by_q = by_d = None
        for k in range(len(ctx.bounds) - 2, -1, -1):
            gram_k, q_k, d_k = saved[3 * k : 3 * k + 3]
            by_gram = gram_k if by_gram is None else by_gram + gram_k
            by_q = q_k if by_q is None else by_q + q_k
            by_d = d_k if by_d is None else by_d + d_k
            block = slice(ctx.bounds[k], ctx.bounds[k + 1])
            q, d = query[:, block], documents[:, block]
            grad_q[:, block] = torch.addmm(by_q[:, None] * q, by_gram, d)
            grad_d[:, block] = torch.addmm(by_d[:, None] * d, by_gram.T, q)
        return grad_q.mul_(grad), grad_d.mul_(grad), None, None, None, None


def _cross_entropy(logits: Tensor, weight: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Weight * mean cross-entropy of the diagonal, and its gradient P by the logits (B, M)."""
    b = len(logits)
    share = weight / (2 * b if symmetric else b)
    own = logits.diagonal()
    lse = logits.logsumexp(1, keepdim=True)
    p = (logits - lse).exp_().mul_(share)
    p.diagonal().sub_(share)
    loss = (lse[:, 0] - own).sum() * share
    if symmetric:
        columns = logits[:, :b]
        lse = columns.logsumexp(0)
        p[:, :b] += (columns - lse).exp_().mul_(share)
        p.diagonal().sub_(share)
        loss = loss + (lse - own).sum() * share
    return loss, p


def equal_texts(query_ids: Tensor, document_ids: Tensor) -> Tensor:
    """False negatives: (B, M) bool, True where a document says the same as the row's own pair.

    Document j is no negative of query i when its text equals positive i, when it equals query i,
    or when query j equals query i (so positive j answers query i).

    Args:
        query_ids: (B,) integer ids of the query texts.
        document_ids: (M,) integer ids of the positives, then of the negatives.
    """
    b = len(query_ids)
    own = document_ids[None, :] == document_ids[None, :b].T
    own |= query_ids[:, None] == document_ids[None, :]
    own[:, :b] |= query_ids[:, None] == query_ids[None, :]
    own[:, :b].fill_diagonal_(False)
    return own
