"""The benchmark's table, JSON and figure."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
PASSES = ("forward", "backward", "both")


def machine(device: torch.device) -> dict[str, Any]:
    """Where the numbers come from."""
    facts: dict[str, Any] = {
        "device": device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def table(rows: list[Row], ceiling: float) -> str:
    """One line per case, pass and contender; speed-ups are over eager in the same turns."""
    head = f"{'case':28} {'pass':9} {'contender':10} {'ms':>9} {'q20':>9} {'q80':>9} {'x eager':>8}"
    lines = [f"copy ceiling {ceiling / 1e9:.1f} GB/s", f"{head} {'GB/s':>7} {'peak MB':>8}"]
    for row in rows:
        for name, stats in row["contenders"].items():
            for which in PASSES:
                s = stats[which]
                peak = "" if s["peak_bytes"] is None else f"{s['peak_bytes'] / 1e6:.1f}"
                lines.append(
                    f"{row['name']:28} {which:9} {name:10} {s['ms']:9.3f} {s['ms_q20']:9.3f} "
                    f"{s['ms_q80']:9.3f} {s['speedup']:8.2f} {s['gather_gb_s']:7.1f} {peak:>8}"
                )
        lines.append(f"{row['name']:28} {'plan':9} {'':10} {row['plan_ms']:9.3f}")
    return "\n".join(lines)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write the whole result, or nothing."""
    _atomic(path, lambda temporary: temporary.write_text(json.dumps(result, indent=1) + "\n"))


def write_figure(path: Path, rows: list[Row], title: str) -> None:
    """Draw the speed-up over eager: a panel for each pass, a group for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in rows[0]["contenders"] if name != "eager"]
    figure, axes = plt.subplots(
        len(PASSES), 1, figsize=(2 + 0.9 * len(rows), 9), sharex=True, layout="constrained"
    )
    width = 0.8 / len(names)
    for axis, which in zip(axes, PASSES, strict=True):
        for i, name in enumerate(names):
            at = [x + (i - (len(names) - 1) / 2) * width for x in range(len(rows))]
            heights = [row["contenders"][name][which]["speedup"] for row in rows]
            axis.bar(at, heights, width, label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_ylabel(f"{which}\nspeed-up over eager")
    axes[0].set_title(title)
    axes[0].legend(ncols=len(names), fontsize=8)
    axes[-1].set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=60, ha="right")

    def save(temporary: Path) -> None:
        figure.savefig(temporary, dpi=130, format="png")

    _atomic(path, save)
    plt.close(figure)


def _atomic(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
