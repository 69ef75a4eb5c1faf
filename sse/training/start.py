"""What a run starts from: with --model.start a file in its folder, so --resume needs no teacher."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from sse.common.digests import is_whole
from sse.common.errors import UserError
from sse.common.machine import memory
from sse.data.datamodule import SSEDataModule
from sse.data.prepare import cache_folder
from sse.teacher.start import make_start
from sse.training import processes
from sse.training.processes import say


def start_file(config: Namespace, folder: Path, data: SSEDataModule) -> Path | None:
    """With --model.start: DIR/start.safetensors, made now unless a resumed run has it."""
    check_memory(data.tokenizer.vocab_size, config.model.dim)
    wanted, path = config.model, folder / "checkpoints" / "start.safetensors"

    def make() -> None:
        if processes.rank() or (config.resume and is_whole(path)):
            return
        start = make_start(
            wanted.start,
            data.tokenizer,
            wanted.dim,
            norm=wanted.norm,
            std=wanted.table_std,
            seed=wanted.seed,
            frequencies=data.frequencies,
            cache=cache_folder(data.hparams.cache),
        )
        start.save(path)
        say(start.account)

    if wanted.start is None:
        return None
    processes.in_turn(make)
    return path


def check_memory(vocab: int, dim: int) -> None:
    """UserError for a table that this machine cannot train.

    Training holds the table, its gradient and Adam's two moments. Several processes share all but
    the first table by columns.
    """
    need, have = (1 + 3 / processes.world()) * 4 * vocab * dim, memory()
    if need > have:
        raise UserError(
            f"`dim` is {dim} for {vocab:,} tokens: training needs {need / 1e9:,.0f} GB and this "
            f"machine has {have / 1e9:,.0f} GB, so give fewer dimensions, a smaller `tokenizer` "
            "or less `grow_vocab`"
        )
