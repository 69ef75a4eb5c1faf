"""The norms without torch: each as a sequence of steps, with the names of its stored vectors.

`NORM_FORMS` holds one `Form` per norm of `sse.model.norms`, by the same name. Everything except
training is derived from it: the numpy encoder, the folder's tensors, the native modules of
sentence-transformers (`sse.model.exported.native_files`), the ONNX graph and the model card.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vectors = dict[str, Array]  # a norm's parameters, each (D,), by their names in a `Form`
TINY = np.float32(1e-12)  # least divisor of a row, as in torch.nn.functional.normalize
LAYERNORM_EPS = np.float32(1e-5)  # as in torch.nn.LayerNorm


@dataclass(frozen=True)
class Diagonal:
    """x -> activation(scale * x + shift), with one scale and one shift per dimension."""

    scale: str  # the vector's name
    shift: str | None = None  # the vector's name, or None for no shift
    activation: str = "Identity"  # a name of `ACTIVATIONS`
    by_dimension = True  # y_j depends on x_j alone

    @property
    def tensors(self) -> dict[str, str]:
        """{vector: its tensor in the native Dense module}, on the diagonal of a square one."""
        shift = {} if self.shift is None else {self.shift: "linear.bias"}
        return {self.scale: "linear.weight"} | shift

    def apply(self, x: Array, v: Vectors) -> None:
        """Apply the step in place to x (n, d), the first d <= D columns."""
        dim = x.shape[1]
        x *= v[self.scale][:dim]
        if self.shift is not None:
            x += v[self.shift][:dim]
        ACTIVATIONS[self.activation](x)


@dataclass(frozen=True)
class Unit:
    """x -> x / max(||x||, 1e-12), row by row."""

    by_dimension = False

    @property
    def tensors(self) -> dict[str, str]:
        """{}: the native Normalize module has no parameters."""
        return {}

    def apply(self, x: Array, v: Vectors) -> None:
        """Apply the step in place to x (n, D)."""
        normalise(x)


@dataclass(frozen=True)
class Standard:
    """x -> weight * (x - mean) / sqrt(variance + eps) + bias, both over one row: LayerNorm."""

    by_dimension = False

    @property
    def tensors(self) -> dict[str, str]:
        """{vector: its tensor in the native LayerNorm module}."""
        return {"weight": "norm.weight", "bias": "norm.bias"}

    def apply(self, x: Array, v: Vectors) -> None:
        """Apply the step in place to x (n, D)."""
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("nd,nd->n", x, x) / np.float32(x.shape[1])
        x /= np.sqrt(variance + LAYERNORM_EPS)[:, None]
        x *= v["weight"]
        x += v["bias"]


@dataclass(frozen=True)
class Form:
    """A norm as a sequence of steps on the mean x (n, D)."""

    steps: tuple[Diagonal | Unit | Standard, ...]
    text: str  # the norm in words, for the model card

    @property
    def by_dimension(self) -> bool:
        """Whether the first d columns of y depend on the first d columns of x alone."""
        return all(step.by_dimension for step in self.steps)

    @property
    def stored(self) -> dict[str, str]:
        """{vector: "module number/tensor"} in a folder of native modules; the table is module 0."""
        return {
            vector: f"{number}/{tensor}"
            for number, step in enumerate(self.steps, 1)
            for vector, tensor in step.tensors.items()
        }

    def apply(self, x: Array, v: Vectors) -> None:
        """Apply the norm in place to x (n, D), as `sse.model.norms` computes it."""
        for step in self.steps:
            step.apply(x, v)


def normalise(x: Array) -> None:
    """Set x (n, D) to x / max(||x||, 1e-12), row by row; a row of zeros stays.

    >>> x = np.array([[3, 4], [0, 0]], np.float32)
    >>> normalise(x)
    >>> x.tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    if len(x) == 1:  # a query: fewer calls of numpy
        x /= max(math.sqrt(x[0].dot(x[0])), 1e-12)
        return
    x /= np.maximum(np.sqrt(np.einsum("nd,nd->n", x, x)), TINY)[:, None]


# Each works in place. The names are classes of torch.nn, which a native Dense module imports.
ACTIVATIONS: dict[str, Callable[[Array], object]] = {
    "Identity": lambda x: x,
    "Tanh": lambda x: np.tanh(x, out=x),
    "Hardtanh": lambda x: np.clip(x, -1, 1, out=x),
}

_DYT = (Diagonal("alpha", "bias", "Tanh"), Diagonal("beta"))

NORM_FORMS = {
    "dyt": Form(_DYT, "Separable Dynamic Tanh, `y = beta * tanh(alpha * x + bias)` per dimension"),
    "dyt_scalar": Form(
        _DYT, "Dynamic Tanh with one alpha for all dimensions, `y = beta * tanh(alpha * x + bias)`"
    ),
    "dyt_outside": Form(
        (Diagonal("alpha", None, "Tanh"), Diagonal("beta", "bias")),
        "Dynamic Tanh with its bias outside, `y = beta * tanh(alpha * x) + bias` per dimension",
    ),
    "dyt_frozen": Form(
        _DYT, "a fixed tanh, `y = beta * tanh(alpha * x + bias)` as it was before training"
    ),
    "hardtanh": Form(
        (Diagonal("alpha", "bias", "Hardtanh"), Diagonal("beta")),
        "a clipped line, `y = beta * clip(alpha * x + bias, -1, 1)` per dimension",
    ),
    "layernorm": Form((Standard(),), "LayerNorm"),
    "rmsnorm": Form((Unit(), Diagonal("gain")), "RMSNorm"),
    "gain": Form((Diagonal("gain"),), "a learnt scale per dimension"),
    "none": Form((), "no norm"),
}
