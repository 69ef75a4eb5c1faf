"""What a training step minimises: the contrastive loss, a teacher's scores, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sse.common.errors import UserError
from sse.loss.distil import distil_loss
from sse.loss.matryoshka import matryoshka_loss


@dataclass(frozen=True)
class Objective:
    """contrastive_weight x the in-batch contrastive loss + distil_weight x the loss on scores.

    Attributes:
        dims, weights: the Matryoshka prefixes and their weights.
        scales: one inverse temperature per dim.
        symmetric, label_smoothing: of the contrastive loss.
        gather: take the documents of all processes as negatives.
        distil: `margin_mse`, `kl` or None.
        temperature: of kl.
    """

    dims: Sequence[int]
    weights: Sequence[float]
    scales: Sequence[float]
    symmetric: bool = False
    label_smoothing: float = 0.0
    gather: bool = True
    contrastive_weight: float = 1.0
    distil: str | None = None
    distil_weight: float = 1.0
    temperature: float = 0.05

    def __call__(
        self, columns: Tensor, own: slice, text_ids: Tensor | None, scores: Tensor | None
    ) -> Tensor:
        """The own queries' part of the batch's mean loss: its sum over all processes is the loss.

        Args:
            columns: (columns, P, D) anchors, positives, negatives of all pairs.
            own: this process's pairs.
            text_ids: (columns, P), where texts may repeat.
            scores: (P, columns - 1), a teacher's, with `distil`.
        """
        share = (own.stop - own.start) / columns.shape[1]
        loss = columns.new_zeros(())
        if self.contrastive_weight:
            loss = self.contrastive_weight * self._contrastive(columns, own, text_ids)
        if self.distil and scores is not None:
            rest = (self.dims, self.weights, self.temperature)
            part = distil_loss(self.distil, columns[:, own], scores[own].to(columns), *rest)
            loss = loss + self.distil_weight * part
        return share * loss

    def _contrastive(self, columns: Tensor, own: slice, text_ids: Tensor | None) -> Tensor:
        """The mean over the own queries."""
        if not self.gather:
            columns = columns[:, own]
            text_ids = None if text_ids is None else text_ids[:, own]
            own = slice(0, columns.shape[1])
        queries, documents = columns[0], columns[1:].flatten(0, 1)
        ids = None if text_ids is None else (text_ids[0], text_ids[1:].flatten())
        part = partial(
            matryoshka_loss,
            dims=self.dims,
            weights=self.weights,
            scale=self.scales,
            label_smoothing=self.label_smoothing,
        )
        if own.stop - own.start == len(queries):
            return part(queries, documents, symmetric=self.symmetric, text_ids=ids)
        loss = part(queries[own], documents, text_ids=ids, first=own.start)
        if self.symmetric:
            back = None if text_ids is None else (text_ids[1], text_ids[0])
            loss = loss + part(columns[1, own], queries, text_ids=back, first=own.start)
            loss = loss / 2
        return loss

    def by_dim(self, queries: Tensor, documents: Tensor, batch: int) -> dict[int, float]:
        """The contrastive loss of each prefix alone, in nats: the mean over all pairs.

        Args:
            queries: (N, D).
            documents: (N, D), row i belongs to query i.
            batch: pairs that are compared with each other, as in training.
        """
        chunks = list(zip(queries.split(batch), documents.split(batch), strict=True))
        return {
            dim: sum(
                len(q) * float(matryoshka_loss(q, d, [dim], None, scale, self.symmetric))
                for q, d in chunks
            )
            / len(queries)
            for dim, scale in zip(self.dims, self.scales, strict=True)
        }


def per_dim(
    name: str, dims: Sequence[int], in_order: Sequence[int] | None, values: Sequence[float]
) -> list[float]:
    """The values in the order of `dims`, which is sorted; `in_order` is as they were listed.

    >>> per_dim("weights", [64, 32], [32, 64], [1.0, 2.0])
    [2.0, 1.0]
    """
    listed = list(in_order or dims)
    if len(values) != len(listed):
        raise UserError(
            f"`{name}` has {len(values)} numbers for {len(listed)} dims ({listed}): "
            "give one per dim"
        )
    by_dim = dict(zip(listed, values, strict=True))
    return [by_dim[d] for d in dims]
