"""Three-line references in plain torch: what every faster path must equal, gradients included."""

from __future__ import annotations

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
