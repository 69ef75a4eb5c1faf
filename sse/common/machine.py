"""The cores a process may use; versions, machine and commit, for the records of runs."""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path

from sse.common.version import __version__

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def versions(*packages: str) -> dict[str, str | None]:
    """{package: version or None where it is not installed}, this project first."""
    import importlib.metadata  # slow to import, and `cores` needs none

    # its own from the sources: it may run without being installed
    installed: dict[str, str | None] = {"stable-static-embedding": __version__}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def cores() -> int:
    """The cores that this process may use: its affinity mask and the CPU quotas of its cgroups."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # Rounded down: with 1.5 cores a second thread would be stopped for half of the time.
    return max(1, int(min(allowed, quota())))


def quota() -> float:
    """The cores that the cgroups (version 1 or 2) grant this process; infinity without a limit."""
    try:
        lines = OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:  # no Linux
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        root = CGROUPS / controllers
        here = root / path.lstrip("/")
        # A container may see its own group as the root, whatever its path says.
        for folder in (here, *here.parents):
            if folder.is_relative_to(root):
                least = min(least, _granted(folder, not controllers))
    return least


def _granted(folder: Path, unified: bool) -> float:
    """The cores that one cgroup grants."""
    names = ["cpu.max"] if unified else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    try:
        limit, period = " ".join((folder / name).read_text("ascii") for name in names).split()
        return math.inf if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):  # no such group here, or no controller for CPU time
        return math.inf


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
    import subprocess  # slow to import, and `cores` needs none

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
