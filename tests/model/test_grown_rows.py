"""The rows of grown tokens start near their pieces' mean, as long as the others, repeatably."""

import numpy as np
import torch

from sse.model.grown_rows import start_grown_rows
from sse.text.token_batch import TokenBatch

PIECES = TokenBatch(np.array([0, 1, 1, 2, 3], np.int32), np.array([0, 2, 5, 5]))


def started(seed=0):
    table = torch.randn(9, 512, generator=torch.Generator().manual_seed(3))
    before = table.clone()
    start_grown_rows(table, PIECES, seed)
    return before, table


def test_rows_point_to_their_pieces_mean_with_the_usual_length():
    before, table = started()
    usual = before[:6].norm(dim=1).mean()
    torch.testing.assert_close(table[6:].norm(dim=1), usual.expand(3))
    means = torch.stack([before[[0, 1]].mean(0), before[[1, 2, 3]].mean(0)])
    cosines = torch.cosine_similarity(table[6:8], means)
    # u = m + .1 g with g almost at right angles to m in 512 dimensions: cos = 1 / sqrt(1.01).
    torch.testing.assert_close(cosines, torch.full((2,), 1.01**-0.5), atol=0.01, rtol=0)


def test_other_rows_stay_and_a_token_without_pieces_is_random():
    before, table = started()
    assert torch.equal(table[:6], before[:6])
    assert torch.cosine_similarity(table[8:], before[:6]).abs().max() < 0.2


def test_the_seed_decides_the_noise():
    assert torch.equal(started(1)[1], started(1)[1])
    assert not torch.equal(started(1)[1], started(2)[1])
