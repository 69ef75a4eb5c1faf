"""Token ids of many texts: one flat array with offsets, never a list of lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Texts called short. Most search queries have so few tokens, and the mean of n rows has a standard
# deviation of 1 / sqrt(n) at the start: where a gate leaves its linear part, it does so here first.
SHORT_TOKENS = 8


@dataclass(frozen=True)
class TokenBatch:
    """The token ids of n texts.

    Attributes:
        ids: flat token ids, shape (N,), an unsigned or signed integer type.
        offsets: int64, shape (n + 1,), offsets[0] = 0; text i is ids[offsets[i]:offsets[i + 1]].

    Three texts, the second without a token:

    >>> batch = TokenBatch(np.array([7, 8, 9]), np.array([0, 2, 2, 3]))
    >>> len(batch), batch[0].tolist(), batch.lengths.tolist()
    (3, [7, 8], [2, 0, 1])
    >>> batch.take(np.array([2, 0])).ids.tolist()
    [9, 7, 8]
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.integer]:
        """Token ids of text `row`."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, shape (n,)."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.integer]) -> TokenBatch:
        """The batch of the texts `rows`, in that order; a row may occur several times."""
        # An np.memmap makes an object that remembers its file of whatever is taken from it.
        all_ids, all_offsets = np.asarray(self.ids), np.asarray(self.offsets)
        starts = all_offsets[rows]
        lengths = all_offsets[rows + 1] - starts
        offsets = offsets_of(lengths)
        flat = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return TokenBatch(all_ids[flat], offsets)


def offsets_of(lengths: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
    """Offsets (n + 1,) of n pieces that stand one after the other.

    >>> offsets_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def concatenate(parts: Sequence[TokenBatch]) -> TokenBatch:
    """All texts of `parts`, in order, as one batch.

    >>> one = TokenBatch(np.array([7, 8]), np.array([0, 2]))
    >>> concatenate([one, one]).offsets.tolist()
    [0, 2, 4]
    """
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([part.ids for part in parts])
    offsets, end = [parts[0].offsets[:1]], 0
    for part in parts:
        offsets.append(part.offsets[1:] + end)
        end += int(part.offsets[-1])
    return TokenBatch(ids, np.concatenate(offsets))
