"""`main`: train, evaluate, export. The options are `SSEModule`'s and `SSEDataModule`'s signature.

DIR/config.yaml     every option, enough to run it again
DIR/checkpoints/    last.ckpt (resume from it), previous.ckpt (the one before), best.ckpt
DIR/tensorboard/    logs; DIR/logs/metrics.csv the same as a table
DIR/diagnostics.parquet  does the gate saturate? See sse.training.diagnostics
DIR/metrics.json    quality of the trained model, the untrained one and BM25; speed; versions
DIR/model/          the folder that sentence-transformers loads
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Sequence
from typing import Any

import torch

from sse.common.errors import UserError, one_line
from sse.common.files import atomic_file, write_json
from sse.common.signals import stopped_with
from sse.data.batch_plan import Batch
from sse.evaluation import evaluate as evaluation
from sse.evaluation.collection import pairs_collection
from sse.evaluation.report import format_table, write_report
from sse.model.export import export
from sse.model.load import SSEModel
from sse.training import processes as distributed
from sse.training.callbacks import Throughput
from sse.training.checkpoints import LastCheckpoint
from sse.training.options import TrainCLI, make_cli
from sse.training.processes import say
from sse.training.resume import check_checkpoint, find_checkpoint


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
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        size = cli.datamodule.hparams.batch_size
        raise UserError(f"out of memory: lower --data.batch_size ({size:,})") from error
    trained = time.perf_counter()
    cli.model.whole()
    distributed.leave()
    if not cli.trainer.is_global_zero:
        return {}
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


def finish(cli: TrainCLI, seconds: float) -> dict[str, Any]:
    """Evaluate, beside the untrained model and BM25 where asked, and export; the facts."""
    module, data, folder = cli.model, cli.datamodule, cli.folder
    throughput = next(c for c in cli.trainer.callbacks if isinstance(c, Throughput))
    last = next(c for c in cli.trainer.callbacks if isinstance(c, LastCheckpoint))
    say(
        f"trained in {seconds:.1f} s, {throughput.rate:,.0f} pairs/s; "
        f"{last.saves} checkpoint{'s' * (last.saves != 1)} in {last.spent:.1f} s"
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


def versions() -> dict[str, str]:
    """Versions and machine, for the record."""
    names = ("stable-static-embedding", "torch", "lightning", "sentence-transformers", "tokenizers")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


run = one_line(distributed.one_voice(main))
