"""The commands of README and tutorial run as pasted, in order, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(language, code) of every fenced block; the environment's activation is the test's own."""
    text = (ROOT / page).read_text("utf-8")
    return [(m[1], m[2]) for m in BLOCK.finditer(text) if ".venv/bin/activate" not in m[2]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What git tracks, without what runs made here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout here")
    folder = tmp_path_factory.mktemp("checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("examples/", "experiments/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("page", "least"), [("README.md", 7), ("docs/tutorial.md", 7)])
def test_every_block_of_a_page_runs_as_pasted(checkout, page, least):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    assert len(blocks(page)) >= least
    for language, code in blocks(page):
        if code.startswith("sse serve "):
            answers_until_it_is_stopped(code.split(), checkout, environment)
            continue
        shell = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, code], cwd=checkout, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, f"{code}\n{done.stderr[-2000:]}"


def answers_until_it_is_stopped(command, folder, environment):
    """Start a server as pasted, but at a free port; see its page and a search; end it."""
    words = [*command[: command.index("--port")], "--port", "0"]
    with subprocess.Popen(
        words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        address = server.stderr.readline().split()[-1]
        for path in ("", "search?query=tyre&k=1"):
            with urllib.request.urlopen(address + path, timeout=60) as answer:
                assert answer.status == 200 and answer.read()
        server.terminate()
        assert server.wait(60) in (0, -15) and "Traceback" not in server.stderr.read()
