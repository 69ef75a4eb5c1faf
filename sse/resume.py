"""Going on with a run: its configuration, its newest whole checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from sse.errors import UserError

# Options that may differ between a run and its continuation.
FREE = ("config", "out", "resume")


def arguments_of(args: Sequence[str] | None) -> list[str]:
    """The command line; with --resume DIR, DIR/config.yaml first and the rest over it."""
    given = list(sys.argv[1:] if args is None else args)
    for i, argument in enumerate(given):
        if argument == "--resume" and i + 1 < len(given):
            return ["--config", str(_config(given[i + 1])), *given]
        if argument.startswith("--resume="):
            return ["--config", str(_config(argument.removeprefix("--resume="))), *given]
    return given


def check_resumed(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse to go on with other options than the run had, and say which differ."""
    path = _config(config.resume)
    if config.out and Path(config.out).resolve() != Path(config.resume).resolve():
        raise UserError(
            f"--out {config.out} differs from --resume {config.resume}: a resumed run stays in its "
            "folder, leave --out away"
        )
    saved = _flat(parser.parse_path(str(path)))
    now = _flat(config)
    differ = [
        f"{key}: {saved.get(key)} -> {now.get(key)}"
        for key in sorted(saved.keys() | now.keys())
        if saved.get(key) != now.get(key) and key not in FREE
    ]
    if differ:
        raise UserError(
            f"--resume {config.resume} with other options than its config.yaml has "
            f"({'; '.join(differ)}): leave them away, or start a new run with --out"
        )


def find_checkpoint(folder: str) -> str | None:
    """Path of the run's last checkpoint, checked to be whole; None if it has none yet."""
    path = Path(folder) / "checkpoints" / "last.ckpt"
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        state["state_dict"], state["optimizer_states"]
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path} is no whole checkpoint ({reason[:120]}): remove {folder} and start it again"
        ) from error
    return str(path)


def _config(folder: str) -> Path:
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"--resume {folder}: no config.yaml there; give the folder of a run")
    return path


def _flat(config: Namespace) -> dict[str, Any]:
    return {key: str(value) for key, value in vars(config.as_flat()).items()}
