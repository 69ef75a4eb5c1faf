"""Problems, float64 references and tolerances that the kernels' test files share."""

from dataclasses import dataclass, replace

import sse_kernels as k
import torch
from sse_kernels.reference import bag_dyt_reference, bag_mean_reference

# relative L2 against float64, for the result and for every gradient
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 5e-4}
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


def assert_close(got, expected, dtype, slack=1):
    for name, a, b in zip(("y", "weight", "alpha", "beta", "bias"), got, expected, strict=False):
        assert a.shape == b.shape, name
        assert distance(a, b) <= slack * TOLERANCE[dtype], (name, distance(a, b))


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
