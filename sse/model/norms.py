"""The norms between the mean of the token rows and the text's vector, one class per norm.

- Every norm maps the mean x (B, D) to y (B, D), element by element or over one row.
- A new norm needs a class and an entry of `NORMS` here, and a `Form` in `sse.model.norm_forms`.
  Export, torch-free encoder and ONNX graph are derived from the form.
- The gates share y = beta * f(alpha * x + bias) and start at alpha = `alpha_init`, beta = 1,
  bias = 0. An empty text has x = 0, so its vector is beta * f(bias). Every norm passes NaN on.
- In the equations L is the loss, g = dL/dy, and sum_b the sum over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sse.common.errors import UserError, one_of

GateVectors = tuple[Tensor, Tensor, Tensor]


class Norm(nn.Module):
    """The methods that the model and its folder call on a norm."""

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()

    def fused(self) -> GateVectors | None:
        """(alpha, beta, bias), each (D,), if y = beta * tanh(alpha * x + bias): one fused op."""
        return None

    def vectors(self) -> dict[str, Tensor]:
        """The parameters as a folder stores them, each (D,), by their names in `NORM_FORMS`."""
        return {name: value.detach() for name, value in self.named_parameters()}

    @torch.no_grad()
    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Set the parameters to a result of `vectors`."""
        for name, parameter in self.named_parameters():
            parameter.copy_(vectors[name])


class Gate(Norm):
    """y = beta * f(alpha * x + bias), with one alpha, beta and bias per dimension.

    With z = alpha * x + bias the gradients are dL/dx = g * beta * f'(z) * alpha,
    dL/dalpha = sum_b g * beta * f'(z) * x, dL/dbias = sum_b g * beta * f'(z), and
    dL/dbeta = sum_b g * f(z).
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim)
        self.alpha = nn.Parameter(torch.full((dim,), float(alpha_init)))
        self.beta = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def preactivation(self, x: Tensor) -> Tensor:
        """The preactivation z = alpha * x + bias, (B, D); f saturates where |z| is large."""
        return x * self.alpha + self.bias

    def activation(self, z: Tensor) -> Tensor:
        """f(z) = tanh(z), (B, D)."""
        return torch.tanh(z)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to y (B, D); `SSE` calls one fused op instead where `fused` has vectors."""
        return self.activation(self.preactivation(x)) * self.beta


class SeparableDyT(Gate):
    """Separable Dynamic Tanh: f = tanh, f'(z) = sech^2(z).

    Source: the SSE model card; after DyT (Zhu et al. 2025, arXiv 2503.10622), which has a scalar
    alpha and its bias outside the tanh.
    """

    def fused(self) -> GateVectors | None:
        """(alpha, beta, bias), each (D,)."""
        return self.alpha, self.beta, self.bias


class ScalarDyT(SeparableDyT):
    """SeparableDyT with one alpha for all dimensions, as in DyT.

    dL/dalpha sums over the dimensions too. A folder stores alpha D times.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim, alpha_init)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))

    def fused(self) -> GateVectors | None:
        """(alpha, beta, bias), each (D,); autograd sums alpha's gradient over the copies."""
        return self.alpha.expand_as(self.beta).contiguous(), self.beta, self.bias

    def vectors(self) -> dict[str, Tensor]:
        """The parameters, each (D,), with alpha repeated."""
        alpha = self.alpha.expand_as(self.beta).contiguous()
        return {"alpha": alpha.detach(), "beta": self.beta.detach(), "bias": self.bias.detach()}

    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Set the parameters; UserError where alpha differs between dimensions, as in `dyt`."""
        alpha = vectors["alpha"]
        if not torch.equal(alpha, alpha[:1].expand_as(alpha)):
            raise UserError(
                "a dyt_scalar model whose alpha differs between dimensions: export it again, or "
                'name its norm "dyt" in sse_config.json'
            )
        super().load_vectors({**vectors, "alpha": alpha[0]})


class OutsideDyT(Gate):
    """y = beta * tanh(alpha * x) + bias: the bias stands outside, as in DyT.

    dL/dbias = sum_b g; the other gradients are a gate's, with z = alpha * x. An empty text's vector
    is the bias. DyT's own alpha is a scalar (see ScalarDyT), and its gamma is our beta.
    """

    def preactivation(self, x: Tensor) -> Tensor:
        """The preactivation z = alpha * x, (B, D)."""
        return x * self.alpha

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to y (B, D)."""
        return super().forward(x) + self.bias


class FrozenDyT(SeparableDyT):
    """SeparableDyT with constant vectors: no gradient, no step, no weight decay.

    Only the table learns. Compared with `dyt` it shows what learning the three vectors is worth.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim, alpha_init)
        self.requires_grad_(False)


class Hardtanh(Gate):
    """f(z) = clip(z, -1, 1), f'(z) = 1 for |z| < 1 and 0 beyond; 0 at the kinks themselves.

    A dimension that is clipped in every text gets no gradient, where tanh's would be small.
    """

    def activation(self, z: Tensor) -> Tensor:
        """f(z) = clip(z, -1, 1), (B, D)."""
        return F.hardtanh(z)


class LayerNorm(Norm, nn.LayerNorm):
    """y = weight * (x - mean) / sqrt(variance + 1e-5) + bias, mean and variance over one row.

    With n = (x - mean) / s, s = sqrt(variance + 1e-5) and h = g * weight:
    dL/dx = (h - mean(h) - n * mean(h * n)) / s.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        nn.LayerNorm.__init__(self, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to y (B, D)."""
        if not torch.is_grad_enabled():
            return nn.LayerNorm.forward(self, x)  # the bits of an exported folder
        # ATen's own gradients of weight and bias depend on the number of threads.
        x = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        return x * self.weight + self.bias


class RMSNorm(Norm):
    """y = weight * sqrt(D) * x / max(||x||, 1e-12).

    With u = x / ||x|| and h = g * weight * sqrt(D): dL/dx = (h - u * (u . h)) / ||x||.

    This is RMSNorm with the floor 1e-12 in place of eps, so that it equals a native `Normalize` and
    a diagonal `Dense` exactly. Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim)
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to y (B, D)."""
        return F.normalize(x, dim=-1) * (self.weight * math.sqrt(x.shape[-1]))

    def vectors(self) -> dict[str, Tensor]:
        """{"gain": weight * sqrt(D)}, (D,)."""
        return {"gain": self.weight.detach() * math.sqrt(len(self.weight))}

    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Set weight to gain / sqrt(D)."""
        super().load_vectors({"weight": vectors["gain"] / math.sqrt(len(self.weight))})


class Gain(Norm):
    """y = gain * x, a gate without non-linearity and bias; dL/dgain = sum_b g * x."""

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim)
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to y (B, D)."""
        return x * self.gain


class NoNorm(Norm):
    """y = x."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, D) to itself."""
        return x


NORMS: dict[str, type[Norm]] = {
    "dyt": SeparableDyT,
    "dyt_scalar": ScalarDyT,
    "dyt_outside": OutsideDyT,
    "dyt_frozen": FrozenDyT,
    "hardtanh": Hardtanh,
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
    "gain": Gain,
    "none": NoNorm,
}


def check_norm(name: str) -> None:
    """UserError for a name that `NORMS` lacks."""
    if name not in NORMS:
        raise UserError(f"norm is '{name}': {one_of(name, NORMS)}")


def make_norm(name: str, dim: int, alpha_init: float = 0.5) -> Norm:
    """The norm `name` of `dim` dimensions; only gates use `alpha_init`."""
    check_norm(name)
    return NORMS[name](dim, alpha_init)
