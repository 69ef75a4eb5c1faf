"""A sweep's report: one page of HTML with a summary, tables and figures, and nothing from outside.

The summary comes first. Figures carry their finding as a title. Those of training are left out
where nothing was measured during it, those of the gate where no level has one.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from sse.analysis import comparison_table, findings, quality_figures, saturation_figures
from sse.analysis.study import SIZE, Study
from sse.common.files import atomic_file

Draw = Callable[[Study], Figure]
QUALITY: dict[str, Draw] = {
    "By number of pairs": quality_figures.quality_by_size,
    "Differences, paired by seed and query": quality_figures.forest,
    "By dimension": quality_figures.quality_by_dim,
    "What is kept": quality_figures.truncation_cost,
}
TRAINING: dict[str, Draw] = {
    "Variance, dimension by dimension": quality_figures.variance_by_dim,
    "Dimensions in use": quality_figures.ranks,
    "The gradient before and after the norm": saturation_figures.gradients,
    "How the table's rows grow": saturation_figures.row_growth,
}
GATES: dict[str, Draw] = {
    "Where z = αx + bias lies": saturation_figures.z_over_steps,
    "How much lies beyond the linear part": saturation_figures.shares,
    "The gate's slope, dimension by dimension": saturation_figures.gate_slopes,
    "Where α goes": saturation_figures.alphas,
}
NOTE = (
    "p is Clark's min F' over seeds and queries, and Holm corrects it for the number of rows. "
    "d_z is the mean difference over its standard deviation, among seeds and among queries. "
    "Better, worse and equal are shares of the queries."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h2 { margin-top: 2em; } img { width: 100%; } .summary { font-size: 17px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; margin: 1em 0; }
th, td { padding: 3px 6px; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
footer { color: #555; font-size: 12px; margin-top: 3em; }
@media print {
  body { margin: 0; max-width: none; } table { font-size: 8px; } th, td { padding: 2px 3px; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
}
"""


def write_report(study: Study, path: str | Path, title: str) -> Path:
    """Write the page."""
    with atomic_file(path) as temporary:
        temporary.write_text(page(study, title), "utf-8")
    return Path(path)


def page(study: Study, title: str) -> str:
    """The whole page."""
    body = "\n".join(_parts(study, title))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def drawn(study: Study) -> dict[str, Draw]:
    """The figures that the study has values for."""
    chosen = dict(QUALITY)
    if len(study.dims) == 1:
        del chosen["By dimension"], chosen["What is kept"]
    if len(study.measured):
        chosen |= TRAINING
        if findings.gated(study):
            chosen |= GATES
    return chosen


def _parts(study: Study, title: str) -> Iterator[str]:
    yield f"<h1>{html.escape(title)}</h1>"
    yield f'<p class="summary">{html.escape(" ".join(findings.summary(study)))}</p>'
    sizes = study.family("size").rename(columns={SIZE: "pairs"})
    scores = study.by_size.rename(columns={SIZE: "pairs"})
    yield html_table(comparison_table.to_markdown(scores, sizes, by=study.by, within="pairs"))
    for heading, draw in drawn(study).items():
        yield f"<h2>{html.escape(heading)}</h2>\n{_picture(draw(study))}"
    if len(study.dims) > 1:
        yield "<h2>Scores at each dimension</h2>"
        yield html_table(
            comparison_table.to_markdown(study.by_dim, study.family("dim"), by=study.by)
        )
    yield "<h2>Every number behind the differences</h2>"
    yield html_table(comparison_table.details(sizes, ["pairs"]))
    yield f"<footer>{html.escape(NOTE)}<br>{html.escape(study.basis)}</footer>"


def _picture(figure: Figure) -> str:
    """The figure within the page, with its title for those who cannot see it."""
    place, title = io.BytesIO(), " ".join(figure.get_suptitle().split())
    figure.savefig(place, format="png", dpi=140)
    data = base64.b64encode(place.getvalue()).decode()
    return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'


def html_table(markdown: str) -> str:
    r"""A caption, if there is one, and a table of `comparison_table` as HTML.

    >>> html_table("| a | b |\n| --- | ---: |\n| x | **1** |")
    '<table><tr><th>a</th><th>b</th></tr><tr><td>x</td><td><b>1</b></td></tr></table>'
    """
    caption, mark, rest = markdown.rpartition("\n\n")
    lines = (rest if mark else markdown).splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    made = [_row(rows[0], "th"), *(_row(row, "td") for row in rows[2:])]
    above = f"<p>{_text(caption)}</p>\n" if caption else ""
    return f"{above}<table>{''.join(made)}</table>"


def _row(cells: list[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _text(markdown: str) -> str:
    """Markdown's bold as HTML; all else is text."""
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(markdown))
