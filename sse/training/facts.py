"""What a run says of itself: the facts of its model card, and a digest of its batches."""

from __future__ import annotations

import hashlib
from typing import Any

import lightning.pytorch as L

from sse.data.batch_plan import Batch
from sse.data.datamodule import SSEDataModule
from sse.training.module import SSEModule
from sse.training.options import Options


def order_of(plan: list[Batch]) -> str:
    """A digest of which pairs come in which batch: equal digests, equal data in equal order."""
    digest = hashlib.sha256()
    for batch in plan:
        digest.update(batch.set.to_bytes(4, "little") + batch.rows.tobytes())
    return digest.hexdigest()[:16]


def card(
    options: Options,
    data: SSEDataModule,
    model: SSEModule,
    trainer: L.Trainer,
    scores: dict[str, Any],
) -> dict[str, Any]:
    """What the model card says of a run with these `scores`: {model: its metrics}."""
    chosen = {f"model.{k}": v for k, v in model.hparams.items() if v is not None}
    chosen |= {
        "data.batch_size": data.hparams.batch_size,
        "epochs": trainer.max_epochs,
        "precision": trainer.precision,
        "accumulation": trainer.accumulate_grad_batches,
        "EMA": options.config.ema,
    }
    return {
        "metrics": scores.get("trained", {}),
        "baselines": {
            name: scores[name] for name in ("untrained", "BM25", "hybrid") if name in scores
        },
        "data": [
            f"{s.name}: {len(rows):,} pairs"
            for s, rows in zip(data.sets, data.train_rows, strict=True)
        ],
        "hyperparameters": chosen,
    }
