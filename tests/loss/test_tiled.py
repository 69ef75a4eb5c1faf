"""The tiled loss, in C and in torch, equals the dense one at any shape."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse.loss import compiled as loss_compiled
from sse.loss.matryoshka import matryoshka_loss
from tests.helpers.loss_cases import assert_loss, ours, vectors


def draw_batch(data, most, dims, dtype=torch.float64):
    """Any shape, offset, repeated texts, scale; rows that are equal or all zero."""
    b, first, hard = (data.draw(st.integers(low, most)) for low in (1, 0, 0))
    symmetric = data.draw(st.booleans()) and first == 0
    pairs = b if symmetric else first + b + data.draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, d = (torch.randn(n, 24, generator=generator, dtype=dtype) for n in (b, pairs + hard))
    d[0], d[-1, : dims[0]] = 0, 0
    q[-1] = d[first + b - 1]
    ids = tuple(
        torch.randint(low, low + 12, (n,), generator=generator)
        for low, n in ((0, pairs), (6, pairs + hard))
    )
    options = {
        "weights": [data.draw(st.integers(0, 200)) / 100 for _ in dims],
        "scale": data.draw(st.sampled_from([1.0, 20.0, 200.0])),
        "text_ids": data.draw(st.sampled_from([None, ids])),
        "symmetric": symmetric,
        "first": first,
    }
    return q, d, options


def value_and_gradients(q, d, dims, **options):
    leaves = [x.detach().clone().requires_grad_() for x in (q, d)]
    value = matryoshka_loss(*leaves, dims, **options)
    return value.detach(), *torch.autograd.grad(value, leaves)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tiled_equals_dense(data):
    dims = sorted(data.draw(st.sets(st.integers(1, 24), min_size=1, max_size=5)))
    q, d, options = draw_batch(data, 9, dims)
    options["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    tile = data.draw(st.integers(1, 10))
    expected = value_and_gradients(q, d, dims, **options, backend="dense")
    got = value_and_gradients(q, d, dims, **options, backend="tiled", tile=tile)
    assert_loss("loss float64", got, expected, q, d, dims, **options, slack=2)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_float32_tiles_equal_the_dense_loss_in_float64(data, way):
    """Also on one column, where the gradient is nothing but rounding."""
    dims = sorted(data.draw(st.sets(st.sampled_from([1, 4, 8, 12, 16, 24]), min_size=1)))
    q, d, options = draw_batch(data, 50, dims, torch.float32)
    tile = data.draw(st.integers(1, 60))
    options["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    expected = value_and_gradients(q.double(), d.double(), dims, **options, backend="dense")
    got = value_and_gradients(q, d, dims, **options, backend="tiled", tile=tile)
    assert_loss(f"loss float32 {way}", got, expected, q, d, dims, **options)


def test_no_queries_lose_nothing(way):
    value, (_, gradient) = ours([torch.zeros(0, 8).requires_grad_(), *vectors(4, 1, 8)], [8, 4])
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("options", [{}, {"symmetric": True, "label_smoothing": 0.1}])
@pytest.mark.parametrize("pairs", [37, 300])
def test_threads_change_no_bit(way, pairs, options, monkeypatch):
    monkeypatch.setattr(loss_compiled, "THREAD_WORK", 1)
    threads = torch.get_num_threads()
    columns = vectors(pairs, 3, 64)
    results = []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            results.append(ours(columns, [64, 24], **options))
    finally:
        torch.set_num_threads(threads)
    for value, gradients in results[1:]:
        assert torch.equal(value, results[0][0])
        assert all(map(torch.equal, gradients, results[0][1]))


def test_a_vector_that_is_no_number_gives_a_loss_that_is_none(way):
    for column in (0, 1):
        columns = vectors(20, 2, 16)
        with torch.no_grad():
            columns[column][7, 3] = torch.nan
        value, gradients = ours(columns, [16, 8])
        assert value.isnan()
        assert all(g.isnan().any() for g in gradients)


def test_the_compiled_loss_refuses_sizes_that_do_not_fit():
    compiled = pytest.importorskip("sse.loss._tiled")
    dims, rows, m = 2, 3, 5
    good = {
        "blocks": np.zeros((dims, rows, m), np.float32),
        "inverse_q": np.ones((dims, rows), np.float32),
        "inverse_d": np.ones((dims, m), np.float32),
        "shares": np.ones(dims, np.float32),
        "excluded": np.zeros((rows, m), np.bool_),
        "by_q": np.zeros((dims, rows), np.float32),
        "by_d": np.zeros((2, dims, m), np.float32),
        "losses": np.zeros(2),
        "lse": np.full((dims, m), np.log(rows), np.float32),
        "row_spread": np.full(rows, 0.1 / m, np.float32),
        "column_spread": np.full(m, 0.1 / rows, np.float32),
        "smoothing": 0.1,
        "chunk": 2,
        "diagonal": 2,
        "start": 0,
        "stop": 2,
    }
    compiled.residuals(*good.values())
    assert good["losses"].sum() == pytest.approx(dims * rows * (np.log(m) + np.log(rows)))
    wrong = {"diagonal": (-1, 3, 2**62), "start": (-1, 3), "stop": (3, -1, 2**62)}
    wrong["chunk"] = (0, -1, 1, 2**62)
    for name in list(good)[:11]:
        flat = good[name].ravel()
        wrong[name] = (flat[:-1].copy(), flat[:0].copy(), np.append(flat, flat[:1]))
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match="do not fit"):
                compiled.residuals(*{**good, name: value}.values())
    with pytest.raises((TypeError, BufferError)):  # not contiguous
        compiled.residuals(*{**good, "blocks": good["blocks"][:, :, ::2]}.values())
