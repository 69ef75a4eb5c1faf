"""Problems, float64 references and tolerances that the kernels' test files share."""

from dataclasses import dataclass, replace

import sse_kernels as k
import torch

from tests.helpers.kernels_references import bag_dyt_reference, bag_mean_reference
from tests.helpers.tolerances import OPERATIONS, assert_within, roots, rounding, stored

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LENGTHS = {
    "ragged": [3, 0, 5, 1, 0, 17],
    "one": [4],
    "one-token": [1],
    "all-empty": [0, 0, 0],
    "no-bag": [],
    "ends-empty": [0, 2, 2, 0],
}


@dataclass(frozen=True)
class Problem:
    weight: torch.Tensor
    ids: torch.Tensor
    offsets: torch.Tensor
    gate: tuple[torch.Tensor, ...]  # alpha, beta, bias
    dy: torch.Tensor

    def to(self, dtype):
        gate = tuple(p.to(dtype) for p in self.gate)
        return replace(self, weight=self.weight.to(dtype), gate=gate, dy=self.dy.to(dtype))

    def cuda(self):
        moved = {n: t.cuda() for n, t in vars(self).items() if n != "gate"}
        return Problem(**moved, gate=tuple(p.cuda() for p in self.gate))


def problem(lengths, vocab=11, dim=7, dtype=torch.float32, ids=torch.int64, seed=0, hot=None):
    """Random bags of the given lengths; `hot` of ten tokens in ten are token 1."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths, dtype=torch.int64)
    offsets = torch.zeros(len(lengths) + 1, dtype=ids)
    offsets[1:] = lengths.cumsum(0)
    tokens = torch.randint(vocab, (int(lengths.sum()),), generator=g)
    if hot is not None:
        tokens[torch.rand(tokens.shape, generator=g) < hot / 10] = 1
    normal = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    weight, dy = normal(vocab, dim), normal(len(lengths), dim)
    return Problem(weight, tokens.to(ids), offsets, tuple(normal(dim) for _ in range(3)), dy)


def leaves(p, gated=True):
    return [t.detach().clone().requires_grad_() for t in (p.weight, *(p.gate if gated else ()))]


def reference(p, gated=True):
    """Result and gradients in float64, from the same rounded inputs."""
    p = p.to(torch.float64)
    w, *gate = leaf = leaves(p, gated)
    ids, offsets = p.ids.long(), p.offsets.long()
    y = (bag_dyt_reference if gated else bag_mean_reference)(w, ids, offsets, *gate)
    y.backward(p.dy)
    return [y.detach(), *(t.grad for t in leaf)]


def run(p, gated=True, **options):
    """Result and gradients of the op."""
    w, *gate = leaf = leaves(p, gated)
    if gated:
        y = k.bag_dyt(w, p.ids, p.offsets, *gate, **options)
    else:
        y = k.bag_mean(w, p.ids, p.offsets, **options)
    y.backward(p.dy)
    return [y.detach(), *(t.grad for t in leaf)]


def distance(a, b):
    """Relative L2 in float64; absolute where b is 0; NaN and infinity show."""
    a, b = a.detach().double(), b.detach().double()
    norm = float(b.norm())
    return float((a - b).norm()) / (norm if norm > 0 else 1.0)


def bounds(p, gated=True, step=None):
    """Tolerances of `run(p)`, by the terms of each sum; `step` is the dtype between the steps.

    With z = alpha x + bias off by |alpha| mean|w| + |bias| =: e and s = sech^2 z, tanh z is off by
    s e and dz by |dy beta| s (1 + 2 |tanh z| e).
    """
    dtype = p.weight.dtype
    step = step or torch.promote_types(dtype, torch.float32)
    w, a, b, c, dy = (t.double().abs() for t in (p.weight, *p.gate, p.dy))
    lengths = p.offsets.long().diff()
    n = lengths[:, None].double()
    ids, bags = p.ids.long(), torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    x = torch.zeros(dy.shape, dtype=torch.float64).index_add_(0, bags, w[ids]) / n.clamp(min=1)
    share = dy
    pairs = torch.stack([bags, ids]).unique(dim=1)  # equal rows in a bag, and equal shares in a row
    tokens = pairs[0].bincount(minlength=len(lengths))[:, None]
    terms = [x * (1 + roots(n, tokens) / OPERATIONS)]
    if gated:
        e = a * terms[0] + c
        z = torch.addcmul(p.gate[2].double(), reference(p, False)[0], p.gate[0].double())
        s, t = z.cosh() ** -2, z.tanh().abs()
        if step == torch.float64:
            s = s + t**2  # the reference in float64 has autograd's 1 - tanh^2, which cancels
        dz = dy * b * s * (1 + 2 * t * e)
        share = dz * a
        terms = [b * (s * e + t), None, (dz * x).sum(0), (dy * (s * e + t)).sum(0), dz.sum(0)]
    hits = ids.bincount(minlength=len(w))[:, None]
    share = torch.zeros_like(w).index_add_(0, ids, (share / n.clamp(min=1))[bags])
    terms[1:2] = [share]
    holders = pairs[1].bincount(minlength=len(w))[:, None]
    counts = ((1, None), (hits, holders), *[(len(n), None)] * 3)
    out = [rounding(t, step, *count) for t, count in zip(terms, counts, strict=False)]
    return out if dtype == step else stored(out, reference(p, gated), dtype)


def assert_right(family, got, p, gated=True, step=None):
    """Result and gradients of problem `p` (the first ones that `got` has) are right to rounding."""
    names = ("y", "weight", "alpha", "beta", "bias")
    for name, a, b, r in zip(names, got, reference(p, gated), bounds(p, gated, step), strict=False):
        assert_within(f"{family} {str(p.weight.dtype)[6:]}, {name}", a, b, r)


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def poison(monkeypatch):
    """Fill `empty` tensors with NaN (integers: their maximum), so that unwritten results show."""

    def filled(make):
        def call(*args, **kwargs):
            out = make(*args, **kwargs)
            if out.is_floating_point():
                return out.fill_(float("nan"))
            return out.fill_(True if out.dtype == torch.bool else torch.iinfo(out.dtype).max)

        return call

    monkeypatch.setattr(torch.Tensor, "new_empty", filled(torch.Tensor.new_empty))
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
