"""All tokens of the sets on the device, so that only row numbers travel there in a step.

500 million tokens are 1 GB of 16-bit ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sse.common.errors import UserError
from sse.data.token_cache import TokenizedSet

MODES = ("auto", "on", "off")
SHARE = 0.25  # of the device's free memory, which the model's gradient and moments still need

Features = dict[str, Any]


class DeviceCache:
    """The tokens of some sets on one device.

    A set's columns lie one after the other in one array, so a batch of any columns is one gather.
    """

    def __init__(self, sets: Sequence[TokenizedSet], device: torch.device) -> None:
        self.device = device
        self._sets = [_OneSet(tokens, device) for tokens in sets]

    @staticmethod
    def bytes_of(sets: Sequence[TokenizedSet]) -> int:
        """Bytes that the arrays of `sets` take."""
        return sum(
            s.text_ids.nbytes + sum(c.ids.nbytes + c.offsets.nbytes for c in s.tokens) for s in sets
        )

    @classmethod
    def fitting(
        cls, mode: str, sets: Sequence[TokenizedSet], device: torch.device
    ) -> DeviceCache | None:
        """A cache as `mode` says, or None; `auto` makes one where it takes at most `SHARE` of the
        free memory of a GPU, `on` raises UserError where a GPU has too little.
        """
        if mode == "off" or (mode == "auto" and device.type != "cuda"):
            return None
        size = cls.bytes_of(sets)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if mode == "auto" and size > SHARE * free:
                return None
            if size > free:
                raise UserError(
                    f"device_cache is on: the tokens take {size / 2**30:.1f} GiB, {device} has "
                    f"{free / 2**30:.1f} GiB free: use auto"
                )
        return cls(sets, device)

    def take(
        self, number: int, rows: NDArray[np.int64], columns: int | None, mask: bool
    ) -> Features:
        """Rows `rows` of set `number`: the batch of `PairBatches`, on the device."""
        return self._sets[number].take(rows, columns, mask)


class _OneSet:
    """The tokens of one set: texts of the first column, then of the second, and so on."""

    def __init__(self, tokens: TokenizedSet, device: torch.device) -> None:
        self.device, self.rows = device, len(tokens)
        self.columns = len(tokens.tokens)
        # Few kernels take uint16: the same bits as int16, widened after the gather.
        self.narrow = tokens.tokens[0].ids.dtype == np.uint16
        kind, dtype = (np.int16, torch.int16) if self.narrow else (np.int32, torch.int32)
        bases = np.cumsum([0, *(int(c.offsets[-1]) for c in tokens.tokens)])
        self.ids = torch.empty(int(bases[-1]), dtype=dtype, device=device)
        for column, low, high in zip(tokens.tokens, bases, bases[1:], strict=False):
            own = column.ids[: high - low]
            own = own.view(kind) if self.narrow else own.astype(kind, copy=False)
            self.ids[int(low) : int(high)] = torch.from_numpy(np.array(own))
        # On the host too, where a batch's size is known without asking the device.
        self.host = [column.offsets for column in tokens.tokens]
        starts = [c.offsets[:-1] + base for c, base in zip(tokens.tokens, bases, strict=False)]
        self.offsets = torch.from_numpy(np.concatenate([*starts, bases[-1:]])).to(device)
        self.text_ids = torch.from_numpy(np.array(tokens.text_ids).view(np.int64)).to(device)

    def take(self, rows: NDArray[np.int64], columns: int | None, mask: bool) -> Features:
        host = self.host[:columns]
        total = int(sum((offsets[rows + 1] - offsets[rows]).sum() for offsets in host))
        numbers = _to(rows, self.device)
        base = torch.arange(len(host), device=self.device)[:, None] * self.rows
        texts = (base + numbers).flatten()  # (columns * B,)
        starts = self.offsets[texts]
        lengths = self.offsets[texts + 1] - starts
        offsets = torch.zeros(len(texts) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        shift = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=total)
        ids = self.ids[shift.add_(torch.arange(total, device=self.device))].int()
        features: Features = {
            "ids": ids.bitwise_and_(0xFFFF) if self.narrow else ids,
            "offsets": offsets,
            "pairs": len(rows),
        }
        if mask:
            features["text_ids"] = self.text_ids[numbers].T.contiguous()  # (columns, B)
        return features


def _to(rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Row numbers on the device; on a GPU without waiting for it."""
    numbers = torch.from_numpy(np.ascontiguousarray(rows))
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)
