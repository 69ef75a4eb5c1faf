"""Lightning's trainer of a run: how long it trains, how often it evaluates, what it writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sse.common.errors import UserError
from sse.data.datamodule import SSEDataModule
from sse.training import processes
from sse.training.callbacks import Lines, MovingAverage, Progress, Throughput
from sse.training.checkpoints import LastCheckpoint, WholeCheckpoints
from sse.training.diagnostics.callback import Diagnostics
from sse.training.diagnostics.tensorboard import Board, Watch
from sse.training.host.neighbours import Neighbours
from sse.training.module import SSEModule
from sse.training.options import TRAINER_DEFAULTS, Options, not_started
from sse.training.processes import say
from sse.training.resume import log_version

# With max_epochs unset a run gets as many epochs as give about this many steps, within bounds.
STEPS_WANTED = 600
MOST_EPOCHS = 10


def make_trainer(
    options: Options, folder: Path, data: SSEDataModule, model: SSEModule
) -> L.Trainer:
    """The trainer of a run; epochs and evaluation intervals depend on the data.

    Raises:
        UserError: an option of Lightning's that it refuses, or devices without a process.
    """
    _remark(options, data.hparams.batch_size)
    arguments = options.trainer()
    steps, epochs = processes.agree(lambda: _length(options, data))
    if _unlimited(options):
        arguments["max_epochs"] = epochs
        say(
            f"epochs: {epochs} of {steps:,} batches = {epochs * steps:,} steps (without "
            f"--trainer.max_epochs about {STEPS_WANTED} steps, at most {MOST_EPOCHS} epochs)"
        )
    if arguments["log_every_n_steps"] == TRAINER_DEFAULTS["log_every_n_steps"]:
        # A short run shows its loss at least ten times.
        arguments["log_every_n_steps"] = min(10, max(1, steps * epochs // 10))
    times = options.config.eval.times
    heldout = any(map(len, data.heldout_rows)) and times > 0
    if heldout:
        interval = max(1, steps * epochs // times)
        arguments |= {"val_check_interval": interval, "check_val_every_n_epoch": None}
    else:
        arguments["limit_val_batches"] = 0
    monitor = model.monitor if heldout else None
    given = arguments["callbacks"] or []  # one, or a list
    given = given if isinstance(given, list) else [given]
    arguments["callbacks"] = _callbacks(options, folder, monitor) + given
    if not any(isinstance(c, ModelCheckpoint) for c in arguments["callbacks"]):
        arguments["enable_checkpointing"] = False  # else Lightning adds one of its own
    if arguments["logger"] is None:
        arguments["logger"] = [
            Board(folder),
            CSVLogger(folder, "logs", version=log_version(folder)),
        ]
    arguments["plugins"] = [WholeCheckpoints(), *(arguments["plugins"] or [])]
    environment = processes.environment()
    arguments["strategy"] = (
        processes.Processes(cluster_environment=environment) if environment else "auto"
    )
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
    """The callbacks that the options ask for; `best.ckpt` has the greatest value of `monitor`.

    With a moving average (--ema), evaluation, checkpoints' `state_dict` and the final model hold
    the averaged weights.
    """
    config, place = options.config, folder / "checkpoints"
    own: list[Callback] = []
    if config.diagnostics and processes.world() > 1:
        say("diagnostics: none, as each process has a part of the model only")
    elif config.diagnostics:  # first: it measures before the others save or average
        own.append(Diagnostics(folder / "diagnostics.parquet", config.diagnostics))
    own += [Neighbours(), throughput := Throughput(), Watch()]
    if config.trainer.enable_progress_bar is not False:
        own.append((Progress if sys.stdout.isatty() else Lines)(throughput))
    if config.ema:
        own.append(MovingAverage(decay=config.ema))
    if monitor:
        best = ModelCheckpoint(
            place,
            "best",
            monitor=monitor,
            mode="max",
            save_weights_only=True,
            enable_version_counter=False,
        )
        own.append(best)
    return [*own, LastCheckpoint(place, 60 * config.checkpoint_minutes)]


def _length(options: Options, data: SSEDataModule) -> tuple[int, int]:
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


def _remark(options: Options, batch: int) -> None:
    """Say what the options do not do, though a reader may expect it."""
    parts = options.config.trainer.accumulate_grad_batches
    if parts > 1:
        say(
            f"accumulation: {parts} x {batch:,} pairs a step, each with the negatives of its own "
            f"{batch:,} alone: more negatives need a larger --data.batch_size"
        )
    if options.config.profile:  # of a run that is resumed; `check` refuses it for others
        say("profile: it has left, so the rest of this run is not measured")
