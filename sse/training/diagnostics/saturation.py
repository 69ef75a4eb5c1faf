"""What `diagnose` computes: slopes of norms, effective rank, imbalance of a variance."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sse.model.norms import Gain, Gate, LayerNorm, NoNorm, RMSNorm

Array = NDArray[np.floating]


def gate_slope(norm: nn.Module, z: Tensor) -> Tensor | None:
    """f'(z) / f'(0), (B, D), of a gate y = beta * f(z); None for a norm without one."""
    if not isinstance(norm, Gate):
        return None
    points = torch.cat([z, torch.zeros_like(z[:1])]).detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(norm.activation(points).sum(), points)
    return slope[:-1] / slope[-1]


def dy_dx(norm: nn.Module, x: Tensor) -> Tensor | None:
    """The Jacobian's diagonal dy_i/dx_i, (B, D); None for a row-wise norm that is not known here.

    LayerNorm: w_i (1 - 1/D - h_i^2/D) / s, with h = (x - mean) / s.
    RMSNorm: w_i sqrt(D) (1 - u_i^2) / |x|, with u = x / |x|; an empty text's x = 0 counts as 0.
    """
    dim = x.shape[1]
    if isinstance(norm, LayerNorm):
        s = (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
        h = (x - x.mean(1, keepdim=True)) / s
        return norm.weight * (1 - 1 / dim - h.square() / dim) / s
    if isinstance(norm, RMSNorm):
        size = x.norm(dim=1, keepdim=True)
        slope = norm.weight * math.sqrt(dim) * (1 - (x / size).square()) / size
        return torch.where(size > 0, slope, 0)
    if not isinstance(norm, Gate | Gain | NoNorm):
        return None
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(norm(x).sum(), x)  # elementwise: the sum mixes nothing
    return slope


def effective_rank(centred: Array) -> float:
    """exp(-sum p log p), p the normalised singular values of (n, D) float64; 0 if all are 0.

    From the smaller Gram matrix in float64, a few times faster than an SVD; what that costs in
    precision (1e-8 of the largest singular value) the entropy does not see.
    """
    n, dim = centred.shape
    gram = centred @ centred.T if n <= dim else centred.T @ centred
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    if not singular.any():
        return 0.0
    p = singular[singular > 0] / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def imbalance(variance: Array) -> dict[str, float]:
    """How unevenly a variance (D,) lies on its dimensions; `diagnose.py` defines it."""
    total, median = float(variance.sum()), float(np.median(variance))
    quantities: dict[str, float] = {}
    if median > 0:
        quantities["max_over_median"] = float(variance.max()) / median
    if total > 0:
        most = np.sort(variance)[-math.ceil(len(variance) / 10) :]
        quantities["top_tenth_share"] = float(most.sum()) / total
        quantities["participation"] = 1 / float(np.square(variance / total).sum())
    return quantities
