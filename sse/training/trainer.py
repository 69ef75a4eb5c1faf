"""Lightning's trainer of a run: how long it trains, how often it evaluates, what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sse.common.errors import UserError
from sse.data.datamodule import SSEDataModule
from sse.training import processes
from sse.training.callbacks import callbacks
from sse.training.checkpoints import WholeCheckpoints
from sse.training.diagnostics_callback import Diagnostics
from sse.training.module import SSEModule
from sse.training.options import Options, not_started
from sse.training.processes import say
from sse.training.resume import log_version

# With max_epochs unset a run gets as many epochs as give about this many steps, within bounds.
STEPS_WANTED = 600
MOST_EPOCHS = 10


def make_trainer(
    options: Options, folder: Path, data: SSEDataModule, model: SSEModule
) -> L.Trainer:
    """The trainer of a run; epochs and evaluation intervals depend on the data.

    Args:
        options: the run's options.
        folder: DIR, where logs and checkpoints go.
        data: the pairs, read.
        model: the model that is trained.

    Raises:
        UserError: an option of Lightning's that it refuses, or devices without a process.
    """
    for line in remarks(options, data.hparams.batch_size):
        say(line)
    arguments = options.trainer()
    steps, epochs = processes.agree(lambda: length(options, data))
    if _unlimited(options):
        arguments["max_epochs"] = epochs
        say(
            f"epochs: {epochs} of {steps:,} batches (--trainer.max_epochs unset: "
            f"about {STEPS_WANTED} steps, 1 to {MOST_EPOCHS} epochs)"
        )
    times = options.config.eval.times
    heldout = any(map(len, data.heldout_rows)) and times > 0
    if heldout:
        interval = max(1, steps * epochs // times)
        arguments |= {"val_check_interval": interval, "check_val_every_n_epoch": None}
    else:
        arguments["limit_val_batches"] = 0
    monitor = model.monitor if heldout else None
    arguments["callbacks"] = _callbacks(options, folder, monitor) + (arguments["callbacks"] or [])
    if not any(isinstance(c, ModelCheckpoint) for c in arguments["callbacks"]):
        arguments["enable_checkpointing"] = False  # else Lightning adds one of its own
    if arguments["logger"] is None:
        arguments["logger"] = [
            TensorBoardLogger(folder, "tensorboard", version=""),
            CSVLogger(folder, "logs", version=log_version(folder)),
        ]
    arguments["plugins"] = [WholeCheckpoints(), *(arguments["plugins"] or [])]
    environment = processes.environment()
    arguments["strategy"] = processes.Processes(environment) if environment else "auto"
    return _made(arguments | {"default_root_dir": folder})


def _made(arguments: dict[str, Any]) -> L.Trainer:
    """The trainer; what Lightning refuses is one line."""
    try:
        trainer = L.Trainer(**arguments)
    except MisconfigurationException as error:
        raise processes.everywhere(UserError(f"{error} (an option of --trainer)")) from error
    if trainer.world_size != processes.world():
        raise processes.everywhere(not_started(trainer.world_size, processes.world()))
    return trainer


def _callbacks(options: Options, folder: Path, monitor: str | None) -> list[Callback]:
    """The callbacks that every run has."""
    config = options.config
    bar = config.trainer.enable_progress_bar is not False
    seconds = 60 * config.checkpoint_minutes
    own = callbacks(folder / "checkpoints", monitor, config.ema, bar, seconds)
    if config.diagnostics and processes.world() > 1:
        say("diagnostics: none, as each process has a part of the model only")
    elif config.diagnostics:  # first: it measures before the others save or average
        own.insert(0, Diagnostics(folder / "diagnostics.parquet", config.diagnostics))
    return own


def length(options: Options, data: SSEDataModule) -> tuple[int, int]:
    """Batches of the first epoch, and epochs."""
    trainer = options.config.trainer
    steps = len(data.plan(0, processes.world()))
    if _unlimited(options):
        wanted = STEPS_WANTED * trainer.accumulate_grad_batches
        return steps, min(MOST_EPOCHS, max(1, round(wanted / steps)))
    return steps, trainer.max_epochs or 1


def _unlimited(options: Options) -> bool:
    """Whether no option says how long to train."""
    trainer = options.config.trainer
    return trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None


def remarks(options: Options, batch: int) -> Iterator[str]:
    """What the options do not do, though a reader may expect it."""
    parts = options.config.trainer.accumulate_grad_batches
    if parts > 1:
        yield (
            f"accumulation: {parts} x {batch:,} pairs a step, each with the negatives of its own "
            f"{batch:,} alone: more negatives need a larger --data.batch_size"
        )
    if options.config.profile:  # of a run that is resumed; `check` refuses it for others
        yield "profile: it has left, so the rest of this run is not measured"
