"""The first rows of tokens that a vocabulary grew by: near the mean of their pieces' rows."""

from __future__ import annotations

import torch
from sse_kernels import bag_mean
from torch import Tensor

from sse.text.token_batch import TokenBatch

NOISE = 0.1  # so that words of the same pieces, in any order, do not start equal


@torch.no_grad()
def start_grown_rows(table: Tensor, pieces: TokenBatch, seed: int) -> None:
    """Write the last rows of `table`, one per grown token.

    Row i becomes L u / |u| with u = m / |m| + NOISE g / |g|. Here m is the mean of its pieces'
    rows, g is normal, and L is the mean length of the rows that were there. The mean itself would
    be shorter by the root of the number of pieces. A token without pieces takes the direction of g.

    Args:
        table: (V, D), changed in place; the rows before the last len(pieces) are those of the
            tokenizer that was grown.
        pieces: the ids of each grown token's pieces (`sse.text.grow.pieces_of`).
        seed: seed of g.
    """
    old, new = table[: len(table) - len(pieces)], table[len(table) - len(pieces) :]
    ids, offsets = torch.from_numpy(pieces.ids).long(), torch.from_numpy(pieces.offsets)
    generator = torch.Generator().manual_seed(seed)
    noise = _unit(torch.randn(new.shape, generator=generator, dtype=table.dtype))
    rows = _unit(bag_mean(old, ids, offsets)) + NOISE * noise
    new.copy_(_unit(rows) * old.norm(dim=1).mean())


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)
