"""`main`: train, evaluate, export. The options are `SSEModule`'s and `SSEDataModule`'s signature.

DIR/config.yaml     every option, enough to run it again
DIR/checkpoints/    last.ckpt (resume from it), previous.ckpt (the one before), best.ckpt
DIR/tensorboard/    logs; DIR/logs/metrics.csv the same as a table
DIR/profile.json    with --profile: the share of each stage; DIR/profile.png
DIR/diagnostics.parquet  does the gate saturate? See sse.diagnostics
DIR/metrics.json    quality of the trained model, the untrained one and BM25; speed; versions
DIR/model/          the folder that sentence-transformers loads
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ActionYesNo, ArgumentError, Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sse_kernels.allocator import keep_freed_memory

from sse import distributed, evaluation
from sse.beir import Collection, load_beir, pairs_collection
from sse.callbacks import LastCheckpoint, Throughput, WholeCheckpoints, callbacks
from sse.data import SSEDataModule
from sse.errors import UserError, one_line
from sse.files import atomic_file, write_json
from sse.loss_memory import check_memory
from sse.model import SSEModel
from sse.module import SSEModule
from sse.nanobeir import load_nanobeir
from sse.portable import export
from sse.probe import Diagnostics
from sse.profile import Stages, report
from sse.report import format_table, write_report
from sse.resume import arguments_of, check_checkpoint, check_resumed, find_checkpoint
from sse.sampler import Batch
from sse.signals import stopped_with

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
            help="measure each stage of training: DIR/profile.json, DIR/profile.png",
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
        self.folder = distributed.from_first(lambda: run_folder(config))
        say(f"run: {self.folder}")
        if keep_freed_memory():
            say("allocator: glibc keeps freed memory (mallopt), which speeds up CPU training")
        # Read what to evaluate on before training: a typing error must not cost the training.
        self.collections: list[Collection] = []
        distributed.agree(self.read_collections)
        distributed.in_turn(lambda: self.datamodule.build(say, self.shared))
        distributed.agree(self._check_memory)
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
        monitor = f"val/ndcg@10_{self.model.dims[0]}d" if heldout else None
        bar = trainer.enable_progress_bar is not False
        seconds = 60 * config.checkpoint_minutes
        ours = callbacks(folder / "checkpoints", monitor, config.ema, bar, seconds)
        if config.diagnostics and distributed.world() > 1:
            say("diagnostics: none, as each process has a part of the model only")
        elif config.diagnostics:  # first: it measures before the others save or average
            ours.insert(0, Diagnostics(folder / "diagnostics.parquet", config.diagnostics))
        kwargs["callbacks"] = [*ours, *(self.config_init.trainer.callbacks or [])]
        if not any(isinstance(c, ModelCheckpoint) for c in kwargs["callbacks"]):
            kwargs["enable_checkpointing"] = False  # else Lightning adds one of its own
        if trainer.logger is None:
            kwargs["logger"] = [
                TensorBoardLogger(folder, "tensorboard", version=""),
                CSVLogger(folder, "logs", version=log_version(folder)),
            ]
        if config.profile:
            kwargs["profiler"] = Stages()
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

    def _check_memory(self) -> None:
        """Refuse a batch whose loss does not fit, before anything is trained."""
        data, accelerator = self.datamodule, str(self.config.trainer.accelerator)
        cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
        columns = max(len(s.tokens) for s in data.sets)
        pairs = data.hparams.batch_size
        check_memory(pairs, columns, self.model.dims, cuda, distributed.world())

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


def main(args: Sequence[str] | None = None, shared: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train a model; returns what metrics.json holds.

    Args:
        args: the command line, e.g. ["--data.paths", "[pairs.jsonl]"]; None for `sys.argv`.
        shared: a dict kept between runs in one process, which then read the same data once.
    """
    start = time.perf_counter()
    cli = make_cli(TrainCLI, args, shared)
    checkpoint = distributed.from_first(lambda: resume_from(cli)) if cli.config.resume else None
    if distributed.rank() == 0:
        with atomic_file(cli.folder / "config.yaml") as temporary:
            # Without its place: a run may be moved, and its configuration used for another.
            recipe = cli.config.clone()
            recipe.out = recipe.resume = None
            temporary.write_text(cli.parser.dump(recipe, skip_link_targets=True), "utf-8")
    ready = time.perf_counter()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    trained = time.perf_counter()
    cli.model.whole()
    distributed.leave()
    if not cli.trainer.is_global_zero:
        return {}
    if cli.config.profile:
        say(report(cli.trainer, cli.model, cli.folder))
    with stopped_with(lambda: f"go on with --resume {cli.folder}"):
        facts = finish(cli, trained - ready)
        facts["times"] = {
            "data": round(ready - start, 2),
            "train": round(trained - ready, 2),
            "evaluate": round(time.perf_counter() - trained, 2),
        }
        write_json(cli.folder / "metrics.json", facts)
    return facts


def resume_from(cli: TrainCLI) -> str | None:
    """The checkpoint to go on from, checked; None to start from the first step."""
    checkpoint = find_checkpoint(cli.config.resume, say)
    if checkpoint:
        check_checkpoint(checkpoint, cli.datamodule.state_dict(), say)
    else:
        say("no checkpoint yet: starting from the first step, which gives the same run")
    return checkpoint


def remarks(config: Namespace, batch: int) -> Iterator[str]:
    """What the options asked for do not do."""
    parts = config.trainer.accumulate_grad_batches
    if parts > 1:
        yield (
            f"accumulation: {parts} x {batch:,} pairs a step, each with the negatives of its own "
            f"{batch:,} alone: more negatives need a larger --data.batch_size"
        )
    if config.ema and config.model.optimizer == "lazy_adam":
        yield "lazy_adam: --ema reads every row at every step, so it saves nothing here"


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


def finish(cli: TrainCLI, seconds: float) -> dict[str, Any]:
    """Evaluate, beside the untrained model and BM25 where asked, and export; the facts."""
    module, data, folder = cli.model, cli.datamodule, cli.folder
    throughput = next(c for c in cli.trainer.callbacks if isinstance(c, Throughput))
    last = next(c for c in cli.trainer.callbacks if isinstance(c, LastCheckpoint))
    say(
        f"trained in {seconds:.1f} s, {throughput.rate:,.0f} pairs/s; "
        f"{last.saves} checkpoint{'s' * (last.saves > 1)} in {last.spent:.1f} s"
    )
    model = SSEModel(modules=[module.model.float().cpu()], device="cpu")
    anchors, positives = data.heldout_pairs()
    heldout = [pairs_collection("held-out pairs", anchors, positives)] if anchors else []
    collections = [*heldout, *cli.collections]
    results = {}
    if collections:
        baselines = cli.config.eval.baselines
        candidates = {"trained": model}
        if baselines:
            untrained = module.untrained(data.tokenizer)
            candidates["untrained"] = SSEModel(modules=[untrained], device="cpu")
        for name, candidate in candidates.items():
            queries, documents = evaluation.encoders(candidate)
            results[name] = evaluation.evaluate(
                queries, collections, module.dims, encode_documents=documents, progress=True
            )
        if baselines:
            results["BM25"] = evaluation.evaluate_bm25(collections, progress=True)
        print(format_table(results))  # noqa: T201, the run's result
        write_report(results, folder / "report", figure=baselines)
    values = {name: result.values() for name, result in results.items()}
    facts = {
        "metrics": values,
        "seconds": round(seconds, 2),
        "steps": cli.trainer.global_step,
        "pairs": throughput.pairs,
        "pairs_per_second": round(throughput.rate, 1),
        "epochs": cli.trainer.max_epochs,
        "order": order_of(data.plan(0, cli.trainer.world_size)),
        "data": {s.name: len(rows) for s, rows in zip(data.sets, data.train_rows, strict=True)},
        "reports": {pairs.name: list(pairs.report) for pairs in data.pairs},
        "versions": versions(),
    }
    export(model, folder / "model", card(cli, values))
    say(f"model: {folder / 'model'}\nmetrics: {folder / 'metrics.json'}, {folder / 'report'}")
    return facts


def order_of(plan: list[Batch]) -> str:
    """A digest of which pairs come in which batch: equal digests, equal data in equal order."""
    digest = hashlib.sha256()
    for batch in plan:
        digest.update(batch.set.to_bytes(4, "little") + batch.rows.tobytes())
    return digest.hexdigest()[:16]


def card(cli: TrainCLI, values: dict[str, Any]) -> dict[str, Any]:
    """What the model card says of this run."""
    data = cli.datamodule
    given = cli.model.hparams.items()
    options = {f"model.{k}": v for k, v in given if v is not None and not k.startswith("_")}
    options |= {
        "data.batch_size": data.hparams.batch_size,
        "epochs": cli.trainer.max_epochs,
        "precision": cli.trainer.precision,
        "accumulation": cli.trainer.accumulate_grad_batches,
        "EMA": cli.config.ema,
    }
    return {
        "metrics": values.get("trained", {}),
        "baselines": {name: values[name] for name in ("untrained", "BM25") if name in values},
        "data": [
            f"{s.name}: {len(rows):,} pairs"
            for s, rows in zip(data.sets, data.train_rows, strict=True)
        ],
        "hyperparameters": options,
    }


def run_folder(config: Namespace) -> Path:
    """The run's folder: --resume's, --out if it holds no run yet, else the next free runs/N."""
    if config.resume:
        return Path(config.resume)
    if config.out is None:
        number = 1
        while Path("runs", str(number)).exists():
            number += 1
        return Path("runs", str(number))
    folder = Path(config.out).expanduser()
    if folder.is_file():
        raise UserError(f"--out {folder} is a file: give a folder")
    if (folder / "metrics.json").exists() or any(folder.glob("checkpoints/*.ckpt")):
        raise UserError(
            f"--out {folder} already holds a run: give another folder, go on with "
            f"--resume {folder}, or remove it"
        )
    return folder


def log_version(folder: Path) -> str:
    """Empty at first, then resumed-1, ...: Lightning's CSV logger clears a folder it finds."""
    logs = folder / "logs"
    if not (logs / "metrics.csv").exists():
        return ""
    return f"resumed-{1 + sum(1 for _ in logs.glob('resumed-*'))}"


def check_options(config: Namespace) -> None:
    """Refuse what cannot be trained, before anything is read."""
    if not 0 <= config.ema < 1:
        raise UserError(f"--ema {config.ema}: give a decay from 0 (none) to below 1, as 0.999")
    if config.diagnostics < 0:
        raise UserError(f"--diagnostics {config.diagnostics}: give a number of steps, or 0")
    if config.checkpoint_minutes < 0:
        raise UserError(f"--checkpoint_minutes {config.checkpoint_minutes}: give at least 0")
    trainer, found = config.trainer, distributed.environment()
    if trainer.strategy not in ("auto", "ddp"):
        raise UserError(f"--trainer.strategy {trainer.strategy}: give ddp, or leave it away")
    started = found.world_size() if found else 1
    if str(trainer.devices).isdigit() and int(trainer.devices) * trainer.num_nodes != started:
        raise not_started(int(trainer.devices) * trainer.num_nodes, started)
    if found and str(trainer.precision) in ("16", "16-mixed"):
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


def versions() -> dict[str, str]:
    """Versions and machine, for the record."""
    names = ("stable-static-embedding", "torch", "lightning", "sentence-transformers", "tokenizers")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def say(line: str) -> None:
    """Print a line of the run's account, at once; the first process does."""
    if distributed.rank() == 0:
        print(line, flush=True)  # noqa: T201, the account is the program's output


def quiet() -> None:
    """Hide the warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",  # a gather of 0.3 ms gains nothing from workers
        ".*your dataloader is not resumable.*",  # ours is: see sse.sampler
        ".*exists and is not empty.*",  # a resumed run
        ".*callbacks used to create the checkpoint.*",
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*sync_dist=True.*",  # the value is the first process's already
    ):
        warnings.filterwarnings("ignore", text)


run = one_line(distributed.one_voice(main))
