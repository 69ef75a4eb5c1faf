"""Whatever an earlier version made still works: models, vectors, indexes, a stopped run, a sweep.

The folder made_before/ was written by the code of commit 86cdad4; its README.md says how.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import sse
from sse.cli.main import main
from sse.serving.encoder import Encoder

ROOT = Path(__file__).parents[1]
MADE = Path(__file__).parent / "made_before"
TEXTS = (MADE / "texts.txt").read_text("utf-8").split("\n")[:-1]
EXPECTED = np.load(MADE / "expected.npz")
NEAR = 1e-6  # another order of the same float32 sums; entries are at most 1


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A copy of the folder, which its recorded paths are relative to, as working directory."""
    shutil.copytree(MADE, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def python(folder, *words):
    """What a script of the checkout prints when run in `folder`."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}",
    }
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [name for name in EXPECTED if "." not in name])
def test_a_model_gives_the_vectors_that_it_gave(name):
    folder = MADE / "models" / name
    np.testing.assert_allclose(Encoder(folder).encode(TEXTS), EXPECTED[name], rtol=0, atol=NEAR)
    loaded = sse.load(folder, device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(loaded, EXPECTED[name], rtol=0, atol=NEAR)


def test_a_prompt_stays_in_the_folder():
    model = Encoder(MADE / "models" / "prompts")
    vectors = model.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(vectors, EXPECTED["prompts.query"], rtol=0, atol=NEAR)


@pytest.mark.parametrize("ending", ["parquet", "npy", "jsonl"])
def test_the_command_writes_the_same_vectors(made, ending):
    python(made, "-m", "sse.cli.main", "encode", "texts.txt", f"new.{ending}", "-m", "models/dyt")
    if ending == "npy":
        new, old = np.load("new.npy"), np.load("vectors.npy")
    elif ending == "parquet":
        tables = [pq.read_table(f"{name}.parquet") for name in ("new", "vectors")]
        assert tables[0].schema.equals(tables[1].schema)
        new, old = (np.stack(t["vector"].to_numpy(zero_copy_only=False)) for t in tables)
    else:
        rows = [
            Path(f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("new", "vectors")
        ]
        new, old = ([json.loads(line)["vector"] for line in lines] for lines in rows)
    np.testing.assert_allclose(new, old, rtol=0, atol=NEAR)


@pytest.mark.parametrize("kind", ["exact", "binary"])
def test_an_old_index_asks_to_be_made_anew(made, kind, capsys):
    pytest.importorskip("lance", reason="the extra 'search' is not installed")
    assert main(["search", f"{kind}.sse", "a long letter", "-k", "5", "--json"]) == 2
    told = capsys.readouterr().err
    assert told == (f"error: {kind}.sse was made by an older version: index again with --force\n")
    words = ["index", "texts.txt", f"{kind}.sse", "-m", "models/dyt", "--from", "lines"]
    assert main([*words, "--force", "--quiet"]) == 0
    assert main(["search", f"{kind}.sse", "a long letter", "-k", "5", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    before = json.loads((MADE / f"{kind}.hits.json").read_text("utf-8"))
    assert hits[0]["text"] == before[0]["text"]


def test_a_stopped_run_goes_on_to_the_same_model_and_scores(made):
    python(made, ROOT / "experiments" / "train.py", "--resume", "run")
    metrics = json.loads((made / "run" / "metrics.json").read_text("utf-8"))
    expected = json.loads((MADE / "run_expected.json").read_text("utf-8"))
    assert [metrics[key] for key in ("order", "steps", "pairs")] == [
        expected[key] for key in ("order", "steps", "pairs")
    ]
    assert metrics["metrics"] == expected["metrics"]
    vectors = Encoder(made / "run" / "model").encode(TEXTS)
    # Eleven steps of Adam at lr 0.1 enlarge another machine's rounding.
    np.testing.assert_allclose(vectors, np.load(MADE / "run_expected.npz")["vectors"], atol=1e-4)


def test_a_finished_sweep_has_nothing_to_run_and_compares_as_before(made):
    words = ["--config=sweep.yaml", "--out=sweep", "--jobs=1", "--threads=1"]
    assert "0 to run, 2 done, 0 broken" in python(made, ROOT / "experiments" / "sweep.py", *words)
    script = ROOT / "experiments" / "compare.py"
    table = python(made, script, "sweep", "--by=model.norm", "--reference=none")
    for line in (MADE / "sweep" / "compare.md").read_text("utf-8").splitlines()[2:7]:
        assert line in table
