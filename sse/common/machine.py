"""Versions, machine and commit, for the records of runs and benchmarks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path


def versions(*packages: str) -> dict[str, str | None]:
    """{package: version or None where it is not installed}, this project first."""
    installed: dict[str, str | None] = {}
    for name in ("stable-static-embedding", *packages):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def machine() -> dict[str, str | int | None]:
    """Python, processor and cores; torch's threads and device where torch is loaded."""
    facts: dict[str, str | int | None] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    if torch := sys.modules.get("torch"):  # not imported here: serving runs without torch
        facts["threads"] = torch.get_num_threads()
        facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return facts


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it; "" outside a checkout."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip()[:12] + ("+" if changes.stdout.strip() else "")


def memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
