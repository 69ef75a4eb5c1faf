"""The notebooks and the report run on a real, tiny sweep; figures can be read."""

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sse.analysis import findings, saturation_figures
from sse.analysis import quality_figures as figures
from sse.analysis.figures import style
from sse.analysis.report import page
from sse.analysis.study import read_study, write_extract
from sse.analysis.study import run as extract
from sse.cli.main import main
from sse.common.errors import UserError
from sse.sweeps.grid import read_sweep
from sse.sweeps.results import collect, read_results
from sse.sweeps.trials import run_local
from tests.helpers.samples import sentences

pytestmark = pytest.mark.slow  # a sweep, and a Python process a notebook

FIGURES = [
    saturation_figures.z_over_steps,
    saturation_figures.shares,
    saturation_figures.gate_slopes,
    saturation_figures.gradients,
    saturation_figures.alphas,
    saturation_figures.row_growth,
    figures.quality_by_size,
    figures.forest,
    figures.quality_by_dim,
    figures.truncation_cost,
    figures.variance_by_dim,
    figures.ranks,
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A sweep's folder: two norms, two seeds, 300 pairs, 32 and 48 dimensions."""
    root = tmp_path_factory.mktemp("sweep")
    pairs = root / "pairs.jsonl"
    texts = sentences(300, words=12, seed=5)  # every second question is short
    rows = ({"anchor": t[: 8 + 40 * (i % 2)], "positive": t[::-1]} for i, t in enumerate(texts))
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "data.paths": str(pairs),
        "data.cache": str(root / "cache"),
        "data.vocab_size": 400,
        "data.batch_size": 32,
        "model.dim": 48,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
    }
    config = root / "sweep.yaml"  # JSON is YAML
    grid = {"model.norm": ["dyt", "none"], "seed_everything": [0, 1]}
    config.write_text(json.dumps({"options": options, "grid": grid}))
    for outcome in run_local(read_sweep(str(config)), root, jobs=2):
        assert outcome.facts, outcome.error
    collect(root)
    return root


@pytest.fixture(scope="module")
def study(out):
    return read_study(out)


NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def pages(results, target, *notebooks):
    """The notebooks as HTML."""
    command = [sys.executable, "-m", "nbconvert", "--execute", "--no-input", "--to", "html"]
    command += ["--HTMLExporter.mathjax_url=", "--HTMLExporter.require_js_url="]
    command += ["--output-dir", str(target), *map(str, notebooks)]
    environment = os.environ | {"SSE_RESULTS": str(results)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_notebooks_run_and_make_pages_that_need_no_network(out, tmp_path):
    done = pages(out, tmp_path, *sorted(NOTEBOOKS.glob("*.ipynb")))
    assert done.returncode == 0, done.stderr
    made = {path.stem: path.read_text() for path in tmp_path.glob("*.html")}
    assert len(made) == 3
    for text in made.values():
        assert "held-out pairs, 2 seeds; pairs: " in text and "import read_study" not in text
        assert not re.search(r'(src|href)="(?!#|data:|")|<link|@import', text)
        assert not re.search(r"<div[^>]*jupyter\.stderr", text), "no warnings"
    pictures = sum(text.count('src="data:image/png;base64,') for text in made.values())
    assert pictures == len(FIGURES) + 1, "z_over_steps of queries and of documents"


def test_the_report_is_one_page_that_begins_with_a_summary(out, study, tmp_path, capsys):
    place = tmp_path / "report.html"
    assert main(["report", str(out), "--out", str(place)]) == 0
    assert capsys.readouterr().out == f"report: {place}\n"
    text = place.read_text()
    assert not re.search(r'(src|href)="(?!#|data:|")|<link|@import', text)
    first = text.index('<p class="summary">4 trainings compare 2 levels of model.norm (none, dyt)')
    assert first < text.index("<table>") < text.index("<img")
    alts = re.findall('<img alt="(.*?)"', text)
    titles = [" ".join(draw(study).get_suptitle().split()) for draw in FIGURES]
    assert len(alts) == len(FIGURES) and {html.escape(title) for title in titles} == set(alts)


def test_a_summary_says_what_was_run_on_what_and_what_came_out(study):
    run, data, outcome = findings.summary(study)
    assert run.endswith("with 2 seeds each.")
    assert re.fullmatch(r"They see [\d,]+ pairs of .*pairs.jsonl.* for \d+ steps; .*", data)
    best = study.by_dim[study.by_dim["dim"] == 48].sort_values("mean").iloc[-1]
    assert f"With {study.sizes[0]:,} pairs and 48 dimensions {best['model.norm']}" in outcome


def test_short_runs_are_measured_ten_times(study):
    for _, rows in study.measured.groupby("trial"):
        assert rows["step"].nunique() >= 10
        assert rows["step"].max() < 125


def test_one_data_size_is_a_row_per_level_and_no_curve(study):
    (axes,) = figures.quality_by_size(study).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == study.levels
    assert axes.get_xscale() != "log"


def test_a_finding_names_what_lies_beyond_noise_and_where(study):
    rows = pd.DataFrame({
        "family": "size", "level": ["dyt", "dyt", "gain", "gain"], "size": [10, 2000] * 2,
        "difference": [-0.2, 0.0, -0.1, 0.3], "noise": [False, True, False, False], "n": 2,
    })  # fmt: skip
    made = replace(study, differences=rows, levels=["none", "dyt", "gain"])
    assert findings.by_size(made) == (
        "dyt and gain score lower than none with 10 pairs and "
        "gain scores higher than none with 2,000 pairs; all else is within noise"
    )
    assert findings.largest(made).endswith("+0.3000 (beyond noise): gain with 2,000 pairs")
    made = replace(made, differences=rows.assign(noise=True))
    assert findings.by_size(made).endswith("by more than noise at any number of pairs")
    made = replace(made, differences=rows.assign(n=1))
    assert findings.by_size(made) == "With one seed no difference can be told from noise"


def test_a_sweep_without_gates_or_diagnostics_has_a_report_of_the_rest(study):
    ungated = study.measured[~study.measured["quantity"].str.startswith("gate_slope")]
    assert page(replace(study, measured=ungated), "t").count("<img") == len(FIGURES) - 4
    unmeasured = page(replace(study, measured=study.measured.iloc[:0]), "t")
    assert unmeasured.count("<img") == 4


def test_a_missing_folder_names_the_command_that_mends_it(tmp_path):
    done = pages(tmp_path / "none", tmp_path, NOTEBOOKS / "02_ablation.ipynb")
    assert done.returncode and "experiments/sweep.py" in done.stderr
    assert not list(tmp_path.glob("*.html"))


def test_a_users_mistake_is_one_line_in_a_notebook():
    assert UserError("no such thing")._render_traceback_() == ["error: no such thing"]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
def test_every_figure_names_its_axes_and_draws_finite_values(draw, study, tmp_path):
    figure = draw(study)
    figure.savefig(tmp_path / "figure.png", dpi=40)  # constrained layout, glyphs, log of nothing
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert shown
    for axes in shown:
        spec = axes.get_subplotspec()
        x = axes.get_xlabel() or figure.get_supxlabel() or not spec.is_last_row()
        y = axes.get_ylabel() or figure.get_supylabel() or not spec.is_first_col()
        named = [t.get_text() for t in axes.get_yticklabels()]
        assert x and (y or "none" in named or "dyt" in named)
        for line in axes.lines:
            assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any()


def test_figures_tell_levels_apart():
    from types import SimpleNamespace

    from sse.model.norm_forms import NORM_FORMS

    levels = SimpleNamespace(levels=list(NORM_FORMS))
    hues = {
        (look["color"], str(look["linestyle"]))
        for look in map(lambda v: style(levels, v), NORM_FORMS)
    }
    assert len(hues) == len(NORM_FORMS)


def test_extract_draws_the_same_without_scores_of_queries(out, study, tmp_path, capsys):
    write_extract(study, tmp_path)
    small = read_study(tmp_path)
    assert not any(name.startswith("query_") for name in read_results(tmp_path))
    assert small.basis == study.basis
    pd.testing.assert_frame_equal(small.differences, study.differences)
    for draw in FIGURES:
        assert len(draw(small).axes) == len(draw(study).axes)
    assert extract([str(out), str(tmp_path / "again"), "--where=model.lr=null"]) == 0
    assert "MiB" in capsys.readouterr().out


def test_an_extract_without_differences_says_so(study, tmp_path):
    write_extract(study, tmp_path)
    (tmp_path / "differences.parquet").unlink()
    with pytest.raises(UserError, match="differences.parquet"):
        read_study(tmp_path)


def test_a_level_without_the_references_seeds_is_left_out_and_named(study, out, monkeypatch):
    table = read_results(out)
    lacking = table[(table["model.norm"] != "dyt") | (table["seed_everything"] == 0)]
    more = lacking[lacking["model.norm"] == "none"].assign(**{"model.norm": "hardtanh"})
    both = type(table)(lacking).copy()
    tables = {"results": type(table)(np.concatenate([both, more]), columns=both.columns)}
    real = read_results

    def read(folder, name="results"):
        return tables["results"].infer_objects() if name == "results" else real(folder, name)

    monkeypatch.setattr("sse.analysis.study.read_results", read)
    study = read_study(out)
    assert study.levels == ["none", "hardtanh"]
    assert "Left out" in study.left_out and "model.norm=dyt" in study.left_out
    assert study.left_out in study.basis


def test_a_reference_that_is_not_there_is_one_line(out):
    with pytest.raises(UserError, match="no trial with model.norm=hardtanh; there are dyt, none"):
        read_study(out, reference="hardtanh")
    with pytest.raises(UserError, match="model.lr has no level '7'"):
        read_study(out, where={"model.lr": "7"})
    with pytest.raises(UserError, match="no option 'model.nrom'"):
        read_study(out, by="model.nrom")
