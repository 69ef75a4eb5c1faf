"""Short references in plain torch: what every faster path must equal, gradients included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def bag_mean_reference(weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """Mean of weight[ids[offsets[b] : offsets[b + 1]]] for each b, an empty bag 0. (B, D)."""
    return F.embedding_bag(ids, weight, offsets, mode="mean", include_last_offset=True)


def bag_dyt_reference(
    weight: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor
) -> Tensor:
    """Gate the mean x: y = beta * tanh(alpha * x + bias). Returns (B, D)."""
    x = bag_mean_reference(weight, ids, offsets)
    return torch.tanh(torch.addcmul(bias, x, alpha)) * beta


def sech2(z: Tensor) -> Tensor:
    """Hyperbolic secant squared, 4 s / (1 + s)^2 with s = exp(-2 |z|): no cancellation."""
    s = torch.exp(-2 * z.abs())
    return 4 * s / (1 + s) ** 2


def matryoshka_contrastive_reference(
    query: Tensor,
    documents: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    symmetric: bool = False,
    excluded: Tensor | None = None,
    first: int = 0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`matryoshka_contrastive` on B x M matrices; `excluded` (B, M) bool in place of text ids."""
    b, loss = len(query), query.new_zeros(())
    own = torch.arange(first, first + b, device=query.device)
    skip = torch.zeros(b, len(documents), dtype=torch.bool, device=query.device)
    skip = skip if excluded is None else excluded
    for dim, weight in zip(dims, weights or [1.0] * len(dims), strict=True):
        logits = scale * F.normalize(query[:, :dim]) @ F.normalize(documents[:, :dim]).T
        sides = [(logits, skip)] + ([(logits[:, :b].T, skip[:, :b].T)] if symmetric else [])
        for s, x in sides:
            even = s.masked_fill(x, 0).sum(1) / (~x).sum(1)
            target = (1 - label_smoothing) * s.gather(1, own[:, None])[:, 0]
            lse = s.masked_fill(x, -torch.inf).logsumexp(1)
            loss = loss + weight / len(sides) * (lse - target - label_smoothing * even).mean()
    return loss
