"""Matryoshka in-batch contrastive loss on the GPU: `matryoshka_contrastive`.

With G_k = q[:, :d_k] @ d[:, :d_k].T, S_k = s G_k / (|q_i| |d_j|), both norms of the prefix, and
P_k = dloss/dS_k (softmax - target, weighted, over B):

    loss            = sum_k w_k mean_i (logsumexp_j S_k - S_k[i, first + i])
    dloss/dG_k[ij]  = P_k s / (|q_i| |d_j|)
    dloss/d|q_i|^2  = -sum_j P_k S_k / (2 |q_i|^2), and the same for d by columns

Forward keeps log-sum-exps, one float per row and dim. Backward recomputes the logits by tiles.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sse_kernels.backends import has_triton
from sse_kernels.checks import FLOATS

Precision = Literal["auto", "ieee", "tf32", "tf32x3", "bf16"]


def matryoshka_contrastive(
    query: Tensor,
    documents: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float = 20.0,
    symmetric: bool = False,
    text_ids: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
    label_smoothing: float = 0.0,
    precision: Precision = "auto",
) -> Tensor:
    """Sum over `dims` of the weighted in-batch cross-entropy of cosines; a scalar.

    Memory is linear in the batch: some 6 floats per row and dim beside inputs and gradients.
    Gradients repeat to the bit.

    Args:
        query: (B, D) float32, bfloat16, float16 or float64; sums are held in float32 (float64).
        documents: (M, D), M >= first + B: positives of P >= first + B pairs, row first + i that of
            query i, then any hard negatives.
        dims: prefixes of D, each once.
        weights: one per dim, 1 by default.
        scale: inverse temperature of the cosine.
        symmetric: add document -> query over the B = P positives, and halve.
        text_ids: integer ids of the query texts (P,) and of the document texts (M,). Equal
            ids are equal texts. Document j is no negative of query i where its text equals positive
            i or query i, or where queries i and j are equal.
        first: the pair of the first query.
        label_smoothing: share of the target spread evenly over the candidates that count.
        precision: of products: `ieee`; `tf32`, 10 bits; `tf32x3`, three tf32 products, close to
            ieee's; `bf16`, 8 bits, the fastest, for the dims 512, 256, 128, 64 and 32 with a scale
            of at most 40 on sm_90 and later. `auto` follows torch.get_float32_matmul_precision():
            `highest` is ieee, `high` tf32, `medium` bf16 where that is taken, else tf32. Vectors of
            16 bits or float64 multiply as they are unless `bf16` is given.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or options that do not go together; a CPU
            tensor outside of Triton's interpreter.
        ImportError: Triton is not installed.
    """
    if weights is None:
        weights = [1.0] * len(dims)
    _check(query, documents, dims, weights, text_ids, first, symmetric)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: give 0 to below 1")
    pairs = sorted(zip(dims, weights, strict=True))
    bounds = (0, *(int(d) for d, _ in pairs))
    spec = _Spec(
        bounds,
        tuple(float(w) for _, w in pairs),
        scale,
        symmetric,
        first,
        label_smoothing,
        _products(query, bounds, scale, precision),
    )
    ids = (None, None) if text_ids is None else _id_lines(*text_ids, first, len(query))
    return _Contrastive.apply(query, documents, *ids, spec, _launches(query, spec.precision))


class _Spec(NamedTuple):
    bounds: tuple[int, ...]
    weights: tuple[float, ...]
    scale: float
    symmetric: bool
    first: int
    label_smoothing: float
    precision: str


class _Contrastive(torch.autograd.Function):
    """The loss from log-sum-exps; its gradient by a pass over each side's rows."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        documents: Tensor,
        ids_q: Tensor | None,
        ids_d: Tensor | None,
        spec: _Spec,
        gpu: ModuleType,
    ) -> Tensor:
        """Log-sum-exps, and the loss."""
        b, smooth = len(query), spec.label_smoothing > 0
        edges = _on_device(spec.bounds, torch.int32, query.device)
        q = gpu.side(query, spec.bounds, spec.scale, ids_q)
        d = gpu.side(documents, spec.bounds, 1.0, ids_d)
        rows = gpu.softmax(q, d, edges, spec.bounds, spec.first, smooth, spec.precision)
        loss, columns = _value(rows, spec), None
        if spec.symmetric:
            positives = d._replace(
                x=d.x[:b], inverse=d.inverse[:, :b].contiguous(), ids=d.ids[:, :b].contiguous()
                if d.ids.numel() else d.ids,
            )  # fmt: skip
            columns = gpu.softmax(positives, q, edges, spec.bounds, 0, smooth, spec.precision)
            loss = (loss + _value(columns, spec)) / 2
        ctx.target = _target(rows, columns, spec, len(documents))
        ctx.sides, ctx.spec, ctx.gpu, ctx.edges = (q, d), spec, gpu, edges
        return loss.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries and documents."""
        (q, d), spec, gpu = ctx.sides, ctx.spec, ctx.gpu
        directions = 2 if spec.symmetric else 1
        acc = q.inverse.dtype
        share = grad.to(acc) / (len(q.x) * directions)
        weights = _on_device(spec.weights, acc, grad.device)
        rest = (weights, share, ctx.edges, spec.bounds)
        rows, columns, spread_q, spread_d = ctx.target
        hit = (1 - spec.label_smoothing) * directions
        grad_q = grad_d = None
        if ctx.needs_input_grad[0]:
            target = gpu.Target(rows, columns, spread_q, spread_d, hit)
            grad_q = gpu.gradient(q, d, target, *rest, spec.first, spec.precision)
        if ctx.needs_input_grad[1]:
            target = gpu.Target(columns, rows, spread_d, spread_q, hit)
            grad_d = gpu.gradient(d, q, target, *rest, -spec.first, spec.precision)
        return grad_q, grad_d, None, None, None, None


@functools.cache
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values as a tensor, copied once per run: every copy would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def _value(softmax: Any, spec: _Spec) -> Tensor:
    """Weighted mean cross-entropy of one direction."""
    smoothing = spec.label_smoothing
    excess = softmax.lse - (1 - smoothing) * softmax.own
    if softmax.mean is not None:
        excess = excess - smoothing * softmax.mean
    means = excess.mean(1).unbind()
    return torch.stack([w * m for w, m in zip(spec.weights, means, strict=True)]).sum()


def _target(rows: Any, columns: Any, spec: _Spec, documents: int) -> tuple[Tensor | None, ...]:
    """Log-sum-exps by query (K, B) and document (K, M), and what smoothing spreads to each."""
    lse_d = spread_q = spread_d = None
    beyond = documents - rows.lse.shape[1]
    if columns is not None:  # hard negatives answer to no query
        lse_d = torch.nn.functional.pad(columns.lse, (0, beyond), value=torch.inf)
    if rows.share is not None:
        spread_q = rows.share * spec.label_smoothing
        spread_d = rows.share.new_zeros(documents)
        if columns is not None:
            spread_d[: len(columns.share)] = columns.share * spec.label_smoothing
    return rows.lse, lse_d, spread_q, spread_d


def _id_lines(query_ids: Tensor, document_ids: Tensor, first: int, b: int) -> tuple[Tensor, Tensor]:
    """The ids of queries (3, B) and documents (3, M) that, equal in any line, exclude a pair."""
    query_ids, document_ids = query_ids.long(), document_ids.long()
    pairs, own = len(query_ids), slice(first, first + b)
    nobody = torch.minimum(query_ids.min(), document_ids.min()) - 1
    negatives = nobody.expand(len(document_ids) - pairs)
    own_query = query_ids[own]
    of_query = torch.stack([document_ids[:pairs][own], own_query, own_query])
    return of_query, torch.stack([document_ids, torch.cat([query_ids, negatives]), document_ids])


def _products(query: Tensor, bounds: tuple[int, ...], scale: float, precision: Precision) -> str:
    """What multiplies: `bf16`, or what Triton calls the precision of a float32 product."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(get_args(Precision))}")
    wanted = torch.get_float32_matmul_precision()
    if precision == "auto" and (query.dtype == torch.bfloat16 or wanted == "medium"):
        half = _launches(query, "bf16").refusal(query, bounds, scale) is None
        precision = "bf16" if half else "auto"
    elif precision == "bf16" and (why := _launches(query, "bf16").refusal(query, bounds, scale)):
        raise ValueError(f"precision='bf16': {why}")
    if precision == "auto":
        precision = "ieee" if wanted == "highest" else "tf32"
    return precision if precision == "bf16" or query.dtype == torch.float32 else "ieee"


def _launches(query: Tensor, precision: str) -> ModuleType:
    if not has_triton():
        raise ImportError("matryoshka_contrastive needs Triton: pip install triton (CUDA or ROCm)")
    name = "bf16" if precision == "bf16" else "tiles"
    module = importlib.import_module(f"sse_kernels.contrastive.{name}")
    if query.device.type == "cpu" and not module.INTERPRETED:
        raise ValueError("matryoshka_contrastive on CPU tensors: set TRITON_INTERPRET=1 before")
    return module


def _check(
    query: Tensor,
    documents: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    text_ids: tuple[Tensor, Tensor] | None,
    first: int,
    symmetric: bool,
) -> None:
    if query.dtype not in FLOATS or documents.dtype != query.dtype:
        raise TypeError(f"query is {query.dtype}, documents {documents.dtype}: give one float type")
    if query.device != documents.device:
        raise ValueError(f"query is on {query.device} but documents on {documents.device}")
    if query.dim() != 2 or documents.dim() != 2 or query.shape[1] != documents.shape[1]:
        raise ValueError(
            f"query and documents must be (B, D) and (M, D), got {tuple(query.shape)} and "
            f"{tuple(documents.shape)}"
        )
    if not len(query) or len(documents) < first + len(query) or first < 0:
        raise ValueError(
            f"{len(query)} queries from pair {first} on need as many positives, "
            f"got {len(documents)} documents"
        )
    if not dims or len(set(dims)) != len(dims) or not 1 <= min(dims) <= max(dims) <= query.shape[1]:
        raise ValueError(f"dims={list(dims)}: give prefixes of {query.shape[1]}, each once")
    if len(weights) != len(dims):
        raise ValueError(f"{len(weights)} weights for {len(dims)} dims")
    if symmetric and first:
        raise ValueError("symmetric=True needs every query: call it once for each direction")
    if text_ids is not None:
        pairs, ids = len(text_ids[0]), len(text_ids[1])
        if pairs < first + len(query) or ids != len(documents) or pairs > ids:
            raise ValueError(
                f"text_ids= are of {pairs} queries and {ids} documents, the call of "
                f"{len(query)} and {len(documents)}"
            )
