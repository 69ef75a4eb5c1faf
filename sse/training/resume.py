"""A run's folder and going on with it: its configuration, its newest whole checkpoint."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from sse.common import machine
from sse.common.errors import UserError
from sse.common.files import expanded
from sse.common.run_lock import hold
from sse.training.processes import say, world

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
FACTS = "run"  # the checkpoint's key for `facts`

# Options that may differ between a run and its continuation.
FREE = ("config", "out", "profile", "resume", "checkpoint_minutes")


def run_folder(out: str | None, resume: str | None) -> Path:
    """The run's folder: --resume's, --out if it holds no run yet, else the next free runs/N.

    This process holds its lock from then on; UserError where a living run has it.
    """
    if resume:
        hold(Path(resume), say)
        return Path(resume)
    if out is None:
        folder = next_folder()
        hold(folder, say)
        return folder
    folder = expanded(out)
    if folder.is_file():
        raise UserError(f"--out {folder} is a file: give a folder")
    hold(folder, say)
    check_unused(folder)
    return folder


def next_folder() -> Path:
    """The first free one of runs/1, runs/2, ..."""
    number = 1
    while Path("runs", str(number)).exists():
        number += 1
    return Path("runs", str(number))


def check_unused(folder: Path) -> None:
    """Raise UserError where a folder holds a run."""
    if (folder / "metrics.json").exists() or any(folder.glob("checkpoints/*.ckpt")):
        raise UserError(
            f"--out {folder} already holds a run: give another folder, go on with "
            f"--resume {folder}, or remove it"
        )


def log_version(folder: Path) -> str:
    """Empty at first, then resumed-1, ...: Lightning's CSV logger clears a folder it finds."""
    logs = folder / "logs"
    if not (logs / "metrics.csv").exists():
        return ""
    return f"resumed-{1 + sum(1 for _ in logs.glob('resumed-*'))}"


def arguments_of(args: Sequence[str] | None) -> list[str]:
    """The command line; with --resume DIR, DIR/config.yaml first and the rest over it."""
    arguments = list(sys.argv[1:] if args is None else args)
    for i, argument in enumerate(arguments):
        if argument == "--resume" and i + 1 < len(arguments):
            return [*_saved(arguments[i + 1]), *arguments]
        if argument.startswith("--resume="):
            return [*_saved(argument.removeprefix("--resume=")), *arguments]
    return arguments


def _saved(folder: str) -> list[str]:
    """The options of the run in `folder`, as a command line."""
    path = _config(folder)
    # Older files leave out what is null; this option was null by default then.
    older = [] if b"norm_lr:" in path.read_bytes() else ["--model.norm_lr=null"]
    return ["--config", str(path), *older]


def check_resumed(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse to go on with other options than the run had, and say which differ."""
    if config.out and Path(config.out).resolve() != Path(config.resume).resolve():
        raise UserError(
            f"--out {config.out} differs from --resume {config.resume}: a resumed run stays in its "
            "folder, leave --out away"
        )
    saved = flat(parser.parse_args(_saved(config.resume)))
    now = flat(config)
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
    """Path of the run's newest whole checkpoint; None if it has none yet.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    faults: list[tuple[Path, str]] = []
    for name in (LAST, PREVIOUS):
        path = Path(folder) / "checkpoints" / name
        if path.exists():
            fault = _fault(path)
            if fault is None:
                for passed, why in faults:
                    say(f"{passed} is no whole checkpoint ({why}): going on from {path.name}")
                return str(path)
            faults.append((path, fault))
    if faults:
        reasons = "; ".join(f"{path.name}: {why}" for path, why in faults)
        raise UserError(
            f"{faults[0][0]} is no whole checkpoint, nor is any before it ({reasons}): "
            f"remove {folder} and start it again"
        )
    return None


def check_checkpoint(path: str, data: dict[str, Any]) -> None:
    """Compare what a checkpoint was made of with `data`, the state of this run's SSEDataModule.

    Other versions are named only: with them a continuation may differ in rounding.

    Raises:
        UserError: other data, or another number of processes.
    """
    state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    differ = _differing(state.get("SSEDataModule", {}), data)
    if differ:
        raise UserError(
            f"--resume with other data than {path} was trained on ({'; '.join(differ)}): restore "
            "them, or start a new run with --out"
        )
    then, now = state.get(FACTS, {}), facts()
    if then and then["processes"] != now["processes"]:
        raise UserError(
            f"--resume with {now['processes']} processes of a run of {then['processes']}: its "
            f"batches are as many times data.batch_size, so start {then['processes']} again"
        )
    differ = _differing(then, now)
    if differ:
        say(f"resuming elsewhere ({'; '.join(differ)}): what follows may differ in rounding")


def facts() -> dict[str, str | int | None]:
    """What decides the last bit of a result, besides options and data."""
    here = machine.machine()
    return {
        **machine.versions("torch", "lightning", "numpy"),
        **{name: here[name] for name in ("machine", "device")},
        "processes": world(),
    }


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint; None for a whole one.

    torch.load does not compare the checksums that torch.save writes, so flipped bits would pass.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            return f"{damaged} is damaged"
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        state["state_dict"], state["optimizer_states"]
    except Exception as error:
        return str(error).strip().split("\n")[0][:120] or type(error).__name__
    return None


def _differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`name: then -> now` of what differs; what an older checkpoint does not know is left out."""
    return [f"{key}: {then[key]} -> {now.get(key)}" for key in then if then[key] != now.get(key)]


def _config(folder: str) -> Path:
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"--resume {folder}: no config.yaml there; give the folder of a run")
    return path


def flat(config: Namespace) -> dict[str, str]:
    """Every option and its value as text."""
    return {key: str(value) for key, value in vars(config.as_flat()).items()}
