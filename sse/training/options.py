"""The trainer's command line: `parse` reads its options, `check` refuses what cannot be trained.

The options are the signatures of `SSEModule`, `SSEDataModule` and Lightning's Trainer, and a few
more. The library's errors name its arguments; `option_names` turns them into options.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import sys
import time
import warnings
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import lightning.pytorch as L
from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentError, ArgumentParser, Namespace

from sse.common.arguments import program
from sse.common.errors import UserError
from sse.common.ranges import Range, ranges_of, real, whole
from sse.common.trusted_config import check_configs
from sse.data.datamodule import SSEDataModule
from sse.training import processes
from sse.training.command_line import explained, joined, short_help
from sse.training.module import SEEDS, SSEModule
from sse.training.resume import arguments_of, check_resumed

DESCRIPTION = """Train, evaluate and export a static embedding.
With no option it trains on the docstrings of the installed packages.
Your own pairs: --data.paths pairs.jsonl more.parquet;
documents without pairs: --data.documents FOLDER;
a published recipe: --config experiments/configs/sse_v1.yaml;
going on after a stop: --resume DIR."""

TRAINER_DEFAULTS = {
    "accelerator": "auto",
    "devices": 1,
    "max_epochs": None,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "reload_dataloaders_every_n_epochs": 1,
}

# Numbers that are no arguments of our own classes, which declare theirs in their signatures.
RANGES = {
    "seed_everything": SEEDS,
    "ema": real(0, below=1),
    "checkpoint_minutes": real(0, 1e6),
    "diagnostics": whole(0),
    "projector": whole(0, 10_000),
    "trainer.devices": whole(1, besides=(-1,)),
    "trainer.num_nodes": whole(1),
    "trainer.fast_dev_run": whole(0),
    "trainer.max_epochs": whole(1, besides=(-1,)),
    "trainer.min_epochs": whole(0),
    "trainer.max_steps": whole(1, besides=(-1,)),
    "trainer.min_steps": whole(0),
    "trainer.limit_train_batches": real(above=0),
    "trainer.limit_val_batches": real(0),
    "trainer.limit_test_batches": real(0),
    "trainer.limit_predict_batches": real(0),
    "trainer.overfit_batches": real(0),
    "trainer.val_check_interval": real(above=0),
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.num_sanity_val_steps": whole(0, besides=(-1,)),
    "trainer.log_every_n_steps": whole(0),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": real(0),
    "trainer.reload_dataloaders_every_n_epochs": whole(0),
}


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
    times: Annotated[int, whole(0)] = 4
    baselines: bool = True


@dataclass(frozen=True)
class Options:
    """Every option of a run."""

    config: Namespace  # the options' values, as `config.model.dim`
    parser: ArgumentParser
    began: float  # `time.perf_counter()` before they were read

    def module(self) -> SSEModule:
        """The model and its loss, without a table yet."""
        return SSEModule(**self.config.model.as_dict())

    def datamodule(self) -> SSEDataModule:
        """The data, not read yet."""
        return SSEDataModule(**self.config.data.as_dict())

    def trainer(self) -> dict[str, Any]:
        """The Trainer's arguments; objects that a class path names are made."""
        return dict(self.parser.instantiate_classes(self.config).trainer)

    def recipe(self) -> str:
        """config.yaml: every option but the run's place, since a run may be moved or repeated."""
        recipe = self.config.clone()
        recipe.out = recipe.resume = None
        return str(self.parser.dump(recipe, skip_link_targets=True, skip_none=False))


def parse(args: Sequence[str] | None = None) -> Options:
    """The options of a command line; with --resume DIR those of DIR/config.yaml below them.

    Args:
        args: e.g. ["--data.paths", "[pairs.jsonl]"]; None for `sys.argv`.

    Raises:
        UserError: no such option, or a value of another type.
        SystemExit: --help, --help-all or --print_config has been answered.
    """
    began = time.perf_counter()
    quiet()
    parser = _parser()
    arguments = joined(arguments_of(args))
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(short_help(parser))
        sys.exit(0)
    arguments = ["--help" if each == "--help-all" else each for each in arguments]
    check_configs(arguments)
    try:
        return Options(parser.parse_args(arguments), parser, began)
    except ArgumentError as error:
        message = explained(str(error.message), parser, option_ranges())
        raise UserError(message) from error


def check(options: Options) -> None:
    """Refuse options that no run can have; nothing is read and no process is joined.

    Raises:
        UserError: one option's value, or --resume with other options than the run had.
    """
    config = options.config
    if config.resume:
        check_resumed(options.parser, config)
    for name, numbers in option_ranges().items():
        value = config[name]
        numeral = isinstance(value, str) and re.fullmatch(r"-?\d+", value)  # --trainer.devices
        numbers.check(f"--{name}", int(value) if numeral else value)
    if config.profile and not config.resume:
        raise UserError("--profile has left: use --trainer.profiler simple")
    with option_names():
        options.module()
        options.datamodule()
    _check_end(config)
    _check_processes(config.trainer)


def _check_end(config: Namespace) -> None:
    """Refuse a training whose learning rate would fall over an unknown number of steps."""
    trainer, model = config.trainer, config.model
    endless = trainer.max_epochs == -1 or (trainer.max_epochs is None and trainer.max_time)
    if endless and trainer.max_steps == -1 and (model.schedule, model.warmup) != ("constant", 0):
        raise UserError(
            "the schedule of the learning rate needs an end: give --trainer.max_epochs or "
            "--trainer.max_steps, or --model.schedule constant with --model.warmup 0"
        )


def _check_processes(trainer: Namespace) -> None:
    """Refuse what several processes cannot do, and devices without processes."""
    environment = processes.environment()
    if trainer.strategy not in ("auto", "ddp"):
        raise UserError(f"--trainer.strategy {trainer.strategy}: give ddp, or leave it away")
    started = environment.world_size() if environment else 1
    if str(trainer.devices).isdigit() and int(trainer.devices) * trainer.num_nodes != started:
        raise not_started(int(trainer.devices) * trainer.num_nodes, started)
    if environment and str(trainer.precision) in ("16", "16-mixed"):
        raise UserError(
            f"--trainer.precision {trainer.precision} with several processes: each would scale its "
            "loss differently, give bf16-mixed"
        )


def not_started(wanted: int, started: int) -> UserError:
    """Devices and processes do not match."""
    return UserError(
        f"--trainer.devices x --trainer.num_nodes is {wanted}, but {started} "
        f"process{'es were' if started > 1 else ' was'} started: start as many, as with torchrun "
        f"--nproc_per_node {wanted} experiments/train.py --trainer.devices {wanted}"
    )


@functools.cache
def _parser() -> ArgumentParser:
    """--config, the three signatures, the run's own options, and one seed for everything."""
    parser = ArgumentParser(prog=program("train"), description=DESCRIPTION, exit_on_error=False)
    add = parser.add_argument
    add("-c", "--config", action=ActionConfigFile, help="a YAML file of options")
    add("--seed_everything", type=bool | int, default=0, help="seed of the model and the batches")
    groups = {"trainer": L.Trainer, "model": SSEModule, "data": SSEDataModule}
    for name, kind in groups.items():
        parser.add_class_arguments(
            kind, name, fail_untyped=False, instantiate=False, sub_configs=True
        )
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    add("--out", type=str | None, help="folder of the run (default: runs/N)")
    add("--resume", type=str | None, help="folder of a run to go on with")
    add("--ema", type=float, default=0.0, help="decay of the weights' moving average; 0: none")
    add("--checkpoint_minutes", type=float, default=1.0,
        help="from one last.ckpt to the next; 0: every step")  # fmt: skip
    add("--diagnostics", type=int, default=125,
        help="most steps between two measurements in diagnostics.parquet; 0: none")  # fmt: skip
    add("--projector", type=int, default=0,
        help="held-out documents in TensorBoard's projector; 0: none")  # fmt: skip
    # It has left; config.yaml of older runs has it.
    add("--profile", action=ActionYesNo(no_prefix="no_"), default=False, help=SUPPRESS)
    parser.add_class_arguments(EvalOptions, "eval")
    parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
    parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
    for action in parser._actions:  # Lightning's own defaults are not those of this program
        if action.dest == "trainer.max_epochs":
            action.help = "epochs; without it as many as give about 600 steps, 1 to 10; -1: no end"
        elif action.dest.startswith("trainer.") and isinstance(action.help, str):
            action.help = re.sub(r"\s*Defaults?(:| to) ``[^`]*``\.?", "", action.help)
    return parser


@functools.cache
def option_ranges() -> dict[str, Range]:
    """{option: the range of its numbers}, such as `model.dim`; a test finds those without one."""
    kinds = {"model": SSEModule, "data": SSEDataModule, "eval": EvalOptions}
    own = {
        f"{group}.{name}": numbers
        for group, kind in kinds.items()
        for name, numbers in ranges_of(kind).items()
    }
    return RANGES | own


@functools.cache
def _names() -> dict[str, str]:
    """{argument of the library: option}."""
    names = {name: f"--data.{name}" for name in inspect.signature(SSEDataModule).parameters}
    names |= {name: f"--model.{name}" for name in inspect.signature(SSEModule).parameters}
    return names | {"seed": "--seed_everything", "dims": "--model.matryoshka_dims"}


@contextlib.contextmanager
def option_names() -> Iterator[None]:
    """Say in a library's UserError which option an argument is: "dim is 0" -> "--model.dim is 0".

    An argument is a name in backquotes anywhere, or the first word before "is", "are" or a colon.
    """

    def option(match: re.Match[str]) -> str:
        return _names().get(match[1] or match[2], match[0])

    try:
        yield
    except UserError as error:
        error.args = (re.sub(r"`(\w+)`|^(\w+)(?= is | are |: )", option, str(error)),)
        raise


def quiet() -> None:
    """Hide the warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # --trainer.profiler
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
