"""What stands between the mean of the token rows and the text's vector, one class per norm.

`NORMS` is the registry: a class here and a name there, and the trainer knows it. Every norm maps
the pooled mean x (B, D) to y (B, D), element by element or over one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sse.errors import UserError


class SeparableDyT(nn.Module):
    """Separable Dynamic Tanh: y = beta * tanh(alpha * x + bias), all three vectors per dimension.

    At the start alpha = `alpha_init`, beta = 1, bias = 0, as published. Its gradient is
    dy/dx = alpha * beta * sech^2(alpha * x + bias).

    Source: the SSE model card; after DyT (Zhu et al. 2025, arXiv 2503.10622), which has a scalar
    alpha and its bias outside the tanh.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), float(alpha_init)))
        self.beta = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """The unfused form; `SSE` calls the fused op instead."""
        return torch.tanh(x * self.alpha + self.bias) * self.beta


class RMSNorm(nn.Module):
    """y = weight * sqrt(D) * x / ||x||, and 0 for x = 0.

    The usual root-mean-square norm, its eps moved into the norm's floor (1e-12) so that it equals a
    `Normalize` and a diagonal `Dense` module exactly. Source: Zhang and Sennrich 2019.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return F.normalize(x, dim=-1) * (self.weight * math.sqrt(x.shape[-1]))


NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "dyt": SeparableDyT,
    "layernorm": lambda dim, alpha_init: nn.LayerNorm(dim),
    "rmsnorm": lambda dim, alpha_init: RMSNorm(dim),
    "none": lambda dim, alpha_init: nn.Identity(),
}


def check_norm(name: str) -> None:
    """UserError for a name that no norm has."""
    if name not in NORMS:
        raise UserError(f"unknown norm '{name}' (--model.norm): choose one of {', '.join(NORMS)}")


def make_norm(name: str, dim: int, alpha_init: float = 0.5) -> nn.Module:
    """The norm `name` of `dim` dimensions; `alpha_init` matters to the tanh-like ones only."""
    check_norm(name)
    return NORMS[name](dim, alpha_init)
