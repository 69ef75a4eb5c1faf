"""`sse.norms` with numpy, for inference without torch: a class there, a function here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vectors = dict[str, NDArray[np.float32]]  # a norm's parameters, as `sse.folder` names them
TINY = np.float32(1e-12)  # torch.nn.functional.normalize's floor of a norm
LAYERNORM_EPS = np.float32(1e-5)  # torch.nn.LayerNorm's


def _dyt(x: NDArray[np.float32], v: Vectors) -> None:
    dim = x.shape[1]
    x *= v["alpha"][:dim]
    x += v["bias"][:dim]
    np.tanh(x, out=x)
    x *= v["beta"][:dim]


def _layernorm(x: NDArray[np.float32], v: Vectors) -> None:
    x -= x.mean(axis=1, keepdims=True)
    variance = np.einsum("nd,nd->n", x, x) / np.float32(x.shape[1])
    x /= np.sqrt(variance + LAYERNORM_EPS)[:, None]
    x *= v["weight"]
    x += v["bias"]


def _rmsnorm(x: NDArray[np.float32], v: Vectors) -> None:
    normalise(x)
    x *= v["gain"]


# What `sse.norms` computes, in place on (n, D), and whether a prefix of the columns needs only
# itself.
NORMS: dict[str, tuple[Callable[[NDArray[np.float32], Vectors], None], bool]] = {
    "dyt": (_dyt, True),
    "layernorm": (_layernorm, False),
    "rmsnorm": (_rmsnorm, False),
    "none": (lambda x, v: None, True),
}


def normalise(x: NDArray[np.float32]) -> None:
    """Make x / ||x||, row by row, in place; a row of zeros stays."""
    if len(x) == 1:  # a query: one call instead of five
        x /= max(math.sqrt(x[0].dot(x[0])), 1e-12)
        return
    x /= np.maximum(np.sqrt(np.einsum("nd,nd->n", x, x)), TINY)[:, None]
