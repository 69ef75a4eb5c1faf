"""A run's optimiser, and its learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sse.common.errors import UserError, one_of
from sse.model.static_model import StaticModel

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * min(1.0, share))),
    "linear": lambda share: max(0.0, 1 - share),
    "constant": lambda share: 1.0,
}


def check_optimizer(optimizer: str, schedule: str) -> None:
    """UserError for a name that is none."""
    if schedule not in SCHEDULES:
        raise UserError(f"`schedule` is '{schedule}': {one_of(schedule, SCHEDULES)}")
    if optimizer == "lazy_adam":
        raise UserError("`optimizer` lazy_adam has left: give adam, which gives the same weights")
    if optimizer != "adam":
        raise UserError(f"`optimizer` is '{optimizer}': give adam")


def make_optimizer(model: StaticModel, options: Any) -> AdamW:
    """Adam over the table and the norm, each at its own peak rate of `SSEModule`'s options."""
    norm_lr = options.lr if options.norm_lr is None else options.norm_lr
    parts = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr}
        for part, lr in ((model.embedding, options.lr), (model.norm, norm_lr))
    ]
    return AdamW(
        [part for part in parts if part["params"]],
        lr=options.lr,
        betas=(0.9, options.adam_beta2),
        eps=options.adam_eps,
        weight_decay=options.weight_decay,
        fused=True,
    )


def make_schedule(optimizer: AdamW, schedule: str, warmup: float, total: int) -> LambdaLR:
    """Rise to the peak over the share `warmup` of `total` steps, then fall as `schedule` says."""
    rise = math.ceil(warmup * total)
    decay = SCHEDULES[schedule]

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return decay((step - rise) / max(1, total - rise))

    return LambdaLR(optimizer, factor)
