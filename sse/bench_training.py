"""Training speed against sentence-transformers' trainer: the same pairs, model, loss and batch.

    python -m sse.bench_training --paths pairs.jsonl.gz [more] --tokenizer tokenizer.json

Every measurement is a process of its own, with the settings its users get, and the systems take
turns, so a machine whose speed drifts slows them alike; what is printed is the median over rounds
of each round's ratio. Start-up and imports are not timed. Three figures:

    cached    pairs/s over STEPS batches of tokens that lie in the token cache
    raw       pairs/s over one epoch of `--pairs` pairs, tokenising and planning included
    overhead  the share of a Lightning step that a bare loop of the same step does not take
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from sse.errors import UserError, one_line
from sse.files import write_json

BATCH, STEPS, WARMUP = 512, 60, 10
KINDS = {
    "cached": ("sse", "bare loop", "sentence-transformers"),
    "raw": ("sse", "sentence-transformers"),
}


@one_line
def main() -> None:
    """Measure, print a table, write JSON and a PNG."""
    parser = argparse.ArgumentParser(prog="python -m sse.bench_training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--paths", nargs="+", required=True, help="files of pairs")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json or hub name")
    parser.add_argument(
        "--pairs", type=int, default=30_000, help="pairs of the epoch from raw text"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results; the plot goes beside it")
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, kind = options.one
        seconds, pairs = _measure(system, kind, options)
        print(json.dumps({"pairs_per_second": pairs / seconds}))  # noqa: T201
        return
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "sentence-transformers' trainer needs accelerate: pip install 'accelerate>=0.26'"
        )
    results = _rounds(options)
    table, facts = _summary(results, options)
    print(table)  # noqa: T201
    if options.json:
        write_json(options.json, facts)
        _plot(facts, options.json.with_suffix(".png"))


def _rounds(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Pairs/s by kind and system, one value a round."""
    results: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    _run("sse", "cached", options)  # fill the token cache
    for number in range(options.rounds):
        for kind, systems in KINDS.items():
            for system in systems:
                rate = _run(system, kind, options)
                results[kind].setdefault(system, []).append(rate)
                line = f"round {number + 1}: {system}, {kind}: {rate:,.0f} pairs/s"
                print(line, file=sys.stderr, flush=True)  # noqa: T201
    return results


def _run(system: str, kind: str, options: argparse.Namespace) -> float:
    """Pairs/s of one fresh process."""
    command = [sys.executable, "-m", "sse.bench_training", "--one", system, kind]
    command += ["--tokenizer", options.tokenizer, "--pairs", str(options.pairs)]
    command += ["--paths", *options.paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{system} ({kind}) failed: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["pairs_per_second"])


def _measure(system: str, kind: str, options: argparse.Namespace) -> tuple[float, int]:
    """Seconds and pairs of one measurement in this process."""
    if system == "sentence-transformers":
        return _sentence_transformers(kind, options)
    return _ours(system, kind, options)


def _ours(system: str, kind: str, options: argparse.Namespace) -> tuple[float, int]:
    """Our Lightning trainer, or the same step in a bare loop."""
    import lightning as L
    from sse_kernels.allocator import keep_freed_memory

    from sse.callbacks import callbacks
    from sse.data import PairBatches, SSEDataModule
    from sse.module import SSEModule

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        data = SSEDataModule(
            options.paths,
            tokenizer=options.tokenizer,
            batch_size=BATCH,
            holdout=0,
            cap=_cap(options) if kind == "raw" else None,
            cache=folder if kind == "raw" else None,
        )
        data.build(lambda line: None)
        module = SSEModule()
        module.build(data.tokenizer)
        plan = data.plan(0)
        if kind == "cached":
            plan = data._plans[0, 1] = plan[: STEPS + WARMUP]
        if system == "bare loop":
            return _bare_loop(module, PairBatches(data.sets, plan))
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            callbacks=[*callbacks(Path(folder), None, 0.0, True)[:-1], clock := _clock()],
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
        )
        trainer.fit(module, datamodule=data)
        if kind == "raw":
            return time.perf_counter() - start, sum(len(batch.rows) for batch in plan)
        return clock.seconds, sum(len(batch.rows) for batch in plan[WARMUP:])


def _bare_loop(module: Any, batches: Any) -> tuple[float, int]:
    """The training step without a trainer: gather, pool, loss, backward, fused Adam, schedule."""
    import torch

    from sse.loss import matryoshka_loss

    optimizer = torch.optim.AdamW(
        module.parameters(), lr=0.1, betas=(0.9, 0.9999), eps=1e-10, weight_decay=0, fused=True
    )
    start, pairs = 0.0, 0
    for step in range(len(batches)):
        if step == WARMUP:
            start = time.perf_counter()
        batch = batches[step]
        b = batch["pairs"]
        vectors = module.model.pool(batch["ids"], batch["offsets"])
        matryoshka_loss(vectors[:b], vectors[b:], module.dims, module.weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        pairs += b if step >= WARMUP else 0
    return time.perf_counter() - start, pairs


def _clock() -> Any:
    """A callback with the seconds between step WARMUP's start and the end of training."""
    from lightning.pytorch.callbacks import Callback

    class Clock(Callback):
        seconds = 0.0

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == WARMUP:
                self.start = time.perf_counter()
            self.seconds = time.perf_counter() - self.start if hasattr(self, "start") else 0.0

    return Clock()


def _sentence_transformers(kind: str, options: argparse.Namespace) -> tuple[float, int]:
    """sentence-transformers' trainer: its StaticEmbedding, an eager DyT, its loss, its sampler."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.modules import Module, StaticEmbedding
    from transformers import TrainerCallback

    from sse.module import PUBLISHED_DIMS
    from sse.norms import SeparableDyT
    from sse.pairs import load_sets
    from sse.tokenizer import load_tokenizer

    class DyT(Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = SeparableDyT(PUBLISHED_DIMS[0])

        def forward(self, features: dict[str, Any], **rest: Any) -> dict[str, Any]:
            features["sentence_embedding"] = self.norm(features["sentence_embedding"])
            return features

        def save(self, *args: Any, **rest: Any) -> None:
            raise NotImplementedError

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == WARMUP:
                self.start = time.perf_counter()
            self.end = time.perf_counter()

    start = time.perf_counter()
    sets = load_sets(options.paths, cap=_cap(options), say=lambda line: None)
    train = {
        s.name: datasets.Dataset.from_dict({c: s.texts(c) for c in ("anchor", "positive")})
        for s in sets
    }
    tokenizer = load_tokenizer(options.tokenizer).tokenizer
    table = StaticEmbedding(tokenizer, embedding_dim=PUBLISHED_DIMS[0])
    model = SentenceTransformer(modules=[table, DyT()], device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            max_steps=STEPS + WARMUP if kind == "cached" else -1,
            learning_rate=0.1,
            adam_beta2=0.9999,
            adam_epsilon=1e-10,
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            batch_sampler="no_duplicates",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
        )
        inner = MultipleNegativesRankingLoss(model)
        loss = MatryoshkaLoss(model, inner, list(PUBLISHED_DIMS))
        trainer = SentenceTransformerTrainer(model, arguments, train, loss=loss)
        trainer.add_callback(clock := Clock())
        trainer.train()
        if kind == "raw":
            return time.perf_counter() - start, sum(map(len, sets))
        return clock.end - clock.start, STEPS * BATCH


def _cap(options: argparse.Namespace) -> int:
    """Pairs of each set in an epoch of `--pairs` pairs."""
    return max(2 * BATCH, options.pairs // len(options.paths))


def _summary(
    results: dict[str, dict[str, list[float]]], options: argparse.Namespace
) -> tuple[str, dict[str, Any]]:
    """The table and what the JSON holds."""
    peer = "sentence-transformers"
    lines = [f"{'':10}{'system':24}{'pairs/s':>10}{'x ' + peer:>26}"]
    ratios: dict[str, dict[str, float]] = {}
    for kind, by_system in results.items():
        for system, rates in by_system.items():
            ratio = median(a / b for a, b in zip(rates, by_system[peer], strict=True))
            ratios.setdefault(kind, {})[system] = round(ratio, 3)
            lines.append(f"{kind:10}{system:24}{median(rates):>10,.0f}{ratio:>26.2f}")
    cached = results["cached"]
    overhead = median(1 - a / b for a, b in zip(cached["sse"], cached["bare loop"], strict=True))
    lines.append(f"Lightning's share of a step: {overhead:.1%}")
    names = ("torch", "lightning", "sentence-transformers", "transformers", "tokenizers")
    facts = {
        "command": "python -m sse.bench_training "
        + " ".join(f"--{k} {v}" for k, v in (("pairs", options.pairs), ("rounds", options.rounds))),
        "batch": BATCH,
        "pairs_per_second": results,
        "median_ratio_to_sentence_transformers": ratios,
        "lightning_share_of_a_step": round(overhead, 4),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
    return "\n".join(lines), facts


def _plot(facts: dict[str, Any], path: Path) -> None:
    """Bars of pairs/s."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rates = facts["pairs_per_second"]
    bars = [(f"{s}\n{k}", median(r), k) for k, by in rates.items() for s, r in by.items()]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    colours = {"cached": "#0072b2", "raw": "#e69f00"}
    axes.barh([b[0] for b in bars], [b[1] for b in bars], color=[colours[b[2]] for b in bars])
    axes.invert_yaxis()
    axes.set_xlabel("training pairs per second (median, higher is faster)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
