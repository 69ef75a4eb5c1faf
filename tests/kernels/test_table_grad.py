"""Claims about TableGrad: whatever a loop does, weight.grad is what autograd would give."""

import copy
import pickle

import pytest
import sse_kernels as k
import torch

from tests.helpers.kernels_cases import distance, leaves, problem

VOCAB = 400


def batch(seed, bags=6, length=5, dtype=torch.float64):
    """Few bags hit few rows, many bags nearly all."""
    return problem([length] * bags, vocab=VOCAB, dim=16, seed=seed).to(dtype)


def step(w, p, table_grad):
    k.bag_dyt(w, p.ids, p.offsets, *p.gate, table_grad=table_grad).backward(p.dy)


def pair(seed=0):
    """Two equal tables in float64, where an error of logic is far above any rounding."""
    w = batch(seed).weight.double()
    return w.clone().requires_grad_(), w.clone().requires_grad_(), k.TableGrad()


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zeros"])
@pytest.mark.parametrize("bags", [[6] * 5, [300] * 3, [6, 300, 6, 300, 6, 6]], ids=str)
def test_steps_equal_autograd(bags, to_none):
    a, b, table_grad = pair()
    for seed, count in enumerate(bags):
        p = batch(seed, count)
        step(a, p, None)
        step(b, p, table_grad)
        assert distance(b.grad, a.grad) < 1e-12
        for w in (a, b):
            torch.optim.SGD([w]).zero_grad(set_to_none=to_none)


def test_accumulation_over_batches_and_over_calls_in_one_graph():
    a, b, table_grad = pair()
    for _ in range(3):
        for w, t in ((a, None), (b, table_grad)):
            w.grad = None
            step(w, batch(1), t)  # two backward passes
            step(w, batch(2), t)
            p, q = batch(3), batch(4)  # two calls, one backward pass
            y = k.bag_dyt(w, p.ids, p.offsets, *p.gate, table_grad=t) * p.dy
            z = k.bag_mean(w, q.ids, q.offsets, table_grad=t) * q.dy
            ((y + z).sum() + w.square().sum()).backward()  # and a third use autograd adds itself
        assert distance(b.grad, a.grad) < 1e-12


def test_the_buffer_is_kept_between_steps_that_hit_few_rows():
    _, w, table_grad = pair()
    step(w, batch(1), table_grad)
    kept = w.grad.data_ptr()
    w.grad = None
    step(w, batch(2), table_grad)
    assert w.grad.data_ptr() == kept


def test_a_gradient_changed_in_place_as_a_whole_leaves_no_trace():
    for spoil in (lambda g: g.mul_(0.5), lambda g: g.add_(1.0), lambda g: g.mul_(float("nan"))):
        a, b, table_grad = pair()
        step(b, batch(1), table_grad)
        with torch.no_grad():
            spoil(b.grad)
        b.grad = None
        step(b, batch(2), table_grad)
        step(a, batch(2), None)
        assert distance(b.grad, a.grad) < 1e-12


def test_adam_trains_to_the_same_table():
    a, b, table_grad = pair()
    for w, t in ((a, None), (b, table_grad)):
        optimizer = torch.optim.Adam([w], lr=0.1, fused=True)
        for seed in range(6):
            step(w, batch(seed), t)
            torch.nn.utils.clip_grad_norm_([w], 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert distance(b.detach(), a.detach()) < 1e-7  # Adam divides rounding by its 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    a, b = (leaves(batch(0, dtype=dtype))[0] for _ in range(2))
    table_grad = k.TableGrad()
    for bags in (6, 300):
        p = batch(1, bags, dtype=dtype)
        a.grad = b.grad = None
        step(a, p, None)
        step(b, p, table_grad)
        assert b.grad.dtype == dtype
        assert torch.equal(a.grad, b.grad)


def test_a_second_weight_is_refused_while_the_first_has_its_gradient():
    v, w, table_grad = pair()
    step(w, batch(1), table_grad)
    with pytest.raises(ValueError, match="make one for each"):
        step(v, batch(1), table_grad)
    expected, w.grad = w.grad.clone(), None
    step(v, batch(1), table_grad)
    assert torch.equal(v.grad, expected)


def test_it_says_what_it_cannot_do():
    _, w, table_grad = pair()
    with pytest.raises(ValueError, match="leaf"):
        step(w * 1, batch(1), table_grad)
    handle = w.register_hook(lambda g: g)
    with pytest.raises(ValueError, match="hooks"):
        step(w, batch(1), table_grad)
    handle.remove()
    w.grad = None
    step(w, batch(1), table_grad)
    assert w.grad is not None


def test_copies_and_pickles_carry_no_buffer():
    _, w, table_grad = pair()
    step(w, batch(1), table_grad)
    for other in (copy.deepcopy(table_grad), pickle.loads(pickle.dumps(table_grad))):
        assert other._buffer is None
