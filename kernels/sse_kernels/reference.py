"""Three-line references in plain torch: what every faster path must equal, forward and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bag_mean_reference(weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """x_b = mean of weight[ids[offsets_b : offsets_{b+1}]]; an empty bag gives 0. Returns (B, D)."""
    return F.embedding_bag(ids, weight, offsets, mode="mean", include_last_offset=True)


def bag_dyt_reference(
    weight: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor
) -> Tensor:
    """y = beta * tanh(alpha * x + bias), x the bag's mean. Returns (B, D)."""
    x = bag_mean_reference(weight, ids, offsets)
    return torch.tanh(torch.addcmul(bias, x, alpha)) * beta


def sech2(z: Tensor) -> Tensor:
    """sech^2(z) = 4 s / (1 + s)^2 with s = exp(-2 |z|): no cancellation, unlike 1 - tanh(z)^2."""
    s = torch.exp(-2 * z.abs())
    return 4 * s / (1 + s) ** 2
