"""Teach a table a teacher's vectors of texts, by their cosine.

With T (n, W) the teacher's vectors and P their first k = min(W, D) principal axes, not centred:

    loss = mean over texts and over the prefixes d <= k of 1 - cos(mean(E[ids])[:d], (T P)[:d])

A rotation changes no cosine, and the order of its axes makes prefixes useful. Columns beyond k
stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sse_kernels.table_grad import TableGrad
from torch import Tensor
from tqdm.auto import tqdm

from sse.common.errors import UserError
from sse.model.static_model import StaticModel
from sse.text.token_batch import TokenBatch

PREFIXES = (512, 256, 128, 64, 32)  # besides k
ROWS = 8_192  # vectors rotated at once


def rotated(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The teacher's vectors (n, W) on their first min(W, dim) principal axes."""
    gram = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), ROWS):
        part = np.asarray(vectors[start : start + ROWS], np.float64)
        gram += part.T @ part
    axes = np.linalg.eigh(gram)[1][:, ::-1][:, :dim].astype(np.float32)
    out = np.empty((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), ROWS):
        out[start : start + ROWS] = vectors[start : start + ROWS] @ axes
    return out


def cosine_loss(own: Tensor, target: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean over `dims` of 1 - cosine of the first d dimensions; (B, D) and (B, k) -> ()."""
    parts = [1 - F.cosine_similarity(own[:, :d], target[:, :d]).mean() for d in dims]
    return torch.stack(parts).mean()


def regress(
    model: StaticModel,
    tokens: TokenBatch,
    target: NDArray[np.float32],
    *,
    epochs: int = 6,
    batch_size: int = 128,
    lr: float = 0.01,
    seed: int = 0,
) -> list[float]:
    """Train `model` in place by Adam, the rate falling linearly to 0; the mean loss of each epoch.

    Args:
        model: the table; its norm is trained too.
        tokens: the texts' ids; texts without a token are left out.
        target: (n, k) what `rotated` gives.
        epochs: passes over the texts.
        batch_size: texts per step.
        lr: the first learning rate.
        seed: of the order of the texts.

    Raises:
        UserError: no text with a token.
    """
    rows = np.flatnonzero(tokens.lengths)
    if not len(rows):
        raise UserError("no text holds a token: give other texts")
    k = min(target.shape[1], model.dim)
    dims = sorted({k, *(d for d in PREFIXES if d < k)}, reverse=True)
    model.table_grad = TableGrad()
    betas = (0.9, 0.9999)  # as the contrastive stage: most rows are rarely met
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr, betas, eps=1e-10, fused=True)
    total, draw = epochs * -(-len(rows) // batch_size), np.random.default_rng(seed)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total)
    losses = []
    with tqdm(total=total, desc="regression", unit=" steps", disable=None) as bar:
        for _ in range(epochs):
            order, sums = draw.permutation(rows), 0.0
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                bag = tokens.take(batch)
                ids = torch.from_numpy(bag.ids.astype(np.int32))
                own = model.pool(ids, torch.from_numpy(bag.offsets))
                loss = cosine_loss(own, torch.from_numpy(target[batch]), dims)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                sums += loss.item() * len(batch)
                bar.update()
            losses.append(sums / len(rows))
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    model.table_grad = None
    return losses
