"""Vectors to lose on, and the loss with its gradients."""

import torch

from sse.loss.matryoshka import matryoshka_loss
from sse.loss.tiled import equal_texts
from tests.helpers.tolerances import assert_within, contrastive_bounds


def vectors(b, columns, dim, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, dim, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(columns)
    ]


def ours(columns, dims, weights=None, **kwargs):
    value = matryoshka_loss(columns[0], torch.cat(columns[1:]), dims, weights, **kwargs)
    return value.detach(), torch.autograd.grad(value, columns)


def assert_loss(family, got, expected, query, documents, dims, text_ids=None, slack=1, **options):
    """Value and gradients (queries, documents) of a loss agree as far as rounding lets them."""
    if text_ids is not None:
        first = options.get("first", 0)
        options["excluded"] = equal_texts(*text_ids, slice(first, first + len(query)))
    dtype = got[0].dtype
    bounds = contrastive_bounds(query, documents, dims, **options, dtype=dtype)
    for name, a, b, bound in zip(
        ("loss", "query", "documents"), got, expected, bounds, strict=True
    ):
        assert_within(f"{family}, {name}", a, b, slack * bound)
