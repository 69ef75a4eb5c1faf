"""The order in which a backward pass reads its tokens, prepared once for a batch.

The table's gradient is itself an embedding bag: row v sums dx over the bags in which token v
stands. Its bags are the vocabulary's rows, its ids bag numbers: a stable sort of the tokens turns
the batch's CSR matrix (bags x tokens) into its transpose (vocabulary x bags). Nothing here waits
for a GPU, so a plan may be made by a data loader's worker or inside a captured CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sse_kernels.checks import check_bags, check_range

CHUNK = 64  # tokens summed by one program in the first of the two stages for very frequent tokens
FEW_TOKENS = 50_000  # below, numpy sorts a batch on the CPU faster than torch, which uses threads


@dataclass(frozen=True)
class BagPlan:
    """The transposed batch, `N` tokens over `V` vocabulary rows.

    Attributes:
        rows: (N,) int32, the bag of each token, tokens ascending, ties in order of position.
        starts: (V + 1,) int32, row v's bags are rows[starts[v] : starts[v + 1]].
        whole: (N // CHUNK,) bool, whether a chunk of CHUNK sorted tokens holds one token only.
    """

    rows: Tensor
    starts: Tensor
    whole: Tensor

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> BagPlan:
        """The same plan on another device; by default without a wait if its memory is pinned."""
        if non_blocking is None:  # Lightning moves a batch by `.to(device)` alone
            non_blocking = self.rows.is_pinned()
        move = (
            t.to(device, non_blocking=non_blocking) for t in (self.rows, self.starts, self.whole)
        )
        return BagPlan(*move)

    def pin_memory(self) -> BagPlan:
        """The same plan in page-locked memory (a DataLoader with pin_memory=True calls this)."""
        return BagPlan(self.rows.pin_memory(), self.starts.pin_memory(), self.whole.pin_memory())


def plan_bags(ids: Tensor, offsets: Tensor, vocab: int) -> BagPlan:
    """Sort a batch for its backward pass; pass the result as `plan=` to `bag_dyt` or `bag_mean`.

    Args:
        ids: (N,) int32 or int64 token ids, 0 <= id < vocab.
        offsets: (B + 1,) int32 or int64, ascending from 0 to N.
        vocab: V, the table's number of rows.

    Raises:
        IndexError: an id is out of range (CPU only; on a GPU such tokens fall out of the plan).
        TypeError, ValueError: ids or offsets have a wrong dtype or shape.
    """
    check_bags(ids, offsets)
    if ids.device.type == "cpu":
        check_range(ids, vocab)
    return build_plan(ids, offsets, vocab)


def build_plan(ids: Tensor, offsets: Tensor, vocab: int) -> BagPlan:
    """`plan_bags` without its checks."""
    total = ids.numel()
    if total >= 2**31 - CHUNK:
        raise ValueError(f"{total} tokens in one batch: a plan counts them in 32 bits; split it")
    on_cpu = ids.device.type == "cpu"
    # A radix sort passes over every byte of the key: two bytes do for most vocabularies. Ids out of
    # range, which a GPU batch may hold, stop at -1 and V, outside of every row, and wrap into none.
    key = torch.int16 if vocab < 2**15 else torch.int32
    keys = (ids if on_cpu else ids.clamp(-1, vocab)).to(key)
    if on_cpu and key == torch.int16 and total < FEW_TOKENS:
        # numpy's radix sort of 16 bits: 0.07 ms for 16k tokens, where torch's sort takes 0.7
        order = torch.from_numpy(np.argsort(keys.numpy(), kind="stable"))
        tokens = keys[order]
    else:
        tokens, order = torch.sort(keys, stable=True)
    lengths = offsets.diff()
    bags = torch.arange(lengths.numel(), dtype=torch.int32, device=ids.device)
    rows = torch.repeat_interleave(bags, lengths, output_size=total)[order]
    starts = torch.zeros(vocab + 1, dtype=torch.int32, device=ids.device)
    if on_cpu:
        torch.cumsum(torch.bincount(ids, minlength=vocab), 0, out=starts[1:])
    else:  # bincount asks the device for its largest id; a search over sorted keys does not
        edges = torch.arange(vocab + 1, dtype=key, device=ids.device)
        starts = torch.searchsorted(tokens, edges, out_int32=True)
    last = total - total % CHUNK
    whole = tokens[:last:CHUNK] == tokens[CHUNK - 1 : last : CHUNK]
    return BagPlan(rows, starts, whole)
