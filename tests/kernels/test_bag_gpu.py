"""Claims about the Triton kernels on a CUDA device: `pytest -m gpu`."""

import os
import subprocess
import sys

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
    run,
)
from tests.helpers.tolerances import assert_within

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODES = pytest.mark.parametrize("atomic", [False, True], ids=["ordered", "atomic"])


@pytest.fixture(autouse=True)
def no_unwritten_memory(monkeypatch):
    poison(monkeypatch)


def on_cpu(results):
    return [t.cpu() for t in results]


def big(dtype=torch.float32, bags=512, length=64, dim=512):
    return problem([length] * bags, vocab=5000, dim=dim, hot=2).to(dtype)


@MODES
@pytest.mark.parametrize("gated", [True, False], ids=["dyt", "mean"])
@pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=["i64", "i32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_result_and_every_gradient_equal_the_reference(lengths, dtype, ids, gated, atomic):
    p = problem(lengths, dtype=dtype, ids=ids)
    got = run(p.cuda(), gated, backend="triton", atomic=atomic)
    assert_right("bag gpu", on_cpu(got), p, gated)


@pytest.mark.parametrize("dim", [1, 33, 64, 384, 512, 768, 1030])
def test_widths(dim):
    p = problem([9, 0, 40, 3], dim=dim)
    assert_right("bag gpu", on_cpu(run(p.cuda(), backend="triton")), p)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_large_batch_with_a_very_frequent_token(dtype):
    p = big(dtype)
    assert_right("bag gpu", on_cpu(run(p.cuda(), backend="triton")), p)


def test_gradients_repeat_to_the_bit():
    p = big().cuda()
    first = run(p, backend="triton")
    for _ in range(3):
        assert_same(run(p, backend="triton"), first)
    plan = k.plan_bags(p.ids, p.offsets, 5000)
    assert_same(run(p, backend="triton", plan=plan), first)
    host = problem([64] * 512, vocab=5000, dim=512, hot=2)
    moved = k.plan_bags(host.ids, host.offsets, 5000).pin_memory().to("cuda", non_blocking=True)
    assert_same(run(p, backend="triton", plan=moved), first)


def test_addresses_past_two_to_the_31_elements():
    vocab, dim = 2**31 // 512 + 9, 512
    if torch.cuda.mem_get_info()[0] < 14 * vocab * dim:
        pytest.skip("needs 28 GiB of free GPU memory")
    w = torch.zeros(vocab, dim, dtype=torch.bfloat16, device="cuda").requires_grad_()
    with torch.no_grad():
        w[-1] = 3.0
    ids = torch.tensor([vocab - 1, 0, vocab - 1], device="cuda")
    x = k.bag_mean(w, ids, torch.tensor([0, 2, 3], device="cuda"), backend="triton")
    assert x[:, 0].tolist() == [1.5, 3.0]
    x.sum().backward()
    assert w.grad[-1, 0] == 1.5 and w.grad[0, 0] == 0.5 and w.grad[1].eq(0).all()


def test_ids_out_of_range_read_zeros_and_the_debug_flag_names_them():
    p = problem([3, 2]).cuda()
    ids = p.ids.clone()
    ids[3] = 11
    x = k.bag_mean(p.weight, ids, p.offsets, backend="triton")
    torch.testing.assert_close(x[1], p.weight[ids[4]] / 2)
    code = (
        "import torch, sse_kernels as k; torch.set_default_device('cuda')\n"
        "k.bag_mean(torch.zeros(3, 4), torch.tensor([3]), torch.tensor([0, 1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SSE_KERNELS_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert "IndexError: ids[0] = 3" in done.stderr


def test_a_step_never_waits_for_the_device():
    p = big().cuda()
    table_grad = k.TableGrad()
    for options in ({}, {"table_grad": table_grad}, {"atomic": True}):
        run(p, backend="triton", **options)  # compiles
        w, *gate = leaves(p)
        torch.cuda.set_sync_debug_mode("error")
        try:
            k.bag_dyt(w, p.ids, p.offsets, *gate, **options).backward(p.dy)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_table_grad_equals_autograd():
    p = big().cuda()
    expected, tolerance = run(p, backend="triton")[1].cpu(), bounds(big())[1]
    w, table_grad = leaves(p)[0], k.TableGrad()
    for _ in range(2):
        w.grad = None
        for times in (1, 2):
            k.bag_dyt(w, p.ids, p.offsets, *p.gate, table_grad=table_grad).backward(p.dy)
            assert_within("bag gpu", w.grad.cpu(), times * expected, 2 * times * tolerance)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_in_one_graph_with_gradients(backend):
    p = big().cuda()
    w, *gate = leaf = leaves(p)
    y = torch.compile(k.bag_dyt, fullgraph=True, backend=backend)(w, p.ids, p.offsets, *gate)
    y.backward(p.dy)
    assert_same([y.detach(), *(t.grad for t in leaf)], run(p))


def test_cuda_graph_replays_forward_and_backward(monkeypatch):
    monkeypatch.undo()  # NaN fills would be captured too
    p = big().cuda()
    expected = run(p)
    w, *gate = leaf = leaves(p)
    y = torch.cuda.make_graphed_callables(
        lambda *t: k.bag_dyt(t[0], p.ids, p.offsets, *t[1:]), tuple(leaf)
    )(*leaf)
    y.backward(p.dy)
    assert_same([y.detach(), *(t.grad for t in leaf)], expected)


def test_autocast_changes_no_bit():
    p = big().cuda()
    expected = run(p)
    with torch.autocast("cuda", torch.bfloat16):
        w, *gate = leaf = leaves(p)
        y = k.bag_dyt(w, p.ids, p.offsets, *gate)
    y.backward(p.dy)
    assert_same([y.detach(), *(t.grad for t in leaf)], expected)


def test_backward_scratch_is_a_fifth_of_atens():
    def scratch(op, p):
        leaf = leaves(p)
        y = op(*leaf)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.grad(y, leaf, p.dy)
        table = p.weight.numel() * p.weight.element_size()  # the result itself
        return torch.cuda.max_memory_allocated() - before - table

    p = problem([64] * 4096, vocab=30522, dim=512, hot=2).cuda()
    from tests.helpers.kernels_references import bag_dyt_reference

    ours = scratch(lambda w, *g: k.bag_dyt(w, p.ids, p.offsets, *g), p)
    aten = scratch(lambda w, *g: bag_dyt_reference(w, p.ids, p.offsets, *g), p)
    assert ours <= aten / 5
