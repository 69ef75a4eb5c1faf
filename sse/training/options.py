"""The trainer's command line: its options, what they read, and the trainer they make.

The options are the signatures of `SSEModule`, `SSEDataModule` and Lightning's Trainer, and a few
more.
"""

from __future__ import annotations

import logging
import warnings
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from jsonargparse import ActionYesNo, ArgumentError, Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sse.common.errors import UserError
from sse.data.datamodule import SSEDataModule
from sse.evaluation.collection import Collection, load_beir
from sse.evaluation.nanobeir import load_nanobeir
from sse.training import processes as distributed
from sse.training.allocator import keep_freed_memory
from sse.training.callbacks import callbacks
from sse.training.checkpoints import WholeCheckpoints
from sse.training.diagnostics_callback import Diagnostics
from sse.training.module import SSEModule
from sse.training.processes import say
from sse.training.resume import arguments_of, check_resumed, flat
from sse.training.run_folder import check_options, log_version, not_started, run_folder

# With max_epochs unset a run gets as many epochs as give about this many steps, within bounds.
STEPS_WANTED = 600
MOST_EPOCHS = 10

DESCRIPTION = """Train, evaluate and export a static embedding.
With no option it trains on the docstrings of the installed packages.
Your own pairs: --data.paths "[pairs.jsonl, more.parquet]";
a published recipe: --config experiments/configs/sse_v1.yaml;
going on after a stop: --resume DIR."""


@dataclass
class EvalOptions:
    """What the trained model is measured on, besides the held-out pairs.

    Args:
        beir: folders in the BEIR layout.
        nanobeir: hub name or local folder of NanoBEIR, such as sentence-transformers/NanoBEIR-en.
        times: evaluations on the held-out pairs during training.
        baselines: evaluate the untrained model and BM25 too, and draw all three.
    """

    beir: list[str] = field(default_factory=list)
    nanobeir: str | None = None
    times: int = 4
    baselines: bool = True


class TrainCLI(LightningCLI):
    """LightningCLI with this project's options and nothing left to configure by class path."""

    datamodule: SSEDataModule
    model: SSEModule

    def __init__(self, *args: Any, shared: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.shared = shared
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """--out, --resume, --ema, --diagnostics, --eval.*, and one seed for everything."""
        parser.add_argument("--out", type=str | None, help="folder of the run (default: runs/N)")
        parser.add_argument("--resume", type=str | None, help="folder of a run to go on with")
        parser.add_argument(
            "--ema", type=float, default=0.0, help="decay of the weights' moving average; 0: none"
        )
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=1.0,
            help="from one last.ckpt to the next; 0: every step",
        )
        parser.add_argument(
            "--diagnostics",
            type=int,
            default=125,
            help="steps between two measurements in diagnostics.parquet; 0: none",
        )
        parser.add_argument(
            "--profile",
            action=ActionYesNo(no_prefix="no_"),
            default=False,
            help=SUPPRESS,  # it has left; config.yaml of older runs has it
        )
        parser.add_class_arguments(EvalOptions, "eval")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, resumed or not; never `sys.argv` behind the caller's back."""
        try:
            self.config: Namespace = parser.parse_args(arguments_of(args))
        except ArgumentError as error:
            raise UserError(f"{error.message}: see train.py --help") from error
        if self.config.resume:
            check_resumed(parser, self.config)

    def prepare(self) -> None:
        """Join the other processes, read what to evaluate on, build data and model."""
        config = self.config
        check_options(config)
        distributed.join(cuda=config.trainer.accelerator != "cpu" and torch.cuda.is_available())
        distributed.alike(flat(config))
        self.folder = distributed.from_first(lambda: run_folder(config))
        say(f"run: {self.folder}")
        if keep_freed_memory():
            say("allocator: glibc keeps freed memory (mallopt), which speeds up CPU training")
        # Read what to evaluate on before training: a typing error must not cost the training.
        self.collections: list[Collection] = []
        distributed.agree(self.read_collections)
        distributed.in_turn(lambda: self.datamodule.build(say, self.shared))
        self.model.build(self.datamodule.tokenizer)
        distributed.agree(self.model.shard)

    def read_collections(self) -> None:
        """The collections asked for; only the first process evaluates."""
        config = self.config.eval
        if distributed.rank() == 0:
            self.collections = [self._collection(path) for path in config.beir]
            if config.nanobeir:
                self.collections += load_nanobeir(config.nanobeir)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the data first: epochs and evaluation intervals depend on them."""
        self.prepare()
        config, folder, trainer = self.config, self.folder, self.config.trainer
        steps, epochs = distributed.agree(self.length)
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            kwargs["max_epochs"] = epochs
            say(
                f"epochs: {epochs} of {steps:,} batches (--trainer.max_epochs unset: "
                f"about {STEPS_WANTED} steps, 1 to {MOST_EPOCHS} epochs)"
            )
        for line in remarks(config, self.datamodule.hparams.batch_size):
            say(line)
        heldout = any(map(len, self.datamodule.heldout_rows)) and config.eval.times > 0
        if heldout:
            interval = max(1, steps * epochs // config.eval.times)
            kwargs |= {"val_check_interval": interval, "check_val_every_n_epoch": None}
        else:
            kwargs["limit_val_batches"] = 0
        kwargs["callbacks"] = self._callbacks(heldout)
        if not any(isinstance(c, ModelCheckpoint) for c in kwargs["callbacks"]):
            kwargs["enable_checkpointing"] = False  # else Lightning adds one of its own
        if trainer.logger is None:
            kwargs["logger"] = [
                TensorBoardLogger(folder, "tensorboard", version=""),
                CSVLogger(folder, "logs", version=log_version(folder)),
            ]
        kwargs["plugins"] = [WholeCheckpoints(), *(self.config_init.trainer.plugins or [])]
        found = distributed.environment()
        kwargs["strategy"] = distributed.Processes(found) if found else "auto"
        try:
            made = super().instantiate_trainer(default_root_dir=folder, **kwargs)
        except MisconfigurationException as error:
            raise distributed.everywhere(UserError(f"{error} (an option of --trainer)")) from error
        if made.world_size != distributed.world():
            raise distributed.everywhere(not_started(made.world_size, distributed.world()))
        return made

    def _callbacks(self, heldout: bool) -> list[Callback]:
        """Ours, then those asked for."""
        config, folder = self.config, self.folder
        monitor = f"val/ndcg@10_{self.model.dims[0]}d" if heldout else None
        bar = config.trainer.enable_progress_bar is not False
        seconds = 60 * config.checkpoint_minutes
        ours = callbacks(folder / "checkpoints", monitor, config.ema, bar, seconds)
        if config.diagnostics and distributed.world() > 1:
            say("diagnostics: none, as each process has a part of the model only")
        elif config.diagnostics:  # first: it measures before the others save or average
            ours.insert(0, Diagnostics(folder / "diagnostics.parquet", config.diagnostics))
        return [*ours, *(self.config_init.trainer.callbacks or [])]

    def length(self) -> tuple[int, int]:
        """Batches of the first epoch, and epochs; the data must have been built."""
        trainer = self.config.trainer
        steps = len(self.datamodule.plan(0, distributed.world()))
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            wanted = STEPS_WANTED * trainer.accumulate_grad_batches
            return steps, min(MOST_EPOCHS, max(1, round(wanted / steps)))
        return steps, trainer.max_epochs or 1

    def _collection(self, path: str) -> Collection:
        shared = {} if self.shared is None else self.shared
        key = f"collection: {path}"
        if key not in shared:
            shared[key] = load_beir(path)
        found: Collection = shared[key]
        return found


def make_cli(
    kind: type[TrainCLI], args: Sequence[str] | None, shared: dict[str, Any] | None = None
) -> TrainCLI:
    """The command line's options, read and checked, with all that they name."""
    quiet()
    return kind(
        SSEModule,
        SSEDataModule,
        args=args,
        run=False,
        seed_everything_default=0,
        save_config_callback=None,
        trainer_defaults={
            "accelerator": "auto",
            "devices": 1,
            "max_epochs": None,
            "enable_model_summary": False,
            "log_every_n_steps": 10,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "reload_dataloaders_every_n_epochs": 1,
        },
        parser_kwargs={"prog": "train.py", "description": DESCRIPTION, "exit_on_error": False},
        auto_configure_optimizers=False,
        shared=shared,
    )


def remarks(config: Namespace, batch: int) -> Iterator[str]:
    """What the options asked for do not do."""
    parts = config.trainer.accumulate_grad_batches
    if parts > 1:
        yield (
            f"accumulation: {parts} x {batch:,} pairs a step, each with the negatives of its own "
            f"{batch:,} alone: more negatives need a larger --data.batch_size"
        )


def quiet() -> None:
    """Hide the warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",  # a gather of 0.3 ms gains nothing from workers
        ".*your dataloader is not resumable.*",  # ours is: see sse.data.batch_plan
        ".*exists and is not empty.*",  # a resumed run
        ".*callbacks used to create the checkpoint.*",
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*sync_dist=True.*",  # the value is the first process's already
    ):
        warnings.filterwarnings("ignore", text)
