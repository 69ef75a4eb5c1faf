"""The training benchmark's table and figure."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from sse.common.files import atomic_file

BASE = "sentence-transformers"
COLOURS = {
    "sse": "#0072B2", "bare loop": "#56B4E9", "eager Lightning": "#E69F00",
    "sentence-transformers": "#D55E00", "model2vec": "#009E73",
}  # fmt: skip


def table(facts: dict[str, Any]) -> str:
    """Markdown: a row a batch size, kind and system; the ratio is the median of the rounds'."""
    rows = facts["results"]
    base = {(r["batch"], r["kind"]): r for r in rows if r["system"] == BASE}
    lines = ["| batch | from | system | pairs/s | x " + BASE + " | peak MiB |", "|---" * 6 + "|"]
    for row in rows:
        head = f"| {row['batch']:,} | {row['kind']} | {row['system']} "
        if "failed" in row:
            lines.append(f"{head}| {row['failed']} | | |")
            continue
        rates, ratio = row["pairs_per_second"], ""
        peer = base.get((row["batch"], row["kind"]))
        if peer and "failed" not in peer:
            pairs = zip(rates, peer["pairs_per_second"], strict=False)
            ratio = f"{median(a / b for a, b in pairs):.2f}"
        lines.append(f"{head}| {median(rates):,.0f} | {ratio} | {median(row['peak_mib']):,.0f} |")
    return "\n".join(lines)


def plot(facts: dict[str, Any], path: Path) -> None:
    """Pairs/s from the cache, pairs/s from text, and peak memory, over the batch size."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    wanted = (
        ("cached", "pairs_per_second", "pairs/s, steps alone"),
        ("raw", "pairs_per_second", "pairs/s from raw text"),
        ("cached", "peak_mib", "peak memory of the process, MiB"),
    )
    systems = list(dict.fromkeys(row["system"] for row in facts["results"]))
    for axes, (kind, quantity, title) in zip(panels, wanted, strict=True):
        for number, system in enumerate(systems):
            own = [r for r in facts["results"] if r["system"] == system and r["kind"] == kind]
            done = [r for r in own if "failed" not in r]
            if done:
                axes.plot(
                    [r["batch"] for r in done], [median(r[quantity]) for r in done],
                    marker="osD^v"[number % 5], color=COLOURS[system], label=system,
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="batch, pairs", title=title)
        batches = sorted({r["batch"] for r in facts["results"] if r["kind"] == kind})
        axes.set_xticks(batches, [f"{batch:,}" for batch in batches], rotation=30)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    lost = [r for r in facts["results"] if "failed" in r]
    if lost:
        text = "; ".join(f"{r['system']} at {r['batch']:,}: {r['failed']}" for r in lost)
        figure.suptitle(text, fontsize=7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
