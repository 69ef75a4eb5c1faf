"""What the ops accept, and one-line errors that name the value that is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32)


def check_bags(ids: Tensor, offsets: Tensor) -> None:
    """Raise TypeError or ValueError unless ids (N,), offsets (B + 1,) are integers together."""
    if ids.dtype not in INTEGERS or offsets.dtype not in INTEGERS:
        raise TypeError(f"ids and offsets must be int32 or int64, got {ids.dtype}, {offsets.dtype}")
    if ids.dim() != 1 or offsets.dim() != 1 or offsets.numel() == 0:
        raise ValueError(
            "ids must be (N,) and offsets (B + 1,) starting with 0, "
            f"got {tuple(ids.shape)} and {tuple(offsets.shape)}"
        )
    if ids.device != offsets.device:
        raise ValueError(f"ids are on {ids.device} but offsets on {offsets.device}")


def check_table(weight: Tensor, ids: Tensor) -> None:
    """Raise TypeError or ValueError unless weight is a floating (V, D) table beside its ids."""
    if weight.dtype not in FLOATS:
        raise TypeError(f"weight must be float32, bfloat16, float16 or float64, got {weight.dtype}")
    if weight.dim() != 2:
        raise ValueError(f"weight must be (V, D), got {tuple(weight.shape)}")
    if weight.device != ids.device:
        raise ValueError(f"weight is on {weight.device} but ids on {ids.device}")


def check_gate(weight: Tensor, alpha: Tensor, beta: Tensor, bias: Tensor) -> None:
    """Raise TypeError or ValueError unless alpha, beta and bias are (D,), of one floating dtype."""
    if (  # one test for a correct call, so that it costs little
        alpha.shape == beta.shape == bias.shape
        and alpha.dtype == beta.dtype == bias.dtype
        and alpha.device == beta.device == bias.device == weight.device
        and alpha.dim() == 1
        and alpha.shape[0] == weight.shape[1]
        and alpha.dtype in FLOATS
    ):
        return
    shape = weight.shape[1:]
    for name, p in (("alpha", alpha), ("beta", beta), ("bias", bias)):
        if p.shape != shape:
            raise ValueError(f"{name} must be ({shape[0]},) as weight, got {tuple(p.shape)}")
        if p.dtype != alpha.dtype or p.dtype not in FLOATS:
            raise TypeError(f"{name} is {p.dtype}; alpha, beta, bias need one floating dtype")
        if p.device != weight.device:
            raise ValueError(f"{name} is on {p.device} but weight on {weight.device}")


def check_range(ids: Tensor, vocab: int) -> None:
    """Raise IndexError naming the first id outside of [0, vocab). Waits for a GPU."""
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if int(low) < 0 or int(high) >= vocab:
        at = int(((ids < 0) | (ids >= vocab)).nonzero()[0])
        raise IndexError(
            f"ids[{at}] = {int(ids[at])} is outside of the table's {vocab} rows; "
            "was another tokenizer's vocabulary used?"
        )


def check_offsets(offsets: Tensor, total: int) -> None:
    """Raise ValueError unless offsets ascend from 0 to `total`. Waits for a GPU."""
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != total:
        raise ValueError(f"offsets must go from 0 to {total} ids, got {first} to {last}")
    lengths = offsets.diff()
    if bool((lengths < 0).any()):
        at = int((lengths < 0).nonzero()[0])
        raise ValueError(f"offsets descend after bag {at}: {offsets[at : at + 2].tolist()}")
