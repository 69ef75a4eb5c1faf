"""What every benchmark shares: turns, fresh processes, tables, figures, and what ran.

Systems take turns, in another order each round, so that a machine's other load falls on all alike.
A figure is the median over rounds; a ratio is the median of each round's ratio.
"""

from __future__ import annotations

import argparse
import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sse.common import machine
from sse.common.arguments import Parser
from sse.common.errors import UserError
from sse.common.files import atomic_file, write_json

PACKAGES = ("torch", "lightning", "sentence-transformers", "tokenizers", "nanotoken", "model2vec",
            "laghu", "laghu-rs", "numpy", "faiss-cpu", "usearch", "triton")  # fmt: skip
Rounds = dict[str, list[float]]


def parser(name: str, text: str | None) -> Parser:
    """The command line of `python -m experiments.benchmarks.NAME`, with what all have in common."""
    made = Parser(prog=f"python -m experiments.benchmarks.{name}".rstrip("."), description=text)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--quick", action="store_true", help="the smallest form, to see that it runs")
    made.add_argument("--busy", action="store_true", help="keep the last core busy meanwhile")
    made.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    return made


def parse(made: Parser, words: list[str] | None, quick: dict[str, Any], *least: str) -> Any:
    """The options; --quick replaces what was not given. `least` names those of at least 1."""
    if "--quick" in (sys.argv[1:] if words is None else words):
        made.set_defaults(**quick)
    args = made.parse_args(words)
    for name in least:
        values = getattr(args, name)
        if min(values if isinstance(values, (list, tuple)) else [values], default=1) < 1:
            raise UserError(f"--{name.replace('_', '-')}: give at least 1")
    if args.busy:
        neighbour()
    return args


BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


def neighbour() -> subprocess.Popen[bytes]:
    """Another process, which keeps the last core busy until this one ends."""
    core = max(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(core)])
    atexit.register(process.kill)
    return process


def say(line: str) -> None:
    """Progress, apart from the tables."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def what_ran() -> dict[str, Any]:
    """Command, machine, load, versions and commit."""
    return {
        "command": " ".join(
            [f"python -m experiments.benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "machine": {**machine.machine(), "load": os.getloadavg()[0]},
        "versions": machine.versions(*PACKAGES),
        "commit": machine.commit(),
    }


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(calls: dict[str, Callable[[], float]], rounds: int, warmup: int = 1) -> Rounds:
    """What each call returns, one value per round; the first `warmup` rounds do not count."""
    out: Rounds = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + warmup):
        place = number % len(names)
        for name in names[place:] + names[:place]:
            value = calls[name]()
            if number >= warmup:
                out[name].append(value)
    return out


def ratio(of: Sequence[float], base: Sequence[float]) -> float:
    """The median over rounds of each round's ratio."""
    return median(a / b for a, b in zip(of, base, strict=False))


def fresh(arguments: list[Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"} | environment,
    )


def resident(field: str) -> int:
    """Bytes by /proc/self/status: VmRSS is now, VmHWM the peak.

    Not ru_maxrss, which begins with what the parent process held.
    """
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table whose first column stands left and whose others stand right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def finish(results: dict[str, Any], text: str, path: Path | None) -> None:
    """Print the table; write the JSON if wanted."""
    print(text)
    if path:
        write_json(path, results)
        say(f"written: {path}")


def figure(path: Path, panels: dict[str, dict[str, dict[str, float]]], log: bool = False) -> None:
    """A panel per title, a group per name on the axis, a bar per series.

    A logarithmic axis has dots: the length of a bar would mean nothing there.

    Args:
        path: of the PNG.
        panels: {title: {series: {name: value}}}.
        log: logarithmic axis.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(n for p in panels.values() for s in p.values() for n in s))
    series = list(dict.fromkeys(s for panel in panels.values() for s in panel))
    height = 1.5 + 0.2 * len(names) * max(len(series), 2)
    drawn = Figure(figsize=(4 + 4 * len(panels), height), layout="constrained")
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    width = 0.8 / len(series)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for number, one in enumerate(series):
            own = panel.get(one, {})
            places = [names.index(n) + (number - (len(series) - 1) / 2) * width for n in own]
            values = list(own.values())
            if log:
                axis.plot(values, places, "o", label=one, color=f"C{number}")
            else:
                axis.barh(places, values, width, label=one, color=f"C{number}")
            for value, place in zip(values, places, strict=True):
                text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                axis.annotate(text, (value, place), (5, 0), textcoords="offset points",
                              va="center", fontsize=7)  # fmt: skip
        axis.set(title=title, xscale="log" if log else "linear")
        axis.set_yticks(range(len(names)), names)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    if len(series) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=130)
    say(f"written: {path}")
