"""Does the gate saturate? What a model does to a sample of texts, as one tidy table.

A row is (step, side, length, quantity, value, per_dim); docs/reference/training.md defines each
quantity. Of the texts, x is the mean of the token rows, y the vector, and z = alpha * x + bias the
gate's argument; norms without a gate have z = x. What is undefined has no row; nothing is NaN.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sse_kernels import bag_mean
from torch import Tensor, nn

from sse.common.errors import UserError
from sse.loss.matryoshka import matryoshka_loss
from sse.model.norms import Gate
from sse.model.static_model import StaticModel
from sse.text.token_batch import SHORT_TOKENS
from sse.training.diagnostics.saturation import Array, dy_dx, effective_rank, gate_slope, imbalance

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TABLE_ROWS = 4096
Z_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
Values = dict[str, float]


class Row(NamedTuple):
    """One value of the table; `per_dim` has the D values whose mean it is, at length `all`."""

    step: int
    side: str  # anchor, positive or text; model for what is measured on parameters
    length: str  # all; short, at most SHORT_TOKENS tokens; long
    quantity: str
    value: float
    per_dim: Array | None = None


@dataclass(frozen=True)
class Start:
    """What a model was before its first step: its norm's vectors and its rows' lengths (V,)."""

    norm: dict[str, Tensor]
    token_norms: Tensor

    @classmethod
    def of(cls, model: StaticModel) -> Start:
        """Copies of what `model` is now."""
        norm = {name: value.detach().cpu().clone() for name, value in vectors_of(model.norm)}
        return cls(norm, model.embedding.weight.detach().norm(dim=1).float().cpu())


def diagnose(
    model: StaticModel,
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
        rows += [Row(step, "model", "all", *value) for value in _model_values(model, ids, start)]
    if total is not None:
        rows.append(Row(step, "model", "all", "loss", total))
    for row in rows:
        if not math.isfinite(row.value):
            raise UserError(
                f"diagnostics at step {step}: {row.side}'s {row.quantity} is {row.value}: "
                "the model has diverged, lower `lr`"
            )
    return rows


def diagnose_texts(
    model: StaticModel | SentenceTransformer,
    texts: Sequence[str],
    positives: Sequence[str] | None = None,
) -> list[Row]:
    """`diagnose` on plain texts, as in `pandas.DataFrame(diagnose_texts(sse.load(folder), texts))`.

    Args:
        model: what `sse.load` returns, or its SSE module.
        texts: the sample; the anchors where positives are given.
        positives: as many; brings the gradients of the published loss on these pairs (all of
            512, 256, 128, 64, 32 that D reaches, scale 20).
    """
    module = model if isinstance(model, StaticModel) else model[0]
    if positives is not None and len(positives) != len(texts):
        raise UserError(f"{len(texts)} texts with {len(positives)} positives: give pairs")
    if not len(texts):
        raise UserError("no texts to diagnose: give at least one")
    features = module.preprocess([*texts, *(positives or [])])
    ids, offsets = features["input_ids"], features["offsets"]
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
    model: StaticModel, ids: Tensor, offsets: Tensor, loss: Callable[[Tensor], Tensor] | None
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
    small = {name: vector.astype(np.float32) for name, vector in by_dim.items()}
    rows = [Row(step, side, "all", name, value, small.get(name)) for name, value in whole.items()]
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
    quantities["z_mean"] = float(z.mean(dtype=np.float64))
    quantities["z_std"] = float(z.std(dtype=np.float64))
    quantities |= _percentiles("z", z, Z_PERCENTILES)
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
        gradients = (parts[f"gradient_{name}"][full] for name in ("y", "x"))
        after, before = (math.sqrt(np.square(g, dtype=np.float64).sum()) for g in gradients)
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
    model: StaticModel, ids: Tensor, start: Start | None
) -> Iterator[tuple[str, float] | tuple[str, float, Array]]:
    """The parameters' quantities: (name, value), and for some the values per dimension."""
    for name, tensor in vectors_of(model.norm):
        vector = tensor.detach().double().cpu()
        yield f"{name}_mean", float(vector.mean()), vector.numpy().ravel().astype(np.float32)
        yield f"{name}_std", float(vector.std(correction=0))
        if start is not None:
            change = vector - start.norm[name].double()
            yield f"{name}_change_mean", float(change.mean())
            yield f"{name}_change_std", float(change.std(correction=0))
            yield f"{name}_change_max_abs", float(change.abs().max())
    table = model.embedding.weight.detach()
    stride = math.ceil(len(table) / TABLE_ROWS)
    norms = table[::stride].float().norm(dim=1).cpu().double()
    yield from _percentiles("token_norm", norms.numpy()).items()
    if start is None:
        return
    old = start.token_norms[::stride].double()
    growth = norms[old > 0] / old[old > 0]
    yield from _percentiles("token_norm_growth", growth.numpy()).items()
    tokens, counts = torch.unique(ids, return_counts=True)
    ranked = tokens[counts.sort(descending=True, stable=True).indices].long()
    for name, third in zip(("frequent", "middle", "rare"), ranked.tensor_split(3), strict=True):
        old = start.token_norms[third.cpu()]
        growth = table[third].float().norm(dim=1).cpu()[old > 0] / old[old > 0]
        if len(growth):
            yield f"token_norm_growth_{name}", float(growth.median())


def _percentiles(name: str, values: Array, percents: tuple[int, ...] = (5, 50, 95)) -> Values:
    """{NAME_p05: value, ...}; {} for no values."""
    if not values.size:
        return {}
    at = zip(percents, np.percentile(values, percents), strict=True)
    return {f"{name}_p{percent:02}": float(value) for percent, value in at}
