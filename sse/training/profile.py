"""Where a training step's time goes, and how near its memory-bound stages come to the memory.

- Lightning announces each of its actions to a profiler; `Stages` books the time between two
  announcements to the innermost stage, so the shares add up to 100% and nothing is counted twice.
  Without --profile Lightning's own does nothing, and so costs nothing.
- Bytes are those a stage cannot avoid if no row stays in a cache: frequent tokens do stay, so the
  pooling may pass the ceiling. The ceiling is the better of a copy and a triad over buffers larger
  than the caches, in this process, with its threads (McCalpin's STREAM).
- On a GPU every change of stage waits for the device: the shares are true, the total is longer.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.profilers import Profiler

from sse.common.files import atomic_file, write_json
from sse.data.datamodule import PairBatches, SSEDataModule
from sse.training.module import SSEModule

EPOCH = "run_training_epoch"
STAGES = (
    "data", "forward", "loss", "backward", "optimiser", "callbacks", "evaluation", "other",
)  # fmt: skip
# The first that an action's name holds; others belong to the stage they are part of.
RULES = (
    ("save_checkpoint", "callbacks"),
    ("[Callback]", "callbacks"),
    ("val_next", "evaluation"),
    ("validation", "evaluation"),
    ("train_dataloader", "data"),
    ("batch_to_device", "data"),
    ("training_step", "forward"),
    ("loss", "loss"),
    ("backward", "backward"),
    ("optimizer_step", "optimiser"),
    ("zero_grad", "optimiser"),
    ("lr_scheduler_step", "optimiser"),
    (EPOCH, "other"),
)
BUFFER = 2**25  # float32s of one buffer of the ceiling: 128 MB
SAMPLE = 20  # batches whose tokens are counted


class Stages(Profiler):
    """Seconds of each stage while batches are trained on, set-up and start-up left out.

    Attributes:
        seconds: by stage.
        actions: by Lightning's name of the action, for those who want to look closer.
        calls: by action.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.actions: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._stack: list[tuple[str, str]] = []  # action and stage
        self._since = 0.0
        self._evaluating = False

    def start(self, action_name: str) -> None:
        """An action begins."""
        self._book()
        if "on_validation_start" in action_name:
            self._evaluating = True
        self._stack.append((action_name, self._belongs(action_name)))
        if self._training():
            self.calls[action_name] += 1

    def stop(self, action_name: str) -> None:
        """It ends; one that another's error cut short ends with it."""
        self._book()
        while self._stack and self._stack.pop()[0] != action_name:
            pass
        if "[LightningModule]" in action_name and "on_validation_end" in action_name:
            self._evaluating = False

    def _belongs(self, action: str) -> str:
        outer = self._stack[-1][1] if self._stack else "other"
        stage = next((stage for name, stage in RULES if name in action), outer)
        if self._evaluating and stage != "callbacks":
            return "evaluation"
        return stage

    def _training(self) -> bool:
        return any(action == EPOCH for action, _ in self._stack)

    def _book(self) -> None:
        if torch.cuda.is_initialized():  # the run is on a GPU
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._training():
            action, stage = self._stack[-1]
            if action == EPOCH and self._evaluating:
                stage = "evaluation"
            self.seconds[stage] += now - self._since
            self.actions[action] += now - self._since
        self._since = now


@dataclass(frozen=True)
class Traffic:
    """What the memory-bound stages of a step must move, in bytes.

    With N tokens in B texts that hit U of V rows of D numbers: pooling reads N rows and writes the
    mean and the vector of each text; its backward pass reads a text's share for each token and
    writes the table's gradient; Adam reads four tables and writes three (the lazy one 13 times U
    rows: it brings them up to date first).
    """

    forward: float
    backward: float
    optimiser: float

    @classmethod
    def of(cls, module: SSEModule, tokens: float, texts: float, hit: float) -> Traffic:
        """Of a mean batch."""
        table = module.model.embedding.weight
        rows, row = len(table), table.shape[1] * table.element_size()
        lazy = module.hparams.optimizer == "lazy_adam"
        return cls(
            forward=(tokens + 2 * texts) * row,
            backward=(tokens + (rows if 8 * hit > rows else hit)) * row,
            optimiser=(13 * hit if lazy else 7 * rows) * row,
        )


def ceiling(device: torch.device, size: int = BUFFER, repeats: int = 5) -> dict[str, float]:
    """Bytes per second of a copy and of a triad a = b + 3 c, each the best of `repeats`."""
    a, b, c = (torch.ones(size, device=device) for _ in range(3))
    best = {"copy": 0.0, "triad": 0.0}
    for _ in range(repeats):
        for name, buffers in (("copy", 2), ("triad", 3)):
            start = _now(device)
            if name == "copy":
                a.copy_(b)
            else:
                torch.add(b, c, alpha=3, out=a)
            rate = buffers * a.nbytes / (_now(device) - start)
            best[name] = max(best[name], rate)
    return best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(trainer: L.Trainer, module: SSEModule, folder: Path) -> str:
    """Write profile.json and profile.png into `folder`; the table to print."""
    stages = trainer.profiler
    assert isinstance(stages, Stages)
    total = sum(stages.seconds.values())
    steps = stages.calls["run_training_batch"]
    updates = stages.calls[f"[LightningModule]{type(module).__name__}.optimizer_step"]
    traffic = Traffic.of(module, *_mean_batch(trainer.datamodule, trainer.world_size))
    device = trainer.strategy.root_device
    most = ceiling(device)
    rates = {}
    for stage, count in (("forward", steps), ("backward", steps), ("optimiser", updates)):
        # Of several processes each holds, and moves, its columns.
        moved = getattr(traffic, stage) * count / trainer.world_size
        seconds = stages.seconds[stage]
        rates[stage] = moved / seconds if seconds else 0.0
    facts = {
        "seconds": {name: round(value, 4) for name, value in stages.seconds.items()},
        "share": {name: value / total for name, value in stages.seconds.items()},
        "steps": steps,
        "bytes_a_step": asdict(traffic),
        "bytes_per_second": rates,
        "ceiling_bytes_per_second": most,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "actions": {
            name: {"seconds": round(seconds, 5), "calls": stages.calls[name]}
            for name, seconds in sorted(stages.actions.items(), key=lambda item: -item[1])
        },
    }
    write_json(folder / "profile.json", facts)
    with atomic_file(folder / "profile.png") as temporary:
        plot(facts, temporary)
    return table(facts)


def _mean_batch(data: SSEDataModule, world: int) -> tuple[float, float, float]:
    """Tokens, texts and different tokens of a batch, over the first few of the first epoch."""
    plan = data.plan(0, world)[:SAMPLE]
    batches = PairBatches(data.sets, plan)
    counts = [
        (len(batch["ids"]), len(batch["offsets"]) - 1, len(batch["ids"].unique()))
        for batch in (batches[step] for step in range(len(plan)))
    ]
    tokens, texts, hit = np.mean(counts, axis=0)
    return float(tokens), float(texts), float(hit)


def table(facts: dict[str, Any]) -> str:
    """Stage, milliseconds a step, share, bytes per second and their share of the ceiling."""
    most = max(facts["ceiling_bytes_per_second"].values())
    lines = [f"{'stage':12}{'ms a step':>10}{'share':>8}{'GB/s':>8}{'of ceiling':>12}"]
    for stage, seconds in facts["seconds"].items():
        line = f"{stage:12}{1e3 * seconds / facts['steps']:>10.2f}{facts['share'][stage]:>8.1%}"
        if rate := facts["bytes_per_second"].get(stage):
            line += f"{rate / 1e9:>8.2f}{rate / most:>12.0%}"
        lines.append(line)
    copy, triad = (facts["ceiling_bytes_per_second"][name] / 1e9 for name in ("copy", "triad"))
    threads = facts["threads"]
    lines.append(
        f"ceiling: copy {copy:.2f} GB/s, triad {triad:.2f} GB/s, {facts['device']}, "
        f"{threads} thread{'s' * (threads > 1)}; {facts['steps']:,} steps"
    )
    return "\n".join(lines)


def plot(facts: dict[str, Any], path: Path) -> None:
    """Shares as one bar each, and the memory-bound stages' bytes per second under the ceiling."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.4), width_ratios=(3, 2), layout="constrained"
    )
    shares = facts["share"]
    bars = left.barh(list(shares), [100 * share for share in shares.values()], color="#0072B2")
    left.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3)
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set_xlabel("share of training time, %")
    rates = facts["bytes_per_second"]
    bars = right.bar(list(rates), [rate / 1e9 for rate in rates.values()], color="#009E73")
    right.bar_label(bars, [f"{rate / 1e9:.1f}" for rate in rates.values()])
    for (name, rate), style in zip(
        facts["ceiling_bytes_per_second"].items(), ("--", ":"), strict=True
    ):
        right.axhline(rate / 1e9, color="#D55E00", linestyle=style, label=f"{name}, measured")
    right.set_ylabel("GB/s")
    right.margins(y=0.15)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)
