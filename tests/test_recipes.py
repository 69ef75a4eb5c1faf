"""Every recipe of docs/recipes.md runs as pasted, where its package is installed."""

import ast
import os
import re
import shutil
import sqlite3
import sys
from pathlib import Path
from subprocess import PIPE, Popen, run

import numpy as np
import pytest

import sse
from sse.text.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "recipes.md").read_text("utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```$", TEXT, re.M | re.S))
SERVED = "OpenAI's client"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the reader has it: a model that knows the words, and the examples."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = train_tokenizer([TEXT] * 9, 1000, progress=False)
    sse.export(sse.SSE(tokenizer, 256, seed=0), folder / "runs/mine/model")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def environment():
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {SERVED}))
def test_the_recipe_runs_as_pasted(folder, name):
    code = RECIPES[name]
    for module in re.findall(r"^(?:import|from) (\w+)", code, re.M):
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
    if "PGVECTOR" in code and "PGVECTOR" not in os.environ:
        pytest.skip("PGVECTOR names no server")
    if "sqlite" in code and not hasattr(sqlite3.Connection, "enable_load_extension"):
        pytest.skip("this Python's sqlite3 loads no extensions")
    done = run([sys.executable, "-c", code], cwd=folder, env=environment(), text=True, stdout=PIPE)
    assert done.returncode == 0
    if texts := re.search(r"\[\"a flat tyre.*?\]", code):
        model = sse.Encoder(folder / "runs/mine/model")
        texts = ast.literal_eval(texts[0])
        assert texts[int(np.argmax(model.encode(texts) @ model.encode("tyre")))] in done.stdout
    else:
        assert done.stdout.count("'path'") == 3
    assert sum(map(bool, code.splitlines())) <= 16, "a recipe is short"


def test_the_recipe_for_openais_client_runs_as_pasted(folder):
    for module in ("openai", "fastapi", "lance"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    command = [
        sys.executable,
        "-m",
        "sse.cli.main",
        "serve",
        "-m",
        "runs/mine/model",
        "--port",
        "0",
    ]
    with Popen(command, cwd=folder, env=environment(), stderr=PIPE, text=True) as server:
        url = server.stderr.readline().split()[-1]
        code = RECIPES[SERVED].replace("http://127.0.0.1:8000/", url)
        done = run([sys.executable, "-c", code], env=environment(), text=True, stdout=PIPE)
        server.terminate()
    assert done.stdout == "256\n"
