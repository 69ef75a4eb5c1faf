"""Where a run goes, and options that no run can have."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from sse.common.errors import UserError
from sse.training import processes as distributed


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
    if config.profile:
        raise UserError("--profile has left: use --trainer.profiler simple")
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
