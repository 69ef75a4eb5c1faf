"""The loss equals sentence-transformers', value and gradient; masks take out false negatives."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Module

from sse.common.errors import UserError
from sse.loss.matryoshka import check_prefixes, check_smoothing, matryoshka_loss
from sse.loss.tiled import equal_texts
from tests.helpers.loss_cases import assert_loss, ours, vectors
from tests.helpers.tolerances import assert_within, contrastive_bounds


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
    exact = [column.double() for column in given_vectors]
    expected, expected_gradients = reference(exact, list(dims), list(weights), symmetric)
    sides = [(x[0], torch.cat(x[1:])) for x in (gradients, expected_gradients, given_vectors)]
    assert_loss(
        "loss, sentence-transformers", (value, *sides[0]), (expected, *sides[1]), *sides[2],
        dims, weights=weights, symmetric=symmetric,
    )  # fmt: skip


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


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_label_smoothing_is_cross_entropys(symmetric, backend):
    q, d = vectors(40, 2, 32)
    options = {"label_smoothing": 0.1, "symmetric": symmetric, "backend": backend}
    value, gradients = ours([q, d], [32, 8], **options)
    expected = torch.zeros((), dtype=torch.float64)
    exact = [x.detach().double().requires_grad_() for x in (q, d)]
    for dim in (32, 8):
        logits = 20 * F.normalize(exact[0][:, :dim]) @ F.normalize(exact[1][:, :dim]).T
        directions = (logits, logits.T) if symmetric else (logits,)
        for scores in directions:
            one = F.cross_entropy(scores, torch.arange(40), label_smoothing=0.1)
            expected = expected + one / len(directions)
    wanted = expected, *torch.autograd.grad(expected, exact)
    del options["backend"]
    assert_loss("loss, smoothing", (value, *gradients), wanted, q, d, [32, 8], **options)


def test_smoothing_spreads_over_what_counts():
    """With a repeated text the loss is that of the logits without the excluded columns."""
    q, d = vectors(3, 2, 8)
    ids = torch.tensor([1, 2, 3]), torch.tensor([11, 12, 11])
    exact = [x.detach().double() for x in (q, d)]
    logits = 20 * F.normalize(exact[0]) @ F.normalize(exact[1]).T
    expected = 0.0
    for i, kept in enumerate([[0, 1], [0, 1, 2], [1, 2]]):
        target = torch.tensor(kept.index(i))
        expected += F.cross_entropy(logits[i, kept], target, label_smoothing=0.3) / 3
    for backend in ("tiled", "dense"):
        value = matryoshka_loss(q, d, [8], text_ids=ids, label_smoothing=0.3, backend=backend)
        bound = contrastive_bounds(q, d, [8], excluded=equal_texts(*ids), label_smoothing=0.3)[0]
        assert_within("loss, smoothing", value, expected, bound)


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


def test_a_gpus_kernels_are_taken_by_name_and_never_on_a_cpu():
    q, d = vectors(4, 2, 8)
    with pytest.raises((ValueError, ImportError), match="(?i)triton"):
        matryoshka_loss(q, d, [8], backend="triton")
    assert torch.equal(matryoshka_loss(q, d, [8]), matryoshka_loss(q, d, [8], backend="tiled"))


def test_columns_beyond_the_largest_dim_get_no_gradient(way):
    columns = vectors(8, 2, 20)
    _, gradients = ours(columns, [12])
    assert all((g[:, 12:] == 0).all() and (g[:, :12] != 0).any() for g in gradients)


def test_excluded_pairs_weigh_nothing(way):
    """A batch that repeats a text, masked, has the loss of its logits without those columns."""
    q, d = vectors(5, 2, 8)
    query_ids, document_ids = torch.tensor([1, 2, 3, 1, 5]), torch.tensor([11, 12, 13, 14, 12])
    value = matryoshka_loss(q, d, [8], text_ids=(query_ids, document_ids), tile=2)
    logits = 20 * F.normalize(q.double()) @ F.normalize(d.double()).T
    expected = 0.0
    for i, skipped in enumerate([{3}, {4}, set(), {0}, {1}]):
        kept = [j for j in range(5) if j not in skipped]
        expected += F.cross_entropy(logits[i, kept], torch.tensor(kept.index(i))) / 5
    bound = contrastive_bounds(q, d, [8], excluded=equal_texts(query_ids, document_ids))[0]
    assert_within("loss, masked", value, expected, bound)


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
    with pytest.raises(UserError, match="`dims` ") as error:
        check_prefixes(dims, 512)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_label_smoothing_out_of_range_is_one_clear_line(share):
    with pytest.raises(UserError, match="`label_smoothing` ") as error:
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


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001])
def test_any_nan_stays_nan(bits, way):
    q, d = vectors(4, 2, 8)
    with torch.no_grad():
        d.view(torch.int32)[3, 5] = bits - (1 << 32 if bits >> 31 else 0)
    documents = torch.cat([d, d])  # also among the hard negatives
    value, gradients = ours([q, documents], [8, 4])
    assert value.isnan()
    assert gradients[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_sixteen_bit_vectors_have_the_loss_of_their_float32_copies(dtype, backend):
    columns = [x.detach().to(dtype).requires_grad_() for x in vectors(64, 2, 32)]
    columns[0].data[0] = 300  # its square is infinite in float16
    columns[1].data[1] = 0
    wide = [x.detach().float().requires_grad_() for x in columns]
    ids = (torch.arange(64) % 60, torch.arange(64) + 100)
    value, gradients = ours(columns, [32, 8], backend=backend, text_ids=ids)
    expected, wide_gradients = ours(wide, [32, 8], backend=backend, text_ids=ids)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    for got, wanted in zip(gradients, wide_gradients, strict=True):
        assert torch.equal(got, wanted.to(dtype))


@pytest.mark.parametrize("options", [{"weights": [1.0, 2.0]}, {"tile": 0}])
def test_weights_and_tiles_that_do_not_fit_are_one_clear_line(options):
    with pytest.raises(UserError, match="`weights`"):
        matryoshka_loss(torch.zeros(4, 8), torch.zeros(4, 8), [8], **options)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_scale_per_dim_is_the_sum_of_losses_of_one_dim(symmetric, way):
    given_vectors = vectors(17, 3, 32)
    dims, scales = [8, 32], [5.0, 20.0]  # in the order that they are listed
    value, gradients = ours(given_vectors, dims, scale=scales, symmetric=symmetric)
    exact = [column.double() for column in given_vectors]
    expected, expected_gradients = 0, [0] * len(exact)
    for dim, scale in zip(dims, scales, strict=True):
        part, more = ours(exact, [dim], scale=scale, symmetric=symmetric, backend="dense")
        expected = expected + part
        expected_gradients = [a + b for a, b in zip(expected_gradients, more, strict=True)]
    sides = [(x[0], torch.cat(x[1:])) for x in (gradients, expected_gradients, given_vectors)]
    assert_loss(
        "loss, a scale per dim", (value, *sides[0]), (expected, *sides[1]), *sides[2],
        dims, scale=max(scales), symmetric=symmetric,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": [20.0]}, "1 numbers for 2 dims"),
        ({"scale": [20.0, 10.0], "backend": "triton"}, "take `tiled`"),
    ],
)
def test_scales_that_do_not_fit_are_one_clear_line(options, words):
    with pytest.raises(UserError, match=words):
        matryoshka_loss(torch.zeros(4, 8), torch.zeros(4, 8), [8, 4], **options)


def test_weights_may_be_a_tensor():
    q, d = vectors(4, 2, 8)
    assert torch.equal(
        matryoshka_loss(q, d, [8, 4], torch.tensor([1.0, 2.0])),
        matryoshka_loss(q, d, [8, 4], [1.0, 2.0]),
    )
