"""The public ops; the tensors' device decides which implementation runs (`backends.py`)."""

from __future__ import annotations

import torch
from torch import Tensor

from sse_kernels.backends import Backend, path_of
from sse_kernels.bag_autograd import BagDyt, BagMean, Options, bag_op
from sse_kernels.checks import check_bags, check_gate, check_table
from sse_kernels.plan import BagPlan
from sse_kernels.table_grad import TableGrad


def bag_dyt(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    beta: Tensor,
    bias: Tensor,
    *,
    plan: BagPlan | None = None,
    table_grad: TableGrad | None = None,
    atomic: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """EmbeddingBag mean and Separable DyT in one op: y = beta * tanh(alpha * mean + bias).

    The backward pass is analytic (sech^2 from the saved mean) and, unless `atomic`, repeatable to
    the bit.

    Args:
        weight: (V, D) float32, bfloat16, float16 or float64. Sums are held in float32 (float64).
        ids: (N,) int32 or int64, the bags' tokens one bag after the other.
        offsets: (B + 1,) int32 or int64, bag b is ids[offsets[b] : offsets[b + 1]]; offsets[B] = N.
            An empty bag has mean 0.
        alpha: (D,) slope before the tanh.
        beta: (D,) scale after it.
        bias: (D,) shift inside it; of one dtype with alpha and beta.
        plan: `plan_bags(ids, offsets, V)`, for example from a data loader's worker, spares the
            backward pass its sort. It must be of these ids and offsets.
        table_grad: a `TableGrad` kept beside the weight: the backward pass writes into
            `weight.grad` instead of returning a new V x D gradient. Its docstring says what it
            asks in return.
        atomic: let Triton add the table's gradient with float atomics: no sort, not repeatable.
        backend: `auto`, `torch` (ATen) or `triton`.

    Returns:
        (B, D) in the wider dtype of weight and alpha.

    Raises:
        IndexError: an id is out of range. On a GPU only if SSE_KERNELS_CHECK=1 is set, since the
            check waits for the device; without it such a token counts in its bag's length as a row
            of zeros and learns nothing.
        ValueError, TypeError: shapes, dtypes, devices or options that do not go together.

    Source: the model card of stable-static-embedding (Separable DyT); DyT: Zhu et al. 2025,
    "Transformers without Normalization", https://arxiv.org/abs/2503.10622.
    """
    check_bags(ids, offsets)
    check_table(weight, ids)
    check_gate(weight, alpha, beta, bias)
    options = _options(weight, plan, table_grad, atomic, backend, ids)
    if options is None:
        gate = torch.stack((alpha, beta, bias))
        return bag_op(weight, gate, ids, offsets, _tensors(plan), atomic, backend)
    if torch.is_grad_enabled() and (
        weight.requires_grad or alpha.requires_grad or beta.requires_grad or bias.requires_grad
    ):
        return BagDyt.apply(weight, alpha, beta, bias, ids, offsets, options)
    return options.path.forward(weight, ids, offsets, alpha, beta, bias, False)[0]


def bag_mean(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    *,
    plan: BagPlan | None = None,
    table_grad: TableGrad | None = None,
    atomic: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Mean of weight[ids] over each bag, 0 for an empty one: `bag_dyt` without its gate.

    Arguments, errors and the table's gradient are as there. Returns (B, D) in weight's dtype.
    """
    check_bags(ids, offsets)
    check_table(weight, ids)
    options = _options(weight, plan, table_grad, atomic, backend, ids)
    if options is None:
        return bag_op(weight, None, ids, offsets, _tensors(plan), atomic, backend)
    if torch.is_grad_enabled() and weight.requires_grad:
        return BagMean.apply(weight, ids, offsets, options)
    return options.path.pool(weight, ids, offsets)


def _options(
    weight: Tensor,
    plan: BagPlan | None,
    table_grad: TableGrad | None,
    atomic: bool,
    backend: Backend,
    ids: Tensor,
) -> Options | None:
    """Check the options together; None for a traced call, which is `bag_op`."""
    if plan is not None and (
        plan.rows.shape != ids.shape or plan.starts.numel() != weight.shape[0] + 1
    ):
        raise ValueError(
            f"plan= is of {plan.rows.numel()} tokens and {plan.starts.numel() - 1} rows, "
            f"the call of {ids.numel()} and {weight.shape[0]}"
        )
    if torch.compiler.is_compiling() or weight.is_meta or type(weight) not in _PLAIN:
        if table_grad is not None:
            raise RuntimeError(
                "table_grad= writes to weight.grad, which torch.compile cannot trace"
            )
        return None
    if table_grad is not None and not table_grad.usable(weight):
        table_grad = None
    if atomic and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("atomic=True while torch.use_deterministic_algorithms is on")
    return Options(path_of(weight.device, backend), plan, table_grad, atomic)


def _tensors(plan: BagPlan | None) -> list[Tensor]:
    return [] if plan is None else [plan.rows, plan.starts, plan.whole]


_PLAIN = (Tensor, torch.nn.Parameter)  # FakeTensor and other subclasses take `bag_op`
