"""A run's optimiser, and its learning rate by step."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sse.common.errors import UserError
from sse.model.model import SSE
from sse.training.lazy_adam import LazyAdam
from sse.training.processes import everywhere, world

OPTIMIZERS = ("adam", "lazy_adam")
SCHEDULES = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * min(1.0, share))),
    "linear": lambda share: max(0.0, 1 - share),
    "constant": lambda share: 1.0,
}


def check_optimizer(optimizer: str, schedule: str, warmup: float) -> None:
    """UserError for a name that is none, or a warmup that is no share."""
    if schedule not in SCHEDULES:
        raise UserError(
            f"unknown schedule '{schedule}' (--model.schedule): choose one of "
            f"{', '.join(SCHEDULES)}"
        )
    if optimizer not in OPTIMIZERS:
        raise UserError(
            f"unknown optimizer '{optimizer}' (--model.optimizer): choose one of "
            f"{', '.join(OPTIMIZERS)}"
        )
    if not 0 <= warmup <= 1:
        raise UserError(f"warmup is {warmup} (--model.warmup): give a share from 0 to 1")


def make_optimizer(model: SSE, options: Any) -> AdamW:
    """Adam over the table and the norm, each at its own peak rate.

    Args:
        model: what is trained.
        options: `SSEModule`'s hyper-parameters.

    Raises:
        UserError: lazy Adam where it would not be exact.
    """
    norm_lr = options.lr if options.norm_lr is None else options.norm_lr
    parts = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr}
        for part, lr in ((model.embedding, options.lr), (model.norm, norm_lr))
    ]
    groups = [part for part in parts if part["params"]]
    given = {
        "lr": options.lr,
        "betas": (0.9, options.adam_beta2),
        "eps": options.adam_eps,
        "weight_decay": options.weight_decay,
    }
    if options.optimizer == "adam":
        return AdamW(groups, **given, fused=True)
    if world() > 1:
        raise everywhere(
            UserError("--model.optimizer lazy_adam is exact on one process only: give adam")
        )
    try:
        return LazyAdam(groups, model.embedding.weight, **given)
    except ValueError as error:
        raise UserError(f"--model.optimizer lazy_adam: {error}; or use adam") from error


def make_schedule(optimizer: AdamW, schedule: str, warmup: float, total: int) -> LambdaLR:
    """Rise to the peak over the share `warmup` of `total` steps, then fall as `schedule` says."""
    rise = math.ceil(warmup * total)
    decay = SCHEDULES[schedule]

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return decay((step - rise) / max(1, total - rise))

    return LambdaLR(optimizer, factor)
