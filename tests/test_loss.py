"""The loss equals sentence-transformers', value and gradient; masks take out false negatives."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Module

from sse import loss_tiled
from sse.errors import UserError
from sse.loss import check_dims, check_smoothing, equal_texts, matryoshka_loss
from sse.loss_memory import check_memory, free_bytes, loss_bytes


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways through the tiles of float32 on a CPU."""
    if request.param == "torch":
        monkeypatch.setattr(loss_tiled, "_loss", None)
    elif loss_tiled._loss is None:
        pytest.skip("sse._loss is not compiled here")
    return request.param


class Vectors(Module):
    """A module that hands out given vectors, so that a sentence-transformers loss can see them."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = torch.nn.ParameterList(vectors)

    def forward(self, features):
        return {"sentence_embedding": self.vectors[features["column"]] + 0.0}

    def save(self, *args, **kwargs):
        raise NotImplementedError


def reference(columns, dims, weights, symmetric=False):
    """sentence-transformers' loss and its gradients by each column's vectors."""
    module = Vectors([column.detach().clone() for column in columns])
    model = SentenceTransformer(modules=[module], device="cpu")
    kind = MultipleNegativesSymmetricRankingLoss if symmetric else MultipleNegativesRankingLoss
    loss = MatryoshkaLoss(model, kind(model), dims, weights)
    features = [{"column": i, "input_ids": torch.zeros(1)} for i in range(len(columns))]
    value = loss(features, None)
    value.backward()
    return value.detach(), [p.grad for p in module.vectors]


def vectors(b, columns, dim, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(b, dim, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(columns)
    ]


def ours(columns, dims, weights=None, **kwargs):
    value = matryoshka_loss(columns[0], torch.cat(columns[1:]), dims, weights, **kwargs)
    return value.detach(), torch.autograd.grad(value, columns)


@pytest.mark.parametrize(
    "how", [{"tile": 256}, {"tile": 7}, {"backend": "dense"}], ids=["one-tile", "tiles", "dense"]
)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("b", "columns", "dims", "weights"),
    [
        (64, 2, [512, 256, 128, 64, 32], [1, 1, 1, 1, 1]),
        (17, 3, [32, 512], [0.3, 2.0]),
        (5, 5, [7, 3, 1], [1, 0.5, 0]),
        (1, 2, [4], [1]),
    ],
)
def test_it_equals_sentence_transformers(b, columns, dims, weights, symmetric, how, way):
    given_vectors = vectors(b, columns, max(dims))
    value, gradients = ours(given_vectors, dims, weights, symmetric=symmetric, **how)
    expected, expected_gradients = reference(given_vectors, list(dims), list(weights), symmetric)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 5),
    st.integers(1, 3),
    st.sets(st.integers(1, 9), min_size=1),
    st.booleans(),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.2]),
)
def test_gradients_pass_gradcheck_in_float64(b, documents, dims, symmetric, tile, smoothing):
    columns = vectors(b, 1 + documents, 9, dtype=torch.float64)
    text_ids = torch.arange(b), torch.arange(b, b + b * documents)
    text_ids[1][1] = text_ids[1][0]  # two documents say the same

    def function(*columns):
        return matryoshka_loss(
            columns[0],
            torch.cat(columns[1:]),
            sorted(dims),
            scale=3.0,
            symmetric=symmetric,
            text_ids=text_ids,
            tile=tile,
            label_smoothing=smoothing,
        )

    assert torch.autograd.gradcheck(function, columns)


def draw_batch(data, most, dims, dtype=torch.float64):
    """Any shape, offset, repeated texts, scale; rows that are equal or all zero."""
    b, first, hard = (data.draw(st.integers(low, most)) for low in (1, 0, 0))
    symmetric = dtype == torch.float64 and data.draw(st.booleans()) and first == 0
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
        "weights": [data.draw(st.floats(0, 2)) for _ in dims],
        "scale": data.draw(st.sampled_from([1.0, 20.0, 200.0])),
        "text_ids": data.draw(st.sampled_from([None, ids])),
        "symmetric": symmetric,
        "first": first,
    }
    return q, d, options


def value_and_gradients(q, d, dims, **options):
    leaves = [q.clone().requires_grad_(), d.clone().requires_grad_()]
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
    torch.testing.assert_close(got[0], expected[0], rtol=1e-9, atol=1e-9)
    # F.normalize multiplies the gradient by 1e12 where a vector is zero, and so do we: with it the
    # rounding of logits up to `scale`, whose gradient has another factor of `scale`.
    zeroed = 1e12 * 10 * torch.finfo(torch.float64).eps * options["scale"] ** 2
    for vectors_, a, b in zip((q, d), got[1:], expected[1:], strict=True):
        for cells, tolerance in ((vectors_ != 0, 1e-9), (vectors_ == 0, zeroed)):
            torch.testing.assert_close(a[cells], b[cells], rtol=1e-9, atol=tolerance)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_float32_tiles_equal_the_dense_loss_in_float64(data, way):
    """To 1e-5 of the value and of the largest gradient; at a scale of 200, which multiplies the
    rounding of the cosines, to 1e-4."""
    # of four columns and more each: on one, the gradient is nothing but rounding
    dims = sorted(data.draw(st.sets(st.sampled_from([4, 8, 12, 16, 24]), min_size=1)))
    q, d, options = draw_batch(data, 50, dims, torch.float32)
    tile = data.draw(st.integers(1, 60))
    expected = value_and_gradients(q.double(), d.double(), dims, **options, backend="dense")
    got = value_and_gradients(q, d, dims, **options, backend="tiled", tile=tile)
    tolerance = 1e-5 * max(1, options["scale"] / 20)
    torch.testing.assert_close(got[0].double(), expected[0], rtol=tolerance, atol=tolerance)
    for vectors_, a, b in zip((q, d), got[1:], expected[1:], strict=True):
        for cells, least in ((vectors_ != 0, 0.01), (vectors_ == 0, 1e10)):
            largest = max([least, *b[cells].abs().tolist()])
            error = (a[cells].double() - b[cells]).abs()
            assert (error <= tolerance * largest).all(), (error.max() / largest).item()


def test_no_queries_lose_nothing(way):
    value, (_, gradient) = ours([torch.zeros(0, 8).requires_grad_(), *vectors(4, 1, 8)], [8, 4])
    assert value == 0
    assert not gradient.any()


def test_threads_change_nothing_but_rounding(way, monkeypatch):
    monkeypatch.setattr(loss_tiled, "THREAD_WORK", 1)
    threads = torch.get_num_threads()
    columns = vectors(37, 3, 16)
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(ours(columns, [16, 8], tile=20))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_vector_that_is_no_number_gives_a_loss_that_is_none(way):
    for column in (0, 1):
        columns = vectors(20, 2, 16)
        with torch.no_grad():
            columns[column][7, 3] = torch.nan
        value, gradients = ours(columns, [16, 8])
        assert value.isnan()
        assert all(g.isnan().any() for g in gradients)


def test_the_compiled_loss_refuses_sizes_that_do_not_fit():
    compiled = pytest.importorskip("sse._loss")
    dims, rows, m = 2, 3, 5
    good = {
        "blocks": np.zeros((dims, rows, m), np.float32),
        "inverse_q": np.ones((dims, rows), np.float32),
        "inverse_d": np.ones((dims, m), np.float32),
        "shares": np.ones(dims, np.float32),
        "excluded": np.zeros((rows, m), np.bool_),
        "by_q": np.zeros((dims, rows), np.float32),
        "by_d": np.zeros((dims, m), np.float32),
        "diagonal": 2,
        "start": 0,
        "stop": rows,
    }
    assert compiled.residual(*good.values()) == pytest.approx(dims * rows * np.log(m))
    wrong = {"diagonal": (-1, 3, 2**62), "start": (-1, 4), "stop": (4, -1, 2**62)}
    for name in list(good)[:7]:
        flat = good[name].ravel()
        wrong[name] = (flat[:-1].copy(), flat[:0].copy(), np.append(flat, flat[:1]))
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match="do not fit"):
                compiled.residual(*{**good, name: value}.values())
    with pytest.raises((TypeError, BufferError)):  # not contiguous
        compiled.residual(*{**good, "blocks": good["blocks"][:, :, ::2]}.values())


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_label_smoothing_is_cross_entropys(symmetric, backend):
    q, d = vectors(40, 2, 32)
    options = {"label_smoothing": 0.1, "symmetric": symmetric, "backend": backend}
    value, gradients = ours([q, d], [32, 8], **options)
    expected = torch.zeros(())
    for dim in (32, 8):
        logits = 20 * F.normalize(q[:, :dim]) @ F.normalize(d[:, :dim]).T
        directions = (logits, logits.T) if symmetric else (logits,)
        for scores in directions:
            one = F.cross_entropy(scores, torch.arange(40), label_smoothing=0.1)
            expected = expected + one / len(directions)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=1e-6)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, (q, d)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_smoothing_spreads_over_what_counts():
    """With a repeated text the loss is that of the logits without the excluded columns."""
    q, d = vectors(3, 2, 8)
    ids = torch.tensor([1, 2, 3]), torch.tensor([11, 12, 11])
    logits = (20 * F.normalize(q) @ F.normalize(d).T).detach()
    expected = 0.0
    for i, kept in enumerate([[0, 1], [0, 1, 2], [1, 2]]):
        target = torch.tensor(kept.index(i))
        expected += F.cross_entropy(logits[i, kept], target, label_smoothing=0.3) / 3
    for backend in ("tiled", "dense"):
        value = matryoshka_loss(q, d, [8], text_ids=ids, label_smoothing=0.3, backend=backend)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-6)


def test_zero_vectors_give_finite_gradients(way):
    columns = vectors(6, 2, 16)
    with torch.no_grad():
        columns[0][2].zero_()
        columns[1][3].zero_()
        columns[1][4, :8].zero_()
    value, gradients = ours(columns, [16, 8])
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients)


def test_extreme_logits_stay_finite_and_right(way):
    q = F.normalize(torch.eye(4)).requires_grad_()
    value = matryoshka_loss(q, q.detach().clone(), [4], scale=1e4)
    assert value.item() == 0.0
    worst = matryoshka_loss(q, q.detach().roll(1, 0), [4], scale=1e4)
    assert worst.item() == pytest.approx(1e4)


def test_memory_grows_with_the_batch_and_not_with_its_square(way):
    """Peak of what the loss allocates at 8 times the batch: about 8 times, where B x B has 64."""
    peaks = []
    for b in (512, 4096):
        columns = vectors(b, 2, 64)
        with torch.profiler.profile(profile_memory=True) as profile:
            ours(columns, [64, 32])
        live = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        peaks.append(peak)
    assert peaks[0] > 0
    assert peaks[1] < 12 * peaks[0]


def test_a_gpus_kernels_are_taken_by_name_and_never_on_a_cpu():
    q, d = vectors(4, 2, 8)
    with pytest.raises((ValueError, ImportError), match="(?i)triton"):
        matryoshka_loss(q, d, [8], backend="triton")
    assert torch.equal(matryoshka_loss(q, d, [8]), matryoshka_loss(q, d, [8], backend="tiled"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_benchmark_measures_a_peak_below_the_dense_losses():
    """In processes of their own: B x B five times over is far above what the tiles need."""
    from sse.bench_loss import memory

    found = memory(2048, "tiled", "cpu")
    assert found["dense"]["ratio"] > 2
    assert found["sentence-transformers"]["ratio"] > 2


def test_the_estimate_covers_the_peak_and_not_much_more(way):
    b, dims = 1024, [64, 32, 8]
    columns = vectors(b, 2, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        ours(columns, dims)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    # the estimate is torch's: the compiled one has a tile a dim, and none beside
    assert (0.4 if way == "torch" else 0.3) < peak / loss_bytes(b, 2, dims) < 1.1


def test_a_batch_that_does_not_fit_is_one_clear_line_with_one_that_does():
    check_memory(512, 2, [512], False, free=10**9)
    with pytest.raises(UserError, match="--data.batch_size to ([0-9,]+)") as error:
        check_memory(10**6, 3, [512, 256], False, free=10**9)
    assert "\n" not in str(error.value)
    fits = int(re.search("to ([0-9,]+) or less", str(error.value))[1].replace(",", ""))
    check_memory(fits, 3, [512, 256], False, free=10**9)
    assert free_bytes(False) is None or free_bytes(False) > 0


def test_columns_beyond_the_largest_dim_get_no_gradient(way):
    columns = vectors(8, 2, 20)
    _, gradients = ours(columns, [12])
    assert all((g[:, 12:] == 0).all() and (g[:, :12] != 0).any() for g in gradients)


def test_excluded_pairs_weigh_nothing(way):
    """A batch that repeats a text, masked, has the loss of its logits without those columns."""
    q, d = vectors(5, 2, 8)
    query_ids, document_ids = torch.tensor([1, 2, 3, 1, 5]), torch.tensor([11, 12, 13, 14, 12])
    value = matryoshka_loss(q, d, [8], text_ids=(query_ids, document_ids), tile=2)
    logits = 20 * F.normalize(q) @ F.normalize(d).T
    expected = 0.0
    for i, skipped in enumerate([{3}, {4}, set(), {0}, {1}]):
        kept = [j for j in range(5) if j not in skipped]
        expected += F.cross_entropy(logits[i, kept], torch.tensor(kept.index(i))) / 5
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_equal_texts_spare_the_own_pair_and_find_every_repeat():
    query_ids, document_ids = torch.tensor([1, 2, 3]), torch.tensor([1, 9, 8, 9, 3, 7])
    expected = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0],  # anchor 0 equals its own positive: still a pair
            [0, 0, 0, 1, 0, 0],  # negative 3 says what positive 1 says
            [0, 0, 0, 0, 1, 0],  # negative 4 says what query 2 says
        ],
        dtype=torch.bool,
    )
    assert torch.equal(equal_texts(query_ids, document_ids), expected)


@pytest.mark.parametrize("dims", [[600], [0], [64, 64], []])
def test_a_dim_that_is_no_prefix_is_one_clear_line(dims):
    with pytest.raises(UserError, match="--model.matryoshka_dims") as error:
        check_dims(dims, 512)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_label_smoothing_out_of_range_is_one_clear_line(share):
    with pytest.raises(UserError, match="--model.label_smoothing") as error:
        check_smoothing(share)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("documents", "options", "words"),
    [
        (torch.zeros(4, 8, dtype=torch.float64), {}, "in one dtype"),
        (torch.zeros(4, 9), {}, "equal columns"),
        (torch.zeros(3, 8), {}, "a positive for each query"),
        (torch.zeros(4, 8), {"first": 1}, "a positive for each query"),
        (torch.zeros(4, 8), {"dims": [9]}, "no prefix of 8"),
        (torch.zeros(4, 8), {"dims": [4, 4]}, "give each once"),
        (torch.zeros(4, 8), {"backend": "cuda"}, "choose one of"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(documents, options, words):
    with pytest.raises(UserError, match=words) as error:
        matryoshka_loss(torch.zeros(4, 8), documents, **{"dims": [8], **options})
    assert "\n" not in str(error.value)
