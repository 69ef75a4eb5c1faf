"""A teacher's scores as the target: MarginMSE and KL, on every Matryoshka prefix.

With s(b, k) = cos(q_b, d_bk) of the first d dimensions, t(b, k) the teacher's score, k = 0 the
positive and k > 0 the negatives:

    margin_mse   mean over b, k > 0 of ((s_b0 - s_bk) - (t_b0 - t_bk))^2
    kl           mean over b of sum_k p_bk (log p_bk - log r_bk)
                 with p = softmax(t / T) and r = softmax(s / T) over k

- margin_mse equals sentence-transformers' MarginMSELoss with the cosine.
- kl times T^2 equals its DistillKLDivLoss with the cosine and the temperature T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sse.common.errors import UserError, one_of

DISTIL = ("margin_mse", "kl")


def check_distil(kind: str | None) -> None:
    """UserError unless `kind` is one of `DISTIL`, or None."""
    if kind is not None and kind not in DISTIL:
        raise UserError(f"`distil` is '{kind}': {one_of(kind, DISTIL)}")


def distil_loss(
    kind: str,
    columns: Tensor,
    scores: Tensor,
    dims: Sequence[int],
    weights: Sequence[float],
    temperature: float = 0.05,
) -> Tensor:
    """Sum over `dims` of the weighted loss; a scalar.

    Args:
        kind: one of `DISTIL`.
        columns: (2 + K, B, D) anchors, positives and K negatives, K at least 1.
        scores: (B, 1 + K) the teacher's.
        dims: prefixes of D.
        weights: one per dim.
        temperature: T, of kl.

    Raises:
        UserError: no negatives, or scores of another shape.
    """
    if len(columns) < 3 or scores.shape != (columns.shape[1], len(columns) - 1):
        raise UserError(
            f"`distil` has {tuple(scores.shape)} scores for {len(columns) - 1} texts of "
            f"{columns.shape[1]} anchors: give one for the positive and each negative, at least one"
        )
    loss = columns.new_zeros(())
    for dim, weight in zip(dims, weights, strict=True):
        part = columns[..., :dim]
        own = F.cosine_similarity(part[:1], part[1:], dim=-1).T  # (B, 1 + K)
        if kind == "margin_mse":
            value = F.mse_loss(own[:, :1] - own[:, 1:], scores[:, :1] - scores[:, 1:])
        else:
            value = F.kl_div(
                torch.log_softmax(own / temperature, 1),
                torch.log_softmax(scores / temperature, 1),
                reduction="batchmean",
                log_target=True,
            )
        loss = loss + weight * value
    return loss
