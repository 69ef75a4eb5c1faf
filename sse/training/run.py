"""The steps of a run, which `main` and experiments/train.py take one after another.

DIR/config.yaml     every option, enough to run it again
DIR/checkpoints/    last.ckpt (resume from it), previous.ckpt (the one before), best.ckpt
DIR/tensorboard/    logs; DIR/logs/metrics.csv the same as a table
DIR/checkpoints/start.safetensors  with --model.start: the table before the first step
DIR/diagnostics.parquet  does the gate saturate? See sse.training.diagnostics.diagnose
DIR/metrics.json    quality of the trained and the untrained model, BM25, hybrid; speed; versions
DIR/bad_rows.jsonl  with --data.skip_bad_rows: the rows that were left out
DIR/model/          the folder that sentence-transformers loads
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sse.common import machine
from sse.common.errors import UserError, one_line
from sse.common.files import atomic_file, write_json
from sse.common.signals import stopped_with
from sse.data.datamodule import SSEDataModule
from sse.data.skip_rows import ASIDE
from sse.evaluation import evaluate as evaluation
from sse.evaluation.collection import Collection, load_beir, pairs_collection
from sse.evaluation.nanobeir import load_nanobeir
from sse.evaluation.report import format_table, write_report
from sse.evaluation.results import Result, at_chance
from sse.model.export import export
from sse.model.static_model import StaticModel
from sse.training import processes
from sse.training.callbacks import Throughput
from sse.training.checkpoints import LastCheckpoint
from sse.training.diagnostics.tensorboard import account, board_of
from sse.training.facts import card, order_of
from sse.training.host.allocator import keep_freed_memory
from sse.training.host.neighbours import Neighbours, take_cores
from sse.training.module import SSEModule
from sse.training.options import Options, check, option_names, parse
from sse.training.processes import say
from sse.training.resume import check_checkpoint, find_checkpoint, flat, run_folder
from sse.training.start import start_file
from sse.training.trainer import make_trainer

PACKAGES = ("torch", "lightning", "sentence-transformers", "tokenizers")  # in metrics.json


@dataclass
class Run:
    """A run that is ready to train."""

    options: Options
    folder: Path  # DIR, where its files go
    collections: list[Collection]  # the model is evaluated on them besides the held-out pairs
    data: SSEDataModule  # read and tokenised
    model: SSEModule
    trainer: L.Trainer
    seconds: dict[str, float]  # what each part took

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates and writes."""
        return bool(self.trainer.is_global_zero)

    def go_on(self) -> str:
        """How to continue after a stop."""
        return f"go on with --resume {self.folder}"


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Train a model; returns what metrics.json holds, on the first process.

    Args:
        args: the command line, e.g. ["--data.paths", "[pairs.jsonl]"]; None for `sys.argv`.
    """
    options = parse(args)
    check(options)
    return carry_out(options)


def carry_out(options: Options) -> dict[str, Any]:
    """All steps of a run whose options are checked; returns what metrics.json holds."""
    folder = open_folder(options)
    collections = read_collections(options)
    data = read_data(options, folder)
    run = build(options, folder, collections, data)
    fit(run)
    if not run.first:
        return {}
    with stopped_with(run.go_on):
        results = evaluate(run)
        return export_run(run, results)


def open_folder(options: Options) -> Path:
    """Join the other processes, where torchrun or srun started some; the run's folder."""
    config = options.config
    if config.seed_everything is not False:
        L.seed_everything(None if config.seed_everything is True else config.seed_everything)
    processes.join(cuda=config.trainer.accelerator != "cpu" and torch.cuda.is_available())
    processes.alike(flat(config))
    folder = processes.from_first(lambda: run_folder(config.out, config.resume))
    say(f"run: {folder}")
    if keep_freed_memory():
        say("allocator: glibc keeps freed memory (mallopt), which speeds up CPU training")
    say(take_cores())
    return folder


def read_collections(options: Options) -> list[Collection]:
    """What to evaluate on, read before training: a typing error must not cost the training.

    Only the first process evaluates, so the others have none.
    """
    wanted = options.config.eval

    def read() -> list[Collection]:
        if processes.rank():
            return []
        collections = [load_beir(path) for path in wanted.beir]
        return collections + (load_nanobeir(wanted.nanobeir) if wanted.nanobeir else [])

    return processes.agree(read)


@option_names()
def read_data(options: Options, folder: Path | None = None) -> SSEDataModule:
    """The pairs, tokenised; the first process fills the cache that the others read.

    With --data.skip_bad_rows it writes the bad rows into `folder` too.
    """
    data = options.datamodule()
    scores = options.config.model.distil is not None
    bad_rows = folder / ASIDE if folder and not processes.rank() else None
    processes.in_turn(lambda: data.build(say, scores, bad_rows))
    return data


@option_names()
def build(
    options: Options, folder: Path, collections: list[Collection], data: SSEDataModule
) -> Run:
    """The model, its table as large as the data's vocabulary, and the trainer."""
    model = options.module()
    start = start_file(options.config, folder, data)
    model.build(data.tokenizer, start, data.pieces)
    processes.agree(model.shard)
    trainer = make_trainer(options, folder, data, model)
    return Run(options, folder, collections, data, model, trainer, {})


@option_names()
def fit(run: Run) -> None:
    """Train, from the checkpoint of --resume on; each process has the whole model afterwards."""
    options = run.options
    checkpoint = processes.from_first(lambda: resume_from(run)) if options.config.resume else None
    if run.first:
        with atomic_file(run.folder / "config.yaml") as temporary:
            temporary.write_text(options.recipe(), "utf-8")
        if board := board_of(run.trainer):
            board.about(account(reports_of(run.data), flat(options.config), run.model.dims,
                                run.data.hparams.batch_size))  # fmt: skip
    ready = time.perf_counter()
    run.seconds["data"] = ready - options.began
    try:
        run.trainer.fit(run.model, datamodule=run.data, ckpt_path=checkpoint)
    except MisconfigurationException as error:
        raise processes.everywhere(UserError(f"{error} (an option of --trainer)")) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        size = run.data.hparams.batch_size
        raise UserError(f"out of memory: lower `batch_size` ({size:,})") from error
    run.seconds["train"] = time.perf_counter() - ready
    run.model.whole()
    processes.leave()


def resume_from(run: Run) -> str | None:
    """The checkpoint to go on from, checked; None to start from the first step."""
    checkpoint = find_checkpoint(run.options.config.resume)
    if checkpoint:
        check_checkpoint(checkpoint, run.data.state_dict())
    else:
        say("no checkpoint yet: starting from the first step, which gives the same run")
    return checkpoint


def evaluate(run: Run) -> dict[str, Result]:
    """Quality of the trained model; where asked, of the untrained one, BM25 and the fusion."""
    throughput, last = _callback(run, Throughput), _callback(run, LastCheckpoint)
    neighbours = _callback(run, Neighbours).account()
    say(
        f"trained in {run.seconds['train']:.1f} s, {throughput.rate:,.0f} pairs/s; "
        f"{last.saves} checkpoint{'s' * (last.saves != 1)} in {last.spent:.1f} s{neighbours}"
    )
    anchors, positives = run.data.heldout_pairs()
    heldout = [pairs_collection("held-out pairs", anchors, positives)] if anchors else []
    collections = [*heldout, *run.collections]
    if not collections:
        return {}
    baselines = run.options.config.eval.baselines
    options: dict[str, Any] = {"dims": run.model.dims, "progress": True}
    encode = trained(run).encode
    if not baselines:
        results = {"trained": evaluation.evaluate(encode, collections, **options)}
    else:
        dense, bm25, both = evaluation.evaluate_hybrid(encode, collections, **options)
        untrained = run.model.untrained(run.data.tokenizer)
        results = {
            "trained": dense,
            "untrained": evaluation.evaluate(untrained.encode, collections, **options),
            "BM25": bm25,
            "hybrid": both,
        }
    say(format_table(results))
    _remark(run, results)
    write_report(results, run.folder / "report", figure=baselines)
    if board := board_of(run.trainer):
        board.finish(results, run.trainer.global_step)
        if texts := positives[: run.options.config.projector]:
            board.project(torch.from_numpy(encode(texts)), texts)
    return results


def _remark(run: Run, results: dict[str, Result]) -> None:
    """Say what the held-out scores do not: a failure, and how the queries came about."""
    name = "held-out pairs"
    if name in results["trained"].scores and at_chance(results["trained"], name):
        say(
            "warning: the held-out pairs score no better than a random order: check the columns "
            "named above, and choose others with --data.anchor and --data.positive"
        )
    if any(pairs.groups is not None for pairs in run.data.pairs):
        say("held out: whole documents; their queries are made of them, nobody asked them")


def export_run(run: Run, results: dict[str, Result]) -> dict[str, Any]:
    """Write DIR/model and DIR/metrics.json; returns what the latter holds."""
    data, folder, throughput = run.data, run.folder, _callback(run, Throughput)
    scores = {name: result.values() for name, result in results.items()}
    facts: dict[str, Any] = {
        "metrics": scores,
        "seconds": round(run.seconds["train"], 2),
        "steps": run.trainer.global_step,
        "pairs": throughput.pairs,
        "pairs_per_second": round(throughput.rate, 1),
        "epochs": run.trainer.max_epochs,
        "order": order_of(data.plan(0, run.trainer.world_size)),
        "data": {s.name: len(rows) for s, rows in zip(data.sets, data.train_rows, strict=True)},
        "reports": reports_of(data),
        "versions": machine.versions(*PACKAGES) | machine.machine(),
    }
    model = trained(run)
    model.frequencies = data.frequencies
    export(model, folder / "model", card(run.options, data, run.model, run.trainer, scores))
    say(f"model: {folder / 'model'}\nmetrics: {folder / 'metrics.json'}")
    say(f"report: {folder / 'report' / 'report.txt'}, {folder / 'report' / 'quality.png'}")
    seconds = run.seconds
    seconds["evaluate"] = time.perf_counter() - run.options.began - sum(seconds.values())
    facts["times"] = {name: round(value, 2) for name, value in seconds.items()}
    write_json(folder / "metrics.json", facts)
    return facts


def reports_of(data: SSEDataModule) -> dict[str, list[str]]:
    """{set: what was said about it when it was read}."""
    return {pairs.name: list(pairs.report) for pairs in data.pairs}


def trained(run: Run) -> StaticModel:
    """The trained model, in float32 on the CPU."""
    model: StaticModel = run.model.model.float().cpu()
    return model


def _callback(run: Run, kind: type[Any]) -> Any:
    return next(c for c in run.trainer.callbacks if isinstance(c, kind))


run = one_line(processes.one_voice(main))
