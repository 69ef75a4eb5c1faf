"""Claims about the contrastive loss's kernels on a CUDA device: `pytest -m gpu`."""

import pytest
import torch
from sse_kernels import matryoshka_contrastive

from tests.helpers.contrastive_cases import DTYPES, assert_near, problem, reference, run
from tests.helpers.kernels_cases import assert_same, poison
from tests.helpers.tolerances import assert_within

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PUBLISHED = [512, 256, 128, 64, 32]


@pytest.fixture(autouse=True)
def no_unwritten_memory(monkeypatch):
    poison(monkeypatch)


def on_cpu(results):
    return [t.cpu() for t in results]


@pytest.mark.parametrize("symmetric", [False, True], ids=["one-way", "symmetric"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_value_and_gradients_equal_the_reference(dtype, symmetric):
    p = problem(700, PUBLISHED, extra=300, repeats=True, dtype=dtype, symmetric=symmetric)
    got = run(p.to("cuda"), precision="ieee")
    assert_near(on_cpu(got), p)


@pytest.mark.parametrize(("precision", "bits"), [("ieee", 23), ("tf32x3", 20), ("tf32", 10)])
def test_products_of_each_precision(precision, bits):
    p = problem(500, PUBLISHED)
    got, (expected, tolerances) = run(p.to("cuda"), precision=precision), reference(p)
    for a, b, tolerance in zip(on_cpu(got), expected, tolerances, strict=True):
        assert_within(f"contrastive {precision}", a, b, tolerance * 2 ** (23 - bits))


@pytest.mark.parametrize("dims", [[1], [48, 7], [768, 256], [1030, 33]], ids=str)
def test_widths_offsets_and_smoothing(dims):
    p = problem(90, dims, extra=40, repeats=True, first=17, label_smoothing=0.1)
    assert_near(on_cpu(run(p.to("cuda"), precision="ieee")), p)


def test_gradients_repeat_to_the_bit():
    p = problem(2000, PUBLISHED).to("cuda")
    first = run(p)
    for _ in range(3):
        assert_same(run(p), first)


def test_a_step_never_waits_for_the_device():
    p = problem(300, PUBLISHED, repeats=True, symmetric=True).to("cuda")
    run(p)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(p)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_is_linear_in_the_batch(monkeypatch):
    monkeypatch.undo()
    peaks = []
    for b in (4096, 32768):
        q, d = (torch.randn(b, 512, device="cuda", requires_grad=True) for _ in range(2))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(matryoshka_contrastive(q, d, PUBLISHED), (q, d))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 10 * peaks[0] < 32768**2
