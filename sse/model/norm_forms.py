"""The norms without torch: what each computes, step by step, and how a folder stores it.

`NORM_FORMS` holds one `Form` per norm of `sse.model.norms`, by the same name. All but training
follows from it: the numpy encoder, the folder's tensors, the native sentence-transformers modules
(`sse.model.export`), the ONNX graph and the model card.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vectors = dict[str, Array]  # a norm's parameters, each (D,), by their names in a `Form`
TINY = np.float32(1e-12)  # torch.nn.functional.normalize's floor of a norm
LAYERNORM_EPS = np.float32(1e-5)  # torch.nn.LayerNorm's


@dataclass(frozen=True)
class Diagonal:
    """x -> activation(scale * x + shift), with one scale and one shift a dimension.

    Attributes:
        scale: the vector's name.
        shift: the vector's name, or None for no shift.
        activation: a name of `ACTIVATIONS`.
    """

    scale: str
    shift: str | None = None
    activation: str = "Identity"
    by_dimension = True

    @property
    def tensors(self) -> dict[str, str]:
        """{vector: its tensor in the native Dense module, on the diagonal if that is square}."""
        shift = {} if self.shift is None else {self.shift: "linear.bias"}
        return {self.scale: "linear.weight"} | shift

    def apply(self, x: Array, v: Vectors) -> None:
        """In place on (n, d); d may be a prefix of the vectors' D."""
        dim = x.shape[1]
        x *= v[self.scale][:dim]
        if self.shift is not None:
            x += v[self.shift][:dim]
        ACTIVATIONS[self.activation](x)


@dataclass(frozen=True)
class Unit:
    """x -> x / ||x||, and 0 for 0."""

    by_dimension = False

    @property
    def tensors(self) -> dict[str, str]:
        """None."""
        return {}

    def apply(self, x: Array, v: Vectors) -> None:
        """In place on (n, D)."""
        normalise(x)


@dataclass(frozen=True)
class Standard:
    """x -> weight * (x - mean) / sqrt(variance + eps) + bias, over one row: LayerNorm."""

    by_dimension = False

    @property
    def tensors(self) -> dict[str, str]:
        """{vector: its tensor in the native LayerNorm module}."""
        return {"weight": "norm.weight", "bias": "norm.bias"}

    def apply(self, x: Array, v: Vectors) -> None:
        """In place on (n, D)."""
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("nd,nd->n", x, x) / np.float32(x.shape[1])
        x /= np.sqrt(variance + LAYERNORM_EPS)[:, None]
        x *= v["weight"]
        x += v["bias"]


@dataclass(frozen=True)
class Form:
    """A norm as steps on the pooled mean.

    Attributes:
        steps: applied one after the other.
        text: the norm in words, for the model card.
    """

    steps: tuple[Diagonal | Unit | Standard, ...]
    text: str

    @property
    def by_dimension(self) -> bool:
        """Whether a prefix of the columns needs only itself."""
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
        """What `sse.model.norms` computes, in place on (n, D)."""
        for step in self.steps:
            step.apply(x, v)


def normalise(x: Array) -> None:
    """Make x / ||x||, row by row, in place; a row of zeros stays."""
    if len(x) == 1:  # a query: one call instead of five
        x /= max(math.sqrt(x[0].dot(x[0])), 1e-12)
        return
    x /= np.maximum(np.sqrt(np.einsum("nd,nd->n", x, x)), TINY)[:, None]


# In place, by the name of the class in torch.nn, which a native Dense module imports.
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
    "gain": Form((Diagonal("gain"),), "a learnt scale of each dimension"),
    "none": Form((), "no norm"),
}
