"""Claims about the Triton kernels, run in Triton's interpreter on CPU tensors.

The interpreter must be chosen before Triton is first imported: `test_aot.py` runs this file
in a process of its own with TRITON_INTERPRET=1, and elsewhere it is skipped.
"""

import os
from dataclasses import replace

import pytest
import sse_kernels as k
import torch

from tests.helpers.kernels_cases import (
    DTYPES,
    LENGTHS,
    assert_right,
    assert_same,
    bounds,
    leaves,
    poison,
    problem,
    reference,
    run,
)
from tests.helpers.tolerances import assert_within

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in test_aot.py's own process", allow_module_level=True)

import mpmath
import triton
import triton.language as tl
from sse_kernels.plan import CHUNK
from sse_kernels.triton_math import sech2, tanh

MODES = pytest.mark.parametrize("atomic", [False, True], ids=["ordered", "atomic"])
IDS = pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=["i64", "i32"])
HOT = [4, 0, CHUNK * 3, 2, CHUNK * 2]  # with token 1 in nine tokens of ten: whole chunks of it


@pytest.fixture(autouse=True)
def no_unwritten_memory(monkeypatch):
    poison(monkeypatch)


def triton_run(p, gated=True, **options):
    return run(p, gated, backend="triton", **options)


@MODES
@IDS
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_result_and_every_gradient_equal_the_reference(dtype, ids, atomic):
    p = problem(LENGTHS["ragged"], dtype=dtype, ids=ids)
    assert_right("bag triton", triton_run(p, atomic=atomic), p)


@MODES
@pytest.mark.parametrize("lengths", list(LENGTHS.values())[1:], ids=list(LENGTHS)[1:])
def test_empty_and_single_bags(lengths, atomic):
    p = problem(lengths)
    assert_right("bag triton", triton_run(p, atomic=atomic), p)


@MODES
@pytest.mark.parametrize("dim", [1, 33, 1030], ids=lambda d: f"D{d}")  # 1030 takes two blocks
def test_odd_and_wide_rows(dim, atomic):
    p = problem([3, 0, 2], vocab=3, dim=dim)
    assert_right("bag triton", triton_run(p, atomic=atomic), p)


@MODES
def test_mean_alone(atomic):
    p = problem(LENGTHS["ragged"])
    assert_right("bag triton", triton_run(p, False, atomic=atomic), p, False)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_a_token_hit_often_is_summed_in_two_stages(dtype):
    p = problem(HOT, vocab=5, dim=5, dtype=dtype, hot=9)
    plan = k.plan_bags(p.ids, p.offsets, 5)
    assert int(plan.whole.sum()) >= 3
    assert_right("bag triton", triton_run(p, plan=plan), p)


@MODES
@IDS
def test_gradcheck(ids, atomic):
    p = problem([3, 0, 1, 2, 1], vocab=7, dim=5, dtype=torch.float64, ids=ids)

    def op(w, a, b, c):
        return k.bag_dyt(w, p.ids, p.offsets, a, b, c, backend="triton", atomic=atomic)

    # adding by atomics repeats only to rounding; the interpreter may run programs in any order
    assert torch.autograd.gradcheck(op, leaves(p), fast_mode=True, nondet_tol=1e-12)


def test_gradients_repeat_to_the_bit():
    p = problem(HOT, vocab=5, dim=5, hot=8)
    first = triton_run(p)
    assert_same(triton_run(p), first)
    assert_same(triton_run(p, plan=k.plan_bags(p.ids, p.offsets, 5)), first)


def test_table_grad_replaces_and_adds():
    p = problem([3, 0, 5], vocab=11)
    w, table_grad = leaves(p)[0], k.TableGrad()
    expected, tolerance = reference(p)[1], bounds(p)[1]
    for _ in range(2):
        w.grad = None
        for times in (1, 2):
            y = k.bag_dyt(w, p.ids, p.offsets, *p.gate, table_grad=table_grad, backend="triton")
            y.backward(p.dy)
            assert_within("bag triton, TableGrad", w.grad, times * expected, times * tolerance)


def test_table_with_strided_rows():
    p = problem([3, 2], vocab=9, dim=8)
    wide = torch.randn(9, 24)
    wide[:, 5:13] = p.weight
    y = k.bag_mean(wide[:, 5:13], p.ids, p.offsets, backend="triton")
    assert_right("bag triton", [y], p, False)


@MODES
def test_ids_out_of_range_count_as_zero_rows_and_learn_nothing(atomic):
    p = problem([4, 3], vocab=5)
    padded = torch.cat([p.weight, torch.zeros(1, 7)])
    zeros = replace(p, weight=padded, ids=torch.where(p.ids == 2, 5, p.ids))
    v = p.weight.clone().requires_grad_()
    for bad in (-7, 5, 2**31 - 1):
        v.grad = None
        ids = torch.where(p.ids == 2, bad, p.ids)
        if not atomic:  # on the CPU a plan is made of checked ids: make it as a GPU would
            keep = (ids >= 0) & (ids < 5)
            tokens, order = torch.sort(ids[keep], stable=True)
            rows = torch.tensor([0] * 4 + [1] * 3, dtype=torch.int32)[keep][order]
            rows = torch.cat([rows, rows.new_zeros(len(ids) - len(rows))])
            starts = torch.searchsorted(tokens, torch.arange(6), out_int32=True)
            plan = k.BagPlan(rows, starts, torch.empty(0, dtype=torch.bool))
        options = {"atomic": True} if atomic else {"plan": plan}
        y = k.bag_mean(v, ids, p.offsets, backend="triton", **options)
        y.backward(p.dy)
        expected, tolerance = reference(zeros, False), bounds(zeros, False)
        assert_within("bag triton", y, expected[0], tolerance[0])
        assert_within("bag triton", v.grad, expected[1][:5], tolerance[1][:5])


def test_compiles_with_gradients():
    p = problem([3, 0, 5])
    w, *gate = leaf = leaves(p)
    op = torch.compile(k.bag_dyt, fullgraph=True, backend="aot_eager")
    y = op(w, p.ids, p.offsets, *gate, backend="triton")
    y.backward(p.dy)
    assert_same([y.detach(), *(t.grad for t in leaf)], triton_run(p))


@triton.jit
def both(x, t, s, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < count)
    tl.store(t + at, tanh(v), mask=at < count)
    tl.store(s + at, sech2(v), mask=at < count)


@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 3), (torch.float64, 2)])
def test_tanh_and_sech2_are_accurate_to_rounding(dtype, ulps):
    x = torch.cat([torch.linspace(-20, 20, 401), torch.logspace(-30, 0, 200)]).to(dtype)
    x = torch.cat([x, torch.linspace(0.6, 0.65, 101).to(dtype), -x])
    t, s = torch.zeros_like(x), torch.zeros_like(x)
    both[(1,)](x, t, s, x.numel(), BLOCK=2048)
    with mpmath.workdps(50):
        exact = [(mpmath.tanh(v), mpmath.sech(v) ** 2) for v in map(mpmath.mpf, x.tolist())]
        eps = float(torch.finfo(dtype).eps)
        for got, which in ((t, 0), (s, 1)):
            for g, e in zip(got.tolist(), exact, strict=True):
                e = e[which]
                assert abs(g - e) <= (ulps if which == 0 else 4 * ulps) * eps * abs(e), (g, e)


def test_tanh_at_the_edges():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0.0, -0.0, inf, -inf, nan, 1e-45, -1e-45, 100.0])
    t, s = torch.zeros_like(x), torch.zeros_like(x)
    both[(1,)](x, t, s, 8, BLOCK=8)
    expected = torch.tensor([0.0, -0.0, 1.0, -1.0, nan, 1e-45, -1e-45, 1.0])
    assert torch.equal(t.nan_to_num(7), expected.nan_to_num(7))
    assert s[2:4].tolist() == [0.0, 0.0] and s[4].isnan()
