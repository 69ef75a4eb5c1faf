"""The public ops; the device decides which implementation runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bag_mean(weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """x = mean(weight[ids of the bag]), an empty bag gives 0; offsets (B + 1,). Returns (B, D)."""
    return F.embedding_bag(ids, weight, offsets, mode="mean", include_last_offset=True)


def bag_dyt(
    weight: Tensor, ids: Tensor, offsets: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor
) -> Tensor:
    """y = beta * tanh(alpha * mean + bias), per dimension. Returns (B, D)."""
    x = bag_mean(weight, ids, offsets)
    return torch.tanh(torch.addcmul(bias, x, alpha)) * beta
