"""Does the gate saturate? What a model does to a sample of texts, as one tidy table.

A row is (step, side, length, quantity, value, per_dim):

- `side`: `anchor` or `positive` (`text` from `diagnose_texts` without positives) for what is
  measured on texts; `model` for what is measured on parameters.
- `length`: `all`; `short`, texts of at most `SHORT_TOKENS` tokens, empty ones among them; `long`.
- `per_dim`: the D values whose mean is `value`, for the quantities marked * at length `all`.

Of the texts, with x the mean of the token rows, y the vector, z = alpha * x + bias (without the
bias where it stands outside the gate), f the gate (tanh in DyT):

    texts, texts_empty, tokens_mean       counts; mean length in tokens
    z_mean, z_std, z_p01 ... z_p99, z_abs_max     over all texts and dimensions
    share_abs_z_above_1, share_abs_z_above_3      shares of these z
    gate_slope_mean*, gate_slope_lowest_dim       f'(z) / f'(0): sech^2(z) for tanh, exp(-z^2) for
                                          erf, 1 within and 0 beyond [-1, 1] for hardtanh; 1 is
                                          linear, 0 saturated. The lowest of the D means too
    dy_dx_mean                            mean of dy_i/dx_i: alpha beta f'(z) behind a gate
    x_norm_mean, y_norm_mean              mean lengths of the vectors
    x_variance_mean*, y_variance_mean*    variance over the texts, mean of the dimensions
    ?_variance_max_over_median            its imbalance: 1 is balance
    ?_variance_top_tenth_share            share in the tenth of the dimensions that has most
    ?_variance_participation              (sum v)^2 / sum v^2: dimensions in use, 1 to D
    ?_effective_rank                      exp of the entropy of the centred vectors' normalised
                                          singular values (Roy and Vetterli 2007); 0 without spread
    gradient_y_norm, gradient_x_norm      |dL/dy| and |dL/dx|: after and before the gate
    gradient_passed                       their ratio, |dL/dx| / |dL/dy|

Of the model (`alpha`, `beta`, `bias`; `weight` and `bias` of LayerNorm, `weight` of RMSNorm):

    loss                                  L, the loss of the sample
    alpha_mean*, alpha_std                over the dimensions
    alpha_change_mean, _std, _max_abs     difference from the start
    token_norm_p05, _p50, _p95            lengths of at most `TABLE_ROWS` table rows, evenly spaced
    token_norm_growth_p05, _p50, _p95     the same rows' length over their length at the start
    token_norm_growth_frequent, _middle, _rare   medians over the thirds of the sample's distinct
                                          tokens, by how often they occur in it

dy_dx and gradients are of the texts with tokens: an empty text's gradient reaches no row of the
table, and at x = 0 LayerNorm's and RMSNorm's are as large as their eps is small.

What is undefined has no row, and nothing is ever NaN: norms without a gate (`none`, `layernorm`,
`rmsnorm`) have z = x and no gate_slope; a length without texts has counts only; a variance needs
two texts. An effective rank is at most texts - 1, so compare it between equal counts only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sse_kernels import bag_mean
from torch import Tensor, nn

from sse.common.errors import UserError
from sse.loss.matryoshka import matryoshka_loss
from sse.model.load import SSEModel
from sse.model.model import SSE
from sse.model.norms import Gate
from sse.text.token_batch import SHORT_TOKENS
from sse.training.saturation import Array, dy_dx, effective_rank, gate_slope, imbalance

TABLE_ROWS = 4096
Z_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
Values = dict[str, float]


class Row(NamedTuple):
    """One value of the table; see the module's docstring."""

    step: int
    side: str
    length: str
    quantity: str
    value: float
    per_dim: Array | None = None


@dataclass(frozen=True)
class Start:
    """What a model was before its first step: its norm's vectors and its rows' lengths (V,)."""

    norm: dict[str, Tensor]
    token_norms: Tensor

    @classmethod
    def of(cls, model: SSE) -> Start:
        """Copies of what `model` is now."""
        norm = {name: value.detach().cpu().clone() for name, value in vectors_of(model.norm)}
        return cls(norm, model.embedding.weight.detach().norm(dim=1).float().cpu())


def diagnose(
    model: SSE,
    ids: Tensor,
    offsets: Tensor,
    sides: dict[str, int],
    loss: Callable[[Tensor], Tensor] | None = None,
    start: Start | None = None,
    step: int = 0,
) -> list[Row]:
    """Measure `model` on a bag of texts; neither its gradients nor a random generator are touched.

    Args:
        model: any norm, on any device; computed in float32 whatever the training's precision.
        ids: flat token ids (N,).
        offsets: (B + 1,).
        sides: how many of the B texts, in order, belong to which side.
        loss: vectors (B, D) -> scalar, for the gradients; without it there are none.
        start: the model before its first step; without it there are no changes and no growth.
        step: written into the rows.

    Raises:
        UserError: a value is not finite, so the model has diverged.
    """
    with torch.autocast(model.embedding.weight.device.type, enabled=False):
        parts, total = _measured(model, ids, offsets, loss)
    lengths = offsets.diff().cpu().numpy()
    rows, first = [], 0
    with np.errstate(all="ignore"):  # checked below, where it can be named
        for side, count in sides.items():
            span = slice(first, first + count)
            first += count
            own = {name: values[span] for name, values in parts.items()}
            rows += _side_rows(step, side, own, lengths[span])
        quantities = dict(_model_values(model, ids, start))
    if total is not None:
        quantities["loss"] = (total, None)
    rows += [Row(step, "model", "all", name, *value) for name, value in quantities.items()]
    for row in rows:
        if not math.isfinite(row.value):
            raise UserError(
                f"diagnostics at step {step}: {row.side}'s {row.quantity} is {row.value}: "
                "the model has diverged, lower `lr`"
            )
    return rows


def diagnose_texts(
    model: SSE | SSEModel, texts: Sequence[str], positives: Sequence[str] | None = None
) -> list[Row]:
    """`diagnose` on plain texts, as in `pandas.DataFrame(diagnose_texts(sse.load(folder), texts))`.

    Args:
        model: what `sse.load` returns, or its SSE module.
        texts: the sample; the anchors where positives are given.
        positives: as many; brings the gradients of the published loss on these pairs (all of
            512, 256, 128, 64, 32 that D reaches, scale 20).
    """
    module = model.sse if isinstance(model, SSEModel) else model
    if positives is not None and len(positives) != len(texts):
        raise UserError(f"{len(texts)} texts with {len(positives)} positives: give pairs")
    if not len(texts):
        raise UserError("no texts to diagnose: give at least one")
    device = module.embedding.weight.device
    features = module.preprocess([*texts, *(positives or [])])
    ids, offsets = features["input_ids"].to(device), features["offsets"].to(device)
    if positives is None:
        return diagnose(module, ids, offsets, {"text": len(texts)})
    dims = [d for d in (512, 256, 128, 64, 32) if d < module.dim]

    def loss(y: Tensor) -> Tensor:
        return matryoshka_loss(y[: len(texts)], y[len(texts) :], [module.dim, *dims])

    sides = {"anchor": len(texts), "positive": len(positives)}
    return diagnose(module, ids, offsets, sides, loss)


def vectors_of(norm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The norm's parameters and buffers, by name: frozen ones count too."""
    yield from norm.named_parameters()
    yield from norm.named_buffers()


def _measured(
    model: SSE, ids: Tensor, offsets: Tensor, loss: Callable[[Tensor], Tensor] | None
) -> tuple[dict[str, Array], float | None]:
    """Per text and dimension, (B, D) each: x, y, z, slopes and gradients; and the loss."""
    norm = copy.deepcopy(model.norm).float()  # of weights in 16 bits, too
    with torch.no_grad():
        x = bag_mean(model.embedding.weight, ids, offsets).float()
        z = norm.preactivation(x) if isinstance(norm, Gate) else x
    x.requires_grad_()
    with torch.enable_grad():
        # A graph of its own, from x: nothing reaches a parameter's `grad`.
        y = norm(x) + 0  # a tensor of its own even where the norm is the identity
    quantities = {"x": x, "y": y, "z": z}
    for name, values in (("slope", gate_slope(norm, z)), ("dy_dx", dy_dx(norm, x))):
        if values is not None:
            quantities[name] = values
    total = None
    if loss is not None:
        with torch.enable_grad():
            value = loss(y)
            grad_y, grad_x = torch.autograd.grad(value, (y, x))
        quantities |= {"gradient_y": grad_y, "gradient_x": grad_x}
        total = float(value.detach())
    return {name: values.detach().cpu().numpy() for name, values in quantities.items()}, total


def _side_rows(
    step: int, side: str, parts: dict[str, Array], lengths: NDArray[np.int64]
) -> list[Row]:
    """The rows of one side at each length."""
    short = lengths <= SHORT_TOKENS
    whole, by_dim = _values(parts, lengths)
    rows = [
        Row(step, side, "all", name, value, _small(by_dim.get(name)))
        for name, value in whole.items()
    ]
    for length, picked in (("short", short), ("long", ~short)):
        own = {name: values[picked] for name, values in parts.items()}
        values = whole if picked.all() else _values(own, lengths[picked])[0]
        rows += [Row(step, side, length, name, value) for name, value in values.items()]
    return rows


def _values(parts: dict[str, Array], lengths: NDArray[np.int64]) -> tuple[Values, dict[str, Array]]:
    """Every quantity of these texts that is defined, and those that are kept per dimension."""
    by_dim: dict[str, Array] = {}
    quantities: Values = {"texts": float(len(lengths)), "texts_empty": float((lengths == 0).sum())}
    if not len(lengths):
        return quantities, by_dim
    quantities["tokens_mean"] = float(lengths.mean())
    z = parts["z"]
    size = np.abs(z)
    quantities |= {
        "z_mean": float(z.mean(dtype=np.float64)),
        "z_std": float(z.std(dtype=np.float64)),
    }
    for percent, value in zip(Z_PERCENTILES, np.percentile(z, Z_PERCENTILES), strict=True):
        quantities[f"z_p{percent:02}"] = float(value)
    quantities["z_abs_max"] = float(size.max())
    quantities |= {f"share_abs_z_above_{limit}": float((size > limit).mean()) for limit in (1, 3)}
    if "slope" in parts:
        slope = by_dim["gate_slope_mean"] = parts["slope"].mean(0, np.float64)
        quantities["gate_slope_mean"] = float(slope.mean())
        quantities["gate_slope_lowest_dim"] = float(slope.min())
    full = lengths > 0
    if "dy_dx" in parts and full.any():
        quantities["dy_dx_mean"] = float(parts["dy_dx"][full].mean(dtype=np.float64))
    for name in ("x", "y"):
        quantities[f"{name}_norm_mean"] = float(np.linalg.norm(parts[name], axis=1).mean())
        if len(lengths) > 1:
            spread, by_dim[f"{name}_variance_mean"] = _spread(parts[name])
            quantities |= {f"{name}_{what}": value for what, value in spread.items()}
    if "gradient_y" in parts:
        after, before = (_norm(parts[f"gradient_{name}"][full]) for name in ("y", "x"))
        quantities |= {"gradient_y_norm": after, "gradient_x_norm": before}
        if after > 0:
            quantities["gradient_passed"] = before / after
    return quantities, by_dim


def _spread(vectors: Array) -> tuple[Values, Array]:
    """Variance, its imbalance and the rank of vectors (n, D); and the variance (D,)."""
    centred = vectors - vectors.mean(0, np.float64)
    variance = np.einsum("nd,nd->d", centred, centred) / len(vectors)
    quantities = {"variance_mean": float(variance.mean())}
    quantities |= {f"variance_{name}": value for name, value in imbalance(variance).items()}
    if np.isfinite(variance).all():  # else the variance says so, and eigvalsh would not return
        quantities["effective_rank"] = effective_rank(centred)
    return quantities, variance


def _model_values(
    model: SSE, ids: Tensor, start: Start | None
) -> Iterator[tuple[str, tuple[float, Array | None]]]:
    """The parameters' quantities: (name, (value, per_dim))."""
    for name, tensor in vectors_of(model.norm):
        vector = tensor.detach().double().cpu()
        yield f"{name}_mean", (float(vector.mean()), _small(vector.numpy().ravel()))
        yield f"{name}_std", (float(vector.std(correction=0)), None)
        if start is not None:
            change = vector - start.norm[name].double()
            yield f"{name}_change_mean", (float(change.mean()), None)
            yield f"{name}_change_std", (float(change.std(correction=0)), None)
            yield f"{name}_change_max_abs", (float(change.abs().max()), None)
    table = model.embedding.weight.detach()
    stride = math.ceil(len(table) / TABLE_ROWS)
    norms = table[::stride].float().norm(dim=1).cpu().double()
    yield from _percentiles("token_norm", norms)
    if start is None:
        return
    old = start.token_norms[::stride].double()
    yield from _percentiles("token_norm_growth", norms[old > 0] / old[old > 0])
    tokens, counts = torch.unique(ids, return_counts=True)
    ranked = tokens[counts.sort(descending=True, stable=True).indices].long()
    for name, third in zip(("frequent", "middle", "rare"), ranked.tensor_split(3), strict=True):
        old = start.token_norms[third.cpu()]
        growth = table[third].float().norm(dim=1).cpu()[old > 0] / old[old > 0]
        if len(growth):
            yield f"token_norm_growth_{name}", (float(growth.median()), None)


def _percentiles(name: str, values: Tensor) -> Iterator[tuple[str, tuple[float, None]]]:
    if len(values):
        for percent, value in zip((5, 50, 95), np.percentile(values, (5, 50, 95)), strict=True):
            yield f"{name}_p{percent:02}", (float(value), None)


def _norm(matrix: Array) -> float:
    return float(np.sqrt(np.square(matrix, dtype=np.float64).sum()))


def _small(vector: Array | None) -> Array | None:
    return None if vector is None else vector.astype(np.float32)
