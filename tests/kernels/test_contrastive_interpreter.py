"""The contrastive loss's kernels in Triton's interpreter: see test_bag_interpreter.py."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.contrastive_cases import DTYPES, assert_near, problem, run
from tests.helpers.kernels_cases import assert_same, poison

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in test_aot.py's own process", allow_module_level=True)

from sse_kernels import matryoshka_contrastive
from sse_kernels.contrastive import tiles as contrastive_gpu

PUBLISHED = [512, 256, 128, 64, 32]


@pytest.fixture(autouse=True)
def no_unwritten_memory(monkeypatch):
    poison(monkeypatch)


@pytest.mark.parametrize("symmetric", [False, True], ids=["one-way", "symmetric"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_value_and_gradients_equal_the_reference(dtype, symmetric):
    p = problem(40, [64, 32], extra=9, dtype=dtype, symmetric=symmetric)
    assert_near(run(p), p)


@pytest.mark.parametrize(
    "p",
    [
        problem(37, PUBLISHED),
        problem(1, [4]),
        problem(1, [4], extra=3, first=2),
        problem(33, [100, 48, 7], extra=20, repeats=True, symmetric=True),
        problem(20, [33, 5, 1], dim=40, extra=30, first=11, repeats=True, label_smoothing=0.1),
        problem(20, [16, 3], extra=5, repeats=True, symmetric=True, label_smoothing=0.5),
        problem(9, [600], weights=[0.3]),  # two groups of columns
        problem(70, [8, 2], extra=70, weights=[2.0, 0.0], scale=200.0),
    ],
    ids=["published", "one", "one-of", "hard-masked", "offset", "smooth", "wide", "tiles"],
)
def test_shapes_masks_offsets_and_options(p):
    assert_near(run(p), p)


@pytest.mark.parametrize(
    "p",
    [
        problem(40, PUBLISHED),
        problem(1, PUBLISHED, extra=3, first=2),
        problem(70, PUBLISHED, extra=9, repeats=True),
        problem(33, PUBLISHED, extra=20, repeats=True, symmetric=True, weights=[1, 2, 0, 3, 0.5]),
        problem(20, PUBLISHED, extra=30, first=11, repeats=True, label_smoothing=0.1),
        problem(130, PUBLISHED, 520, extra=70, symmetric=True, label_smoothing=0.3, scale=40.0),
    ],
    ids=["plain", "offset-of-one", "masked", "symmetric", "smooth", "all-wider"],
)
def test_the_bfloat16_kernels_compute_the_same(p):
    """The interpreter gives them float32 vectors, so that only their sums are rounded."""
    assert_near(run(p, precision="bf16"), p)


@pytest.mark.parametrize(
    ("dims", "options", "words"),
    [
        ([64, 32], {}, "dims must be"),
        (PUBLISHED, {"scale": 41.0}, "scale must be at most 40"),
        (PUBLISHED, {"dtype": torch.float64}, "float64"),
    ],
)
def test_the_bfloat16_kernels_refuse_what_they_do_not_take(dims, options, words):
    with pytest.raises(ValueError, match=words):
        run(problem(4, dims, **options), precision="bf16")


def test_medium_precision_takes_the_bfloat16_kernels_where_they_fit(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    p, other = problem(9, PUBLISHED), problem(9, [64, 32])
    assert_same(run(p), run(p, precision="bf16"))
    assert_same(run(other), run(other, precision="tf32"))


def test_many_shapes():
    g = torch.Generator().manual_seed(0)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=g))  # noqa: E731
    for seed in range(6):
        symmetric = bool(pick(0, 2))
        options = {} if symmetric else {"first": pick(0, 9)}
        dims = {pick(1, 70) for _ in range(pick(1, 6))}
        smoothing = pick(0, 2) * 0.2
        p = problem(
            pick(1, 50), sorted(dims), 72, pick(0, 40), bool(pick(0, 2)), seed=seed,
            symmetric=symmetric, label_smoothing=smoothing, scale=(1.0, 20.0, 200.0)[pick(0, 3)],
            **options,
        )  # fmt: skip
        assert_near(run(p), p)


def test_equal_zero_and_far_vectors():
    p = problem(12, [16, 8], scale=200.0)
    p.query[:] = p.documents  # each query is its positive
    p.documents[5] = p.documents[4]  # a tie
    p.query[1] = 0
    p.query[2, :8] = 0  # a prefix of zeros, where the gradient is as large as 1e12
    p.documents[3] = 0
    p.documents[6] *= 1e6
    got = run(p)
    assert all(t.isfinite().all() for t in got)
    assert_near(got, p)


def test_gradcheck_in_float64():
    p = problem(
        5, [9, 4], extra=3, repeats=True, dtype=torch.float64, symmetric=True, scale=3.0,
        label_smoothing=0.1,
    )  # fmt: skip
    leaves = [t.requires_grad_() for t in (p.query, p.documents)]

    def op(q, d):
        return matryoshka_contrastive(q, d, p.dims, **p.options)

    assert torch.autograd.gradcheck(op, leaves, fast_mode=True)


def test_gradients_repeat_to_the_bit_and_scale_with_the_loss():
    p = problem(40, [16, 8], extra=5)
    first = run(p)
    assert_same(run(p), first)
    leaf = p.query.clone().requires_grad_()
    (4 * matryoshka_contrastive(leaf, p.documents, p.dims)).backward()
    assert torch.equal(leaf.grad, 4 * first[1])


def test_columns_beyond_the_largest_dim_get_none():
    p = problem(8, [12], dim=20)
    _, q, d = run(p)
    assert (q[:, 12:] == 0).all() and (d[:, 12:] == 0).all() and (q[:, :12] != 0).any()


def test_rows_may_be_strided():
    p = problem(9, [8], dim=8)
    wide = torch.zeros(9, 24)
    wide[:, 3:11] = p.query
    value = matryoshka_contrastive(wide[:, 3:11], p.documents, p.dims)
    assert torch.equal(value, matryoshka_contrastive(p.query, p.documents, p.dims))


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_no_tensor_is_as_large_as_the_logits():
    p = problem(96, [4, 2], repeats=True, symmetric=True, label_smoothing=0.1)
    with Largest() as largest:
        run(p)
    assert 0 < largest.numel <= 96 * 3 * 8 < 96 * 96 / 3


def test_spans_of_the_forward_kernel_do_not_show(monkeypatch):
    p = problem(40, [8, 4], extra=100, repeats=True, label_smoothing=0.1)
    assert_near(run(p), p)
    monkeypatch.setattr(contrastive_gpu, "PROGRAMS", 1)
    assert_near(run(p), p)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dims": [9]}, "prefixes of 8"),
        ({"dims": [4, 4]}, "each once"),
        ({"weights": [1.0, 2.0]}, "2 weights for 1 dims"),
        ({"first": 1}, "positives"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"precision": "bf8"}, "precision"),
        ({"text_ids": (torch.arange(4), torch.arange(3))}, "text_ids"),
    ],
)
def test_what_does_not_go_together_is_refused(change, words):
    x = torch.zeros(4, 8)
    with pytest.raises(ValueError, match=words):
        matryoshka_contrastive(x, x, **{"dims": [8], **change})
    with pytest.raises(TypeError, match="one float type"):
        matryoshka_contrastive(x, x.double(), [8])
