"""How long a sweep's trials should take: steps counted on the data, a few of them timed here."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW

from sse.data.datamodule import PairBatches
from sse.loss.matryoshka import matryoshka_loss
from sse.sweeps.grid import Trial
from sse.training.options import TrainCLI, make_cli

TIMED = 4  # steps, after one that is not
REST = 8.0  # seconds a trial needs beside training, while none has been measured


class Expectation:
    """Seconds of each trial: steps times a step's seconds, and what finished trials needed else."""

    def __init__(self, trials: Sequence[Trial], out: Path) -> None:
        self._shared: dict[str, Any] = {}
        self._step: dict[str, float] = {}
        records = [out / "trials" / trial.name / "trial.json" for trial in trials]
        times = [json.loads(file.read_text("utf-8"))["times"] for file in records if file.exists()]
        rest = [found["total"] - found["train"] for found in times]
        self.rest = statistics.median(rest) if rest else REST
        self.basis = (
            f"{TIMED} steps of each kind timed on one thread; {self.rest:.0f} s a trial beside "
            f"training, {f'from {len(rest)} finished' if rest else 'a guess'}"
        )

    def seconds(self, trial: Trial) -> float:
        """Of one trial. Reads its data, which the sweep needs in any case."""
        cli = make_cli(_Counted, trial.arguments, self._shared)
        steps, epochs = cli.length()
        limit = cli.config.trainer.max_steps
        steps *= epochs
        if limit not in (None, -1):
            steps = min(steps, limit * cli.config.trainer.accumulate_grad_batches)
        options = cli.model.hparams
        kind = repr((cli.datamodule.hparams.batch_size, options.dim, cli.model.dims))
        if kind not in self._step:
            self._step[kind] = _step_seconds(cli)
        return steps * self._step[kind] + self.rest


class _Counted(TrainCLI):
    """Reads the data and stops there."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        self.datamodule.build(lambda line: None, self.shared)


def _step_seconds(cli: TrainCLI) -> float:
    """The median of a few training steps, on one thread as a trial on each core has it."""
    module, data, threads = cli.model, cli.datamodule, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module.build(data.tokenizer)
        optimizer = AdamW(module.model.parameters(), lr=0.1, fused=True)
        batches = PairBatches(data.sets, data.plan(0))
        seconds = []
        for step in range(TIMED + 1):
            start = time.perf_counter()
            batch = batches[step % len(batches)]
            pairs = batch["pairs"]
            vectors = module.model.pool(batch["ids"], batch["offsets"])
            matryoshka_loss(vectors[:pairs], vectors[pairs:], module.dims).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])
    finally:
        torch.set_num_threads(threads)
