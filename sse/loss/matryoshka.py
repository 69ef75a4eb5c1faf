"""Matryoshka-weighted in-batch contrastive loss, and which implementation computes it.

    q, docs = normalize(query[:, :d]), normalize(documents[:, :d])
    S_d     = scale_d * q @ docs.T                                    (B, M), query -> document
    loss    = sum_d w_d * cross_entropy(S_d, arange(B))

- `tiled` (sse.loss.tiled): memory linear in the batch, any device.
- `triton` (sse_kernels): the same in tiles that never leave a GPU's registers.
- `dense`: PyTorch's own operations on whole B x M matrices: for tests.
- The value and the gradient equal sentence-transformers'
  MatryoshkaLoss(MultipleNegativesRankingLoss) to rounding, whichever computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from sse_kernels import matryoshka_contrastive
from sse_kernels.backends import has_triton
from torch import Tensor

from sse.common.errors import UserError
from sse.loss.tiled import EXCLUDED, LossOptions, TextIds, Tiled, equal_texts

# Query rows of a tile on a CPU: fewer are slower, more are hardly faster and take more memory.
TILE_ROWS = 256
CUDA_TILE_ROWS = 4096  # a GPU needs larger products to fill it
# Devices, as torch.cuda.get_device_name() has them, for which a benchmark in the repository shows
# `triton` faster than `tiled`. None yet: no GPU was at hand.
TRITON_IS_FASTER: tuple[str, ...] = ()
Backend = Literal["auto", "triton", "tiled", "dense"]


def check_prefixes(dims: Sequence[int], dim: int) -> tuple[int, ...]:
    """`dims`, largest first; UserError where one is no prefix of `dim` columns or comes twice."""
    for d in dims:
        if not 1 <= d <= dim:
            raise UserError(
                f"`dims` has {d}, which is no prefix of {dim} dimensions: give 1 to {dim}"
            )
    if len(set(dims)) != len(dims) or not dims:
        raise UserError(f"`dims` is {list(dims)}: give each once, and at least one")
    return tuple(sorted(dims, reverse=True))


def check_smoothing(label_smoothing: float) -> None:
    """UserError unless `label_smoothing` is from 0 (none) to below 1."""
    if not 0 <= label_smoothing < 1:
        raise UserError(
            f"`label_smoothing` is {label_smoothing}: give a share of the target from 0 (none) to "
            "below 1, as 0.1"
        )


def matryoshka_loss(
    query: Tensor,
    documents: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    scale: float | Sequence[float] = 20.0,
    symmetric: bool = False,
    text_ids: TextIds | None = None,
    tile: int | None = None,
    first: int = 0,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Sum over `dims` of the weighted in-batch cross-entropy; a scalar.

    The loss of 16-bit vectors is float32's, since sums of 16 bits would be off by percents.

    Args:
        query: (B, D).
        documents: (M, D), M >= first + B: positives of P >= first + B pairs, row first + i that of
            query i, then any hard negatives.
        dims: Matryoshka dims, prefixes of D, in any order.
        weights: one weight per dim, 1 by default.
        scale: inverse temperature of the cosine: one for all dims, or one per dim. `triton` takes
            one for all.
        symmetric: add document -> query over the positives, and halve: sentence-transformers'
            MultipleNegativesSymmetricRankingLoss. Needs the queries of all the positives.
        text_ids: ids of the pairs' query texts (P,) and of the document texts (M,); those that
            `equal_texts` finds then count neither way. None where no text repeats.
        tile: query rows that `tiled` computes at a time; by default 256, on CUDA 4,096.
        first: the pair that the first query belongs to, where these are some of the pairs' queries:
            a process has its own queries and all processes' documents.
        label_smoothing: share e of the target spread evenly over all candidates that count, as
            PyTorch's cross_entropy does: 1 - e + e / n for the own one, e / n for each other.
        backend: `triton`, `tiled` or `dense`; `auto` takes `triton` on a GPU for which a benchmark
            in the repository shows it faster (`TRITON_IS_FASTER`), else `tiled`.

    Raises:
        UserError: tensors or options that do not go together.
    """
    _check(query, documents, dims, symmetric, first)
    weights = [1.0] * len(dims) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(dims) or (tile is not None and tile < 1):
        raise UserError(
            f"`weights` has {len(weights)} for {len(dims)} dims, `tile` is {tile}: give one weight "
            "per dim, and a tile of at least 1 row"
        )
    scales = list(scale) if isinstance(scale, Sequence) else [float(scale)] * len(dims)
    if len(scales) != len(dims):
        raise UserError(
            f"`scale` has {len(scales)} numbers for {len(dims)} dims: give one for all, or one "
            "per dim"
        )
    ascending = sorted(zip(dims, weights, scales, strict=True))
    check_smoothing(label_smoothing)
    options = LossOptions(ascending, symmetric, text_ids, first, label_smoothing)
    if backend not in get_args(Backend):
        raise UserError(f"`backend` is '{backend}': choose one of {', '.join(get_args(Backend))}")
    if backend == "auto":
        measured = query.is_cuda and torch.cuda.get_device_name(query.device) in TRITON_IS_FASTER
        one = len(set(scales)) == 1
        backend = "triton" if measured and one and has_triton() else "tiled"
    if backend == "triton":
        if len(set(scales)) > 1:
            raise UserError(f"`scale` is {scales}: `triton` takes one for all dims, take `tiled`")
        rest = (weights, scales[0], symmetric, text_ids, first, label_smoothing)
        return matryoshka_contrastive(query, documents, dims, *rest)
    if query.dtype in (torch.float16, torch.bfloat16):
        query, documents = query.float(), documents.float()
    if backend == "dense":
        return _dense(query, documents, options)
    tile = tile or (CUDA_TILE_ROWS if query.is_cuda else TILE_ROWS)
    return Tiled.apply(query, documents, options, tile)


def _check(
    query: Tensor, documents: Tensor, dims: Sequence[int], symmetric: bool, first: int
) -> None:
    if query.dtype != documents.dtype or query.device != documents.device:
        raise UserError(
            f"the loss's queries are {query.dtype} on {query.device}, its documents "
            f"{documents.dtype} on {documents.device}: give both in one dtype on one device"
        )
    if query.shape[1] != documents.shape[1] or len(documents) < first + len(query):
        raise UserError(
            f"the loss's queries are {tuple(query.shape)} and its documents "
            f"{tuple(documents.shape)}: it needs equal columns, and a positive for each query"
        )
    check_prefixes(dims, query.shape[1])
    if symmetric and first:
        raise ValueError("symmetric=True needs every query: call it once for each direction")


def _dense(query: Tensor, documents: Tensor, options: LossOptions) -> Tensor:
    """The definition, with B x M matrices and autograd."""
    b, first = len(query), options.first
    own = torch.arange(first, first + b, device=query.device)
    excluded = None
    if options.text_ids is not None:
        excluded = equal_texts(*options.text_ids, slice(first, first + b))
    loss = query.new_zeros(())
    for dim, weight, scale in options.dims:
        q, d = F.normalize(query[:, :dim]), F.normalize(documents[:, :dim])
        logits = (q * scale) @ d.T
        value = _cross_entropy(logits, own, excluded, options.label_smoothing)
        if options.symmetric:
            back = None if excluded is None else excluded[:, :b].T
            value = value + _cross_entropy(logits[:, :b].T, own, back, options.label_smoothing)
            value = value / 2
        loss = loss + weight * value
    return loss


def _cross_entropy(
    logits: Tensor, own: Tensor, excluded: Tensor | None, label_smoothing: float
) -> Tensor:
    if excluded is None:
        return F.cross_entropy(logits, own, label_smoothing=label_smoothing)
    logits = logits.masked_fill(excluded, EXCLUDED)
    loss = F.cross_entropy(logits, own)
    if label_smoothing:  # over those that count: the others' logits are no likelihoods
        mean = logits.masked_fill(excluded, 0).sum(1) / (~excluded).sum(1)
        even = (logits.logsumexp(1) - mean).mean()
        loss = (1 - label_smoothing) * loss + label_smoothing * even
    return loss
