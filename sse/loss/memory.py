"""Does a batch fit? Estimated before training: a batch too large is one line, not a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from sse.common.errors import UserError
from sse.loss.matryoshka import TILE_ROWS

FLOAT = 4  # bytes; the loss is computed in float32 under any precision


def loss_bytes(pairs: int, columns: int, dims: Sequence[int], cuda: bool = False) -> int:
    """Bytes of a batch's vectors, their gradients and the loss's own needs.

    Args:
        pairs: B.
        columns: texts a pair: 2, and one more for each hard negative.
        dims: Matryoshka dims; the largest is the vectors'.
        cuda: on a GPU, where the tiles stay in registers.
    """
    # twice each: pooled and gated vectors, the loss's gradients, those handed on
    vectors = 6 * columns * pairs * max(dims) * FLOAT
    if cuda:
        return vectors
    # of a tile, by torch: a gradient for each dim; Gram matrix, logits, softmax and a product
    tiles = (len(dims) + 4) * min(TILE_ROWS, pairs) * (columns - 1) * pairs * FLOAT
    return vectors + tiles


def check_memory(
    pairs: int,
    columns: int,
    dims: Sequence[int],
    cuda: bool,
    world: int = 1,
    free: int | None = None,
) -> None:
    """Raise UserError if a batch's loss needs more memory than is free, naming one that fits.

    `pairs` are a process's, of `world`: each holds all vectors. `free` in bytes: of the machine, or
    of the GPU, if not given; unknown passes.
    """
    if free is None:
        free = free_bytes(cuda)
    needed = loss_bytes(pairs * world, columns, dims, cuda)
    if free is None or needed <= free:
        return
    # linear but for tiles of less than TILE_ROWS rows, so this never says too much
    fits = 1 << max(1, int(pairs * free / needed).bit_length() - 1)
    raise UserError(
        f"a batch of {pairs:,} pairs (--data.batch_size) needs about {needed / 1e9:.1f} GB for its "
        f"loss and {free / 1e9:.1f} GB are free: set --data.batch_size to {fits:,} or less"
    )


def free_bytes(cuda: bool) -> int | None:
    """Free memory of the GPU, or of this machine where it says."""
    if cuda:
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
