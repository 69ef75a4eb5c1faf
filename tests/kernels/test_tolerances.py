"""The derived tolerances pass what is right to rounding, and fail what is wrong by little more."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import contrastive_cases, kernels_cases
from tests.helpers.kernels_references import bag_dyt_reference, matryoshka_contrastive_reference
from tests.helpers.tolerances import rounding

BAG = kernels_cases.problem([9, 0, 40, 3, 17], vocab=30, dim=16)
LOSS = contrastive_cases.problem(12, [16, 8], extra=5)
ONE = contrastive_cases.problem(1, [4])  # p - 1 is 0, of two terms that are 1


@pytest.fixture(autouse=True)
def not_recorded(monkeypatch):
    monkeypatch.delenv("SSE_RATIOS", raising=False)


def bag_run(p, op=bag_dyt_reference):
    w, *gate = leaf = kernels_cases.leaves(p)
    y = op(w, p.ids, p.offsets, *gate)
    y.backward(p.dy.to(y.dtype))
    return [y.detach(), *(t.grad for t in leaf)]


def bag_right(results):
    kernels_cases.assert_right("plain torch", results, BAG)


def loss_run(p, change=lambda x: x, **options):
    leaves = [t.clone().requires_grad_() for t in (p.query, p.documents)]
    value = matryoshka_contrastive_reference(*map(change, leaves), p.dims, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def test_plain_torch_in_float32_is_within():
    bag_right(bag_run(BAG))
    for p in (LOSS, ONE):
        contrastive_cases.assert_near(loss_run(p), p)


def bfloat16_sum(w, ids, offsets, *gate):
    x = F.embedding_bag(ids, w.bfloat16(), offsets, mode="mean", include_last_offset=True)
    return torch.tanh(torch.addcmul(gate[2], x.float(), gate[0])) * gate[1]


def token_left_out(w, ids, offsets, *gate):
    offsets = offsets.clone()
    offsets[-1] -= 1
    return bag_dyt_reference(w, ids, offsets, *gate)


def float16_tanh(w, ids, offsets, alpha, beta, bias):
    x = F.embedding_bag(ids, w, offsets, mode="mean", include_last_offset=True)
    return torch.addcmul(bias, x, alpha).half().tanh().float() * beta


WRONG_OPS = {
    "bfloat16 sum": bfloat16_sum,
    "token left out": token_left_out,
    "float16 tanh": float16_tanh,
}


@pytest.mark.parametrize("op", WRONG_OPS.values(), ids=WRONG_OPS)
def test_a_wrong_bag_is_outside(op):
    with pytest.raises(AssertionError, match="of its tolerance"):
        bag_right(bag_run(BAG, op))


@pytest.mark.parametrize("which", range(5), ids=["y", "weight", "alpha", "beta", "bias"])
def test_a_result_off_by_a_hundred_roundings_of_its_value_is_outside(which):
    results = bag_run(BAG)
    results[which] = results[which] * (1 + 1e-5)
    with pytest.raises(AssertionError, match="of its tolerance"):
        bag_right(results)
    results[which] = -results[which]
    with pytest.raises(AssertionError, match="of its tolerance"):
        bag_right(results)


def norms_without_gradient():
    value, *_ = loss_run(LOSS)
    leaves = [t.clone().requires_grad_() for t in (LOSS.query, LOSS.documents)]
    loss = 0.0
    for dim in LOSS.dims:
        q, d = (x[:, :dim] / x[:, :dim].detach().norm(dim=1, keepdim=True) for x in leaves)
        loss = loss + F.cross_entropy(20 * q @ d.T, torch.arange(len(q)))
    return [value, *torch.autograd.grad(loss, leaves)]


WRONG_LOSSES = {
    "scale": lambda: loss_run(LOSS, scale=20.002),
    "bfloat16": lambda: loss_run(LOSS, lambda x: x.bfloat16().float()),
    "document left out": lambda: [*loss_run(replace(LOSS, documents=LOSS.documents[:-1]))[:2],
                                  loss_run(LOSS)[2]],
    "norms that take no gradient": norms_without_gradient,
    "smoothing": lambda: loss_run(LOSS, label_smoothing=1e-4),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_LOSSES.values(), ids=WRONG_LOSSES)
def test_a_wrong_loss_is_outside(wrong):
    with pytest.raises(AssertionError, match="of its tolerance"):
        contrastive_cases.assert_near(wrong(), LOSS)


def test_terms_that_cancel_keep_their_rounding_and_no_more():
    got = loss_run(ONE)
    _, tolerances = contrastive_cases.reference(ONE)
    assert all((t > 1e-7).all() and (t < 1e-3).all() for t in tolerances[1:])
    got[1] = got[1] + 1e-3
    with pytest.raises(AssertionError, match="of its tolerance"):
        contrastive_cases.assert_near(got, ONE)


def test_a_sum_in_float32_is_within_at_any_length():
    for n in (10, 1000, 100_000):
        x = torch.randn(n, generator=torch.Generator().manual_seed(n))
        exact, terms = x.double().sum(), x.double().abs().sum()
        for got in (x.sum(), x.cumsum(0)[-1]):
            assert (got.double() - exact).abs() <= rounding(terms, torch.float32, n)
        assert (x.bfloat16().sum().double() - exact).abs() > rounding(terms, torch.float32, 1)
