"""What stands between the mean of the token rows and the text's vector, one class per norm.

- Every norm maps the pooled mean x (B, D) to y (B, D), element by element or over one row.
- A new norm is a class and an entry of `NORMS` here, and its `Form` in `sse.model.norm_forms`, from
  which the export, the torch-free encoder and the ONNX graph follow.
- The gates share y = beta * f(alpha * x + bias) and start at alpha = `alpha_init`, beta = 1,
  bias = 0. An empty text has x = 0, so its vector is beta * f(bias). NaN goes through every norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sse.common.errors import UserError

Vectors = tuple[Tensor, Tensor, Tensor]


class Norm(nn.Module):
    """What the model asks of a norm beside `forward`."""

    def fused(self) -> Vectors | None:
        """(alpha, beta, bias), each (D,), where y = beta * tanh(alpha * x + bias): one fused op."""
        return None

    def vectors(self) -> dict[str, Tensor]:
        """The parameters as a folder stores them: (D,) each, by `sse.model.norm_forms`' names."""
        return {name: value.detach() for name, value in self.named_parameters()}

    @torch.no_grad()
    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Set the parameters from what `vectors` gave."""
        for name, parameter in self.named_parameters():
            parameter.copy_(vectors[name])


class Gate(Norm):
    """y = beta * f(alpha * x + bias), all three vectors per dimension.

    With z = alpha * x + bias and g = dL/dy the gradients are dL/dx = g * beta * f'(z) * alpha,
    dL/dalpha = sum_b g * beta * f'(z) * x, dL/dbias = sum_b g * beta * f'(z), and
    dL/dbeta = sum_b g * f(z).
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), float(alpha_init)))
        self.beta = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def preactivation(self, x: Tensor) -> Tensor:
        """Z (B, D), which saturates f where |z| is large."""
        return x * self.alpha + self.bias

    def activation(self, z: Tensor) -> Tensor:
        """f(z)."""
        return torch.tanh(z)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D), unfused; `SSE` calls the fused op where `fused` allows."""
        return self.activation(self.preactivation(x)) * self.beta


class SeparableDyT(Gate):
    """Separable Dynamic Tanh: f = tanh, f'(z) = sech^2(z).

    Source: the SSE model card; after DyT (Zhu et al. 2025, arXiv 2503.10622), which has a scalar
    alpha and its bias outside the tanh.
    """

    def fused(self) -> Vectors | None:
        """(D,) each."""
        return self.alpha, self.beta, self.bias


class ScalarDyT(SeparableDyT):
    """SeparableDyT with one alpha for all dimensions, as DyT has it: dL/dalpha sums over them too.

    A folder stores alpha D times.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim, alpha_init)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))

    def fused(self) -> Vectors | None:
        """Alpha written out to (D,): what flows back into it is summed."""
        return self.alpha.expand_as(self.beta).contiguous(), self.beta, self.bias

    def vectors(self) -> dict[str, Tensor]:
        """(D,) each."""
        alpha = self.alpha.expand_as(self.beta).contiguous()
        return {"alpha": alpha.detach(), "beta": self.beta.detach(), "bias": self.bias.detach()}

    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """UserError where alpha differs between dimensions: that is a `dyt`."""
        alpha = vectors["alpha"]
        if not torch.equal(alpha, alpha[:1].expand_as(alpha)):
            raise UserError(
                "a dyt_scalar model whose alpha differs between dimensions: export it again, or "
                'name its norm "dyt" in sse_config.json'
            )
        super().load_vectors({**vectors, "alpha": alpha[0]})


class OutsideDyT(Gate):
    """y = beta * tanh(alpha * x) + bias: the bias where DyT has it, all else as SeparableDyT.

    dL/dbias = sum_b g; the other gradients are a gate's, with z = alpha * x. An empty text's vector
    is the bias. DyT's own alpha is a scalar (see ScalarDyT) and its beta is called gamma.
    """

    def preactivation(self, x: Tensor) -> Tensor:
        """Z (B, D)."""
        return x * self.alpha

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return super().forward(x) + self.bias


class FrozenDyT(SeparableDyT):
    """SeparableDyT that stays at its start: no gradient, no step, no weight decay.

    Only the table learns; against `dyt` it shows what learning the three vectors is worth.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__(dim, alpha_init)
        self.requires_grad_(False)


class Hardtanh(Gate):
    """f(z) = clip(z, -1, 1), f'(z) = 1 for |z| < 1 and 0 beyond; 0 at the kinks themselves.

    A value that is cut in every text gets no gradient at all, unlike tanh's small one.
    """

    def activation(self, z: Tensor) -> Tensor:
        """f(z)."""
        return F.hardtanh(z)


class LayerNorm(Norm, nn.LayerNorm):
    """y = weight * (x - mean) / sqrt(variance + 1e-5) + bias, mean and variance over one row.

    With n = (x - mean) / s, s = sqrt(variance + 1e-5) and h = g * weight:
    dL/dx = (h - mean(h) - n * mean(h * n)) / s.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        nn.LayerNorm.__init__(self, dim)


class RMSNorm(Norm):
    """y = weight * sqrt(D) * x / ||x||, and 0 for x = 0.

    With u = x / ||x|| and h = g * weight * sqrt(D): dL/dx = (h - u * (u . h)) / ||x||.

    The usual root-mean-square norm, its eps moved into the norm's floor (1e-12) so that it equals a
    `Normalize` and a diagonal `Dense` module exactly. Source: Zhang and Sennrich 2019.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return F.normalize(x, dim=-1) * (self.weight * math.sqrt(x.shape[-1]))

    def vectors(self) -> dict[str, Tensor]:
        """`gain`, which is weight * sqrt(D)."""
        return {"gain": self.weight.detach() * math.sqrt(len(self.weight))}

    def load_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """From `gain`."""
        super().load_vectors({"weight": vectors["gain"] / math.sqrt(len(self.weight))})


class Gain(Norm):
    """y = gain * x: a learnt scale of each dimension and nothing else, dL/dgain = sum_b g * x.

    What is left of a gate without its non-linearity and bias.
    """

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return x * self.gain


class NoNorm(Norm):
    """y = x."""

    def __init__(self, dim: int, alpha_init: float = 0.5) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
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
    """UserError for a name that no norm has."""
    if name not in NORMS:
        raise UserError(f"unknown norm '{name}' (--model.norm): choose one of {', '.join(NORMS)}")


def make_norm(name: str, dim: int, alpha_init: float = 0.5) -> Norm:
    """The norm `name` of `dim` dimensions; `alpha_init` matters to the gates only."""
    check_norm(name)
    return NORMS[name](dim, alpha_init)  # type: ignore[call-arg]  # each class takes both
