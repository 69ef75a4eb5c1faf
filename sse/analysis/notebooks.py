"""The command `python experiments/report.py`: run the notebooks, make one HTML file of them.

The file is self-contained: figures are embedded, and there is no script, style sheet, font or link
from anywhere else. It leaves out the code, which stands in the notebooks.
"""

from __future__ import annotations

import argparse
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sse.analysis.study import DEFAULT, VARIABLE
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import atomic_file

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("01_gradient_saturation", "02_ablation", "03_matryoshka")
SECONDS = 600  # for one cell; the bootstrap over a large sweep takes tens of seconds

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stable Static Embedding: ablation report</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; }}
h1 {{ border-top: 1px solid #ccc; padding-top: 1em; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto;
        font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2em 0.7em; border-bottom: 1px solid #ddd; white-space: nowrap; }}
.anchor-link, .prompt {{ display: none; }}
</style>
</head>
<body>
<p>Made from {source} by the notebooks: {names}.</p>
{body}
</body>
</html>
"""


def execute(name: str, results: str | Path) -> Any:
    """Run one notebook over the results of a sweep; the notebook with its outputs.

    Args:
        name: one of `NOTEBOOKS`.
        results: folder of the sweep or of an extract.

    Raises:
        UserError: a cell raised one; or what runs notebooks is not installed.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'stable-static-embedding[dev]'"
        ) from error
    folder = ROOT / "notebooks"
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=ERROR"],  # it warns of its own use of local ports
    )
    environment = os.environ | {VARIABLE: str(Path(results).resolve())}
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(f"{name}.ipynb: {error.evalue}") from None
        raise
    return notebook


def save(notebook: Any, path: Path) -> None:
    """Write an executed notebook, without the times of its run, so that only changes differ."""
    import nbformat

    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    with atomic_file(path) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", "utf-8")


def to_html(notebooks: Sequence[Any], source: str) -> str:
    """Executed notebooks as one page.

    Args:
        notebooks: what `execute` returned.
        source: what they were run over, for the page's first line.
    """
    from nbconvert import HTMLExporter

    # The other templates load MathJax, require.js and mermaid from the network.
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    body = "\n".join(exporter.from_notebook_node(notebook)[0] for notebook in notebooks)
    return _PAGE.format(source=html.escape(source), names=", ".join(NOTEBOOKS), body=body)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = Parser(prog="report.py", description=__doc__.split("\n\n")[0])
    found.add_argument("--results", help=f"folder of a sweep (default: ${VARIABLE}, or {DEFAULT})")
    found.add_argument("--out", default="runs/report.html", help="default: runs/report.html")
    found.add_argument("--save", action="store_true", help="also save the notebooks as executed")
    return found


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    given = parser().parse_args(arguments)
    results = given.results or os.environ.get(VARIABLE) or ROOT / DEFAULT
    made = []
    for name in NOTEBOOKS:
        print(f"{name} ...", flush=True)  # noqa: T201
        made.append(execute(name, results))
    if given.save:
        for name, notebook in zip(NOTEBOOKS, made, strict=True):
            save(notebook, ROOT / "notebooks" / f"{name}.ipynb")
    with atomic_file(given.out) as temporary:
        temporary.write_text(to_html(made, Path(results).name), "utf-8")
    print(f"report: {given.out}")  # noqa: T201
