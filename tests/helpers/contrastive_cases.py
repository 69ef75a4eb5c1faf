"""Problems and references that the contrastive kernels' test files share."""

from dataclasses import dataclass, field, replace

import torch
from sse_kernels import matryoshka_contrastive

from tests.helpers.kernels_references import matryoshka_contrastive_reference
from tests.helpers.tolerances import assert_within, contrastive_bounds, stored

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    query: torch.Tensor
    documents: torch.Tensor
    dims: list
    options: dict = field(default_factory=dict)

    def to(self, where):
        options = dict(self.options)
        if "text_ids" in options and not isinstance(where, torch.dtype):
            options["text_ids"] = tuple(ids.to(where) for ids in options["text_ids"])
        moved = self.query.to(where), self.documents.to(where)
        return replace(self, query=moved[0], documents=moved[1], options=options)


def problem(b, dims, dim=None, extra=0, repeats=False, dtype=torch.float32, seed=0, **options):
    """`extra` documents beyond the pairs; with `repeats` texts stand twice; `first` as the op's."""
    g = torch.Generator().manual_seed(seed)
    pairs = options.get("first", 0) + b
    normal = lambda n: torch.randn(n, dim or max(dims), generator=g).to(dtype)  # noqa: E731
    query, documents = normal(b), normal(pairs + extra)
    if repeats:
        many = max(pairs // 2, 2)
        document_ids = torch.randint(many // 2, many // 2 + many, (pairs + extra,), generator=g)
        options["text_ids"] = torch.randint(many, (pairs,), generator=g), document_ids
    return Problem(query, documents, list(dims), options)


def excluded(b, first, query_ids, document_ids):
    """Which documents do not count for a query, pair by pair."""
    out = torch.zeros(b, len(document_ids), dtype=torch.bool)
    texts, answers = query_ids.tolist(), document_ids.tolist()
    for i in range(b):
        text, answer = texts[first + i], answers[first + i]
        for j, says in enumerate(answers):
            same_query = j < len(texts) and texts[j] == text
            out[i, j] = j != first + i and (says in (text, answer) or same_query)
    return out


def reference(p):
    """Value and gradients in float64, from the same rounded inputs; and their tolerances."""
    leaves = [t.double().requires_grad_() for t in (p.query, p.documents)]
    options = dict(p.options)
    if ids := options.pop("text_ids", None):
        options["excluded"] = excluded(len(p.query), options.get("first", 0), *ids)
    value = matryoshka_contrastive_reference(*leaves, p.dims, **options)
    values = [value.detach(), *torch.autograd.grad(value, leaves)]
    dtype, wide = p.query.dtype, torch.promote_types(p.query.dtype, torch.float32)
    bounds = contrastive_bounds(*leaves, p.dims, **options, dtype=wide, products=dtype)
    if dtype != wide:  # the results are rounded once more
        bounds = stored(bounds, values, dtype)
    return values, bounds


def run(p, **options):
    """Value and gradients of the op."""
    leaves = [t.clone().requires_grad_() for t in (p.query, p.documents)]
    value = matryoshka_contrastive(*leaves, p.dims, **p.options, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def assert_near(got, p):
    """Value and gradients of problem `p` as its reference has them, to rounding."""
    names, family = ("loss", "query", "documents"), f"contrastive kernels {str(got[0].dtype)[6:]}"
    for name, a, b, tolerance in zip(names, got, *reference(p), strict=True):
        assert_within(f"{family}, {name}", a, b, tolerance)
