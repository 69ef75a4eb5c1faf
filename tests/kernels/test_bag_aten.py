"""Claims about the path without Triton: right in every dtype and shape, repeatable, clear."""

import mpmath
import pytest
import sse_kernels as k
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.kernels_cases import (
    DTYPES,
    LENGTHS,
    assert_right,
    assert_same,
    leaves,
    poison,
    problem,
    run,
)
from tests.helpers.kernels_references import sech2


@pytest.fixture(autouse=True)
def no_unwritten_memory(monkeypatch):
    poison(monkeypatch)


@pytest.mark.parametrize("gated", [True, False], ids=["dyt", "mean"])
@pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=["i64", "i32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_result_and_every_gradient_equal_the_reference(lengths, dtype, ids, gated):
    p = problem(lengths, dtype=dtype, ids=ids)
    # ATen rounds every step of a 16-bit forward pass, where the Triton path keeps it in 32 bits
    assert_right("bag aten", run(p, gated), p, gated, step=dtype)


@pytest.mark.parametrize("dim", [1, 129, 512, 1030])
@pytest.mark.parametrize("vocab", [3, 40_000])  # 16-bit and 32-bit sort keys
def test_widths_and_vocabularies(dim, vocab):
    p = problem([9, 0, 40, 3], vocab=vocab, dim=dim)
    assert_right("bag aten", run(p), p)


def test_a_vocabulary_of_a_million():
    p = problem([9, 0, 40, 3], vocab=1_000_000, dim=3)
    assert_right("bag aten", run(p), p)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    vocab=st.integers(1, 300),
    dim=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    hot=st.sampled_from([None, 5, 10]),
    planned=st.booleans(),
)
def test_any_batch_equals_the_reference(lengths, vocab, dim, seed, hot, planned):
    p = problem(lengths, vocab=max(vocab, 2), dim=dim, seed=seed, hot=hot, dtype=torch.float64)
    plan = k.plan_bags(p.ids, p.offsets, max(vocab, 2)) if planned else None
    for dtype in (torch.float64, torch.float32):
        q = p.to(dtype)
        assert_right("bag aten", run(q, plan=plan), q)


@pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=["i64", "i32"])
def test_gradcheck(ids):
    p = problem([3, 0, 5, 1], dtype=torch.float64, ids=ids)
    op = lambda w, a, b, c: k.bag_dyt(w, p.ids, p.offsets, a, b, c)  # noqa: E731
    assert torch.autograd.gradcheck(op, leaves(p))
    assert torch.autograd.gradcheck(lambda w: k.bag_mean(w, p.ids, p.offsets), leaves(p)[:1])


def test_gradients_repeat_to_the_bit_and_a_plan_changes_no_bit():
    p = problem([30] * 400, vocab=500, dim=64, hot=3)
    first = run(p)
    assert_same(run(p), first)
    assert_same(run(p, plan=k.plan_bags(p.ids, p.offsets, 500)), first)


def sech2_gradient(z, dtype):
    """d tanh(z) / dz as the op's backward gives it: a table of one-token bags, alpha = beta = 1."""
    n = z.numel()
    w = z.to(dtype).reshape(n, 1).requires_grad_()
    one, zero = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    k.bag_dyt(w, torch.arange(n), torch.arange(n + 1), one, one, zero).sum().backward()
    return w.grad[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_sech2_gradient_keeps_its_digits_where_tanh_saturates(dtype):
    z = torch.linspace(-20, 20, 401, dtype=dtype)
    with mpmath.workdps(60):
        closed = [float(mpmath.sech(mpmath.mpf(float(v))) ** 2) for v in z]
        h = mpmath.mpf(10) ** -20
        slope = [
            float((mpmath.tanh(float(v) + h) - mpmath.tanh(float(v) - h)) / (2 * h)) for v in z
        ]
    closed, slope = (torch.tensor(v, dtype=torch.float64) for v in (closed, slope))
    got = sech2_gradient(z, dtype).double()
    eps = torch.finfo(dtype).eps
    assert ((got - closed).abs() / closed).max() < 8 * eps
    assert ((got - slope).abs() / slope).max() < 8 * eps
    assert ((sech2(z).double() - closed).abs() / closed).max() < 8 * eps


def test_sech2_gradient_is_zero_not_nan_past_overflow():
    assert sech2_gradient(torch.tensor([-1e4, 200.0, 1e30]), torch.float32).tolist() == [0, 0, 0]


def test_parameters_of_another_dtype_promote_as_in_torch():
    p = problem([3, 0, 5], dtype=torch.bfloat16)
    gate = [t.float().requires_grad_() for t in p.gate]
    w = p.weight.clone().requires_grad_()
    y = k.bag_dyt(w, p.ids, p.offsets, *gate)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert (w.grad.dtype, gate[0].grad.dtype) == (torch.bfloat16, torch.float32)


def test_strided_weight_and_gradient():
    p = problem([3, 0, 5], vocab=9, dim=8)
    wide = torch.randn(9, 16)
    wide[:, ::2] = p.weight
    w = wide[:, ::2].requires_grad_()
    y = k.bag_dyt(w, p.ids, p.offsets, *p.gate)
    y.backward(p.dy.t().contiguous().t())
    expected = run(p)
    assert torch.equal(y.detach(), expected[0])
    assert torch.equal(w.grad, expected[1])


def test_only_what_needs_a_gradient_gets_one():
    p = problem([3, 2])
    w, alpha, beta, bias = leaves(p)
    k.bag_dyt(w.detach(), p.ids, p.offsets, alpha, beta, bias.detach()).sum().backward()
    assert w.grad is None and bias.grad is None
    assert alpha.grad is not None and beta.grad is not None
    with torch.no_grad():
        assert not k.bag_dyt(w, p.ids, p.offsets, alpha, beta, bias).requires_grad


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("bad", [-1, 11, 2**31 - 1])
def test_an_id_out_of_range_is_an_index_error_that_names_it(bad, dtype):
    p = problem([3, 2], dtype=dtype)
    ids = p.ids.clone()
    ids[3] = bad
    with pytest.raises(IndexError, match=rf"ids\[3\] = {bad} .* 11 rows"):
        k.bag_dyt(p.weight, ids, p.offsets, *p.gate)
    with pytest.raises(IndexError, match=rf"ids\[3\] = {bad}"):
        k.plan_bags(ids, p.offsets, 11)


def test_arguments_that_do_not_go_together_are_refused():
    p = problem([3, 2])
    other = k.plan_bags(p.ids[:4], torch.tensor([0, 4]), 11)
    call = lambda **new: k.bag_dyt(  # noqa: E731
        new.get("weight", p.weight),
        new.get("ids", p.ids),
        new.get("offsets", p.offsets),
        *new.get("gate", p.gate),
        **new.get("options", {}),
    )
    for error, message, new in [
        (ValueError, "offsets must go from 0 to 5 ids, got 0 to 3", {"offsets": p.offsets[:-1]}),
        (ValueError, "offsets must go from 0", {"offsets": p.offsets + 1}),
        (ValueError, "descend after bag 1", {"offsets": torch.tensor([0, 4, 2, 5])}),
        (ValueError, "offsets", {"offsets": p.offsets[:0]}),
        (TypeError, "int32 or int64", {"ids": p.ids.short()}),
        (TypeError, "weight must be", {"weight": p.weight.int()}),
        (ValueError, "weight must be", {"weight": p.weight[0]}),
        (ValueError, r"alpha must be \(7,\)", {"gate": (p.gate[0][:1], *p.gate[1:])}),
        (TypeError, "beta is torch.float64", {"gate": (p.gate[0], p.gate[1].double(), p.gate[2])}),
        (ValueError, "plan= is of 4 tokens", {"options": {"plan": other}}),
        (ValueError, "choose auto, torch or triton", {"options": {"backend": "cuda"}}),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call(**new)


def test_float16_sums_are_held_in_float32():
    weight = torch.full((3, 4), 100.0, dtype=torch.float16)
    ids, offsets = torch.zeros(5_000, dtype=torch.int64), torch.tensor([0, 5_000])
    assert (k.bag_mean(weight, ids, offsets) == 100).all()
    with pytest.raises(IndexError):
        k.bag_mean(weight, ids + 3, offsets)
