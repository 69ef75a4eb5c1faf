"""Losses on a teacher's scores equal sentence-transformers', and add up with the other loss."""

import pytest
import torch
from sentence_transformers.losses import DistillKLDivLoss, MarginMSELoss
from sentence_transformers.util import pairwise_cos_sim

from sse.common.errors import UserError
from sse.loss.distil import check_distil, distil_loss
from sse.loss.matryoshka import matryoshka_loss
from sse.loss.objective import Objective

B, D = 7, 12


def make(negatives=2):
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(2 + negatives, B, D, generator=generator, dtype=torch.float64)
    scores = torch.rand(B, 1 + negatives, generator=generator, dtype=torch.float64)
    return columns.requires_grad_(), scores


def assert_equal(ours, theirs, columns):
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(v, columns)[0] for v in (ours, theirs)))


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse_is_sentence_transformers(negatives):
    columns, scores = make(negatives)
    reference = MarginMSELoss(None, similarity_fct=pairwise_cos_sim)
    theirs = reference.compute_loss_from_embeddings(list(columns), scores)
    assert_equal(distil_loss("margin_mse", columns, scores, [D], [1.0]), theirs, columns)


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_kl_times_the_squared_temperature_is_sentence_transformers(negatives, temperature):
    columns, scores = make(negatives)
    reference = DistillKLDivLoss(None, similarity_fct=pairwise_cos_sim, temperature=temperature)
    theirs = reference.compute_loss_from_embeddings(list(columns), scores)
    ours = distil_loss("kl", columns, scores, [D], [1.0], temperature) * temperature**2
    assert_equal(ours, theirs, columns)


@pytest.mark.parametrize("kind", ["margin_mse", "kl"])
def test_prefixes_add_up_by_their_weights(kind):
    columns, scores = make()
    whole = distil_loss(kind, columns, scores, [D, 5], [1.0, 0.5])
    parts = [distil_loss(kind, columns[..., :d], scores, [d], [1.0]) for d in (D, 5)]
    torch.testing.assert_close(whole, parts[0] + 0.5 * parts[1])


@pytest.mark.parametrize("kind", ["margin_mse", "kl"])
@pytest.mark.parametrize("world", [1, 3])
def test_the_objective_is_the_weighted_sum_over_all_processes(kind, world):
    columns, scores = make()
    both = Objective([D], [1.0], [20.0], contrastive_weight=0.5, distil=kind, distil_weight=3.0)
    edges = [B * r // world for r in range(world + 1)]
    own = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    found = sum(both(columns, rows, None, scores) for rows in own)
    contrastive = matryoshka_loss(columns[0], columns[1:].flatten(0, 1), [D])
    expected = 0.5 * contrastive + 3 * distil_loss(kind, columns, scores, [D], [1.0])
    assert_equal(found, expected, columns)


def test_bad_input_is_one_line():
    columns, scores = make()
    with pytest.raises(UserError, match="`distil` is 'mse': choose one of margin_mse, kl"):
        check_distil("mse")
    for wrong in (scores[:, :2], scores[:3]):
        with pytest.raises(UserError, match="`distil` has .* scores for 3 texts of 7 anchors"):
            distil_loss("kl", columns, wrong, [D], [1.0])
    with pytest.raises(UserError, match="scores for 1 texts of 7 anchors"):
        distil_loss("kl", columns[:2], scores[:, :1], [D], [1.0])
