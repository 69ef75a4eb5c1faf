"""The wheel imports and encodes where only the core is installed.

The package is built once and installed into a fresh environment, with what the registry has.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import sse
from sse.model import table

ROOT = Path(__file__).parents[2]
TEXTS = ["one text", "", "Zwei Texte: ein längerer, und noch ein Satz dazu.", "漢字 mixed in"] * 99
EXTRAS = {"torch", "lightning", "sentence_transformers", "datasets", "pandas", "scipy"}
# Of the model's files these belong to the extra `train`.
TORCH = {"model", "norms", "load", "export", "grown_rows", "static_model"}
ENCODE = """
import json, sys, numpy, sse
out, folder, texts = sys.argv[1:]
numpy.save(out, sse.Encoder(folder).encode(json.loads(texts)))
print(sse.__file__)
"""
IMPORT = """
import importlib, pkgutil, sys
for room in ("common", "text", "serving", "model"):
    package = importlib.import_module(f"sse.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        if room != "model" or module.name not in sys.argv[1:]:
            print(importlib.import_module(f"sse.{room}.{module.name}").__name__)
"""

CODE = {".py", ".typed", ".so", ".pyd"}
PAGES = {".html", ".css", ".js", ".mjs"}

pytestmark = pytest.mark.slow


def run(*command, check=True, **environment):
    """A process that does not see this checkout."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        env=clean | environment, cwd=tempfile.gettempdir(),
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


def shared(tmp_path_factory, name, make):
    """A folder that `make` fills once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the sdist and of the wheel that is built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("probe")
    probe = ["download", "--retries", "0", "--timeout", "10", "--no-deps", "--dest", folder / "x"]
    done = run(sys.executable, "-m", "pip", *probe, "filelock", check=False)
    if done.returncode:
        pytest.skip(f"no package registry: {done.stderr.strip().splitlines()[-1]}")
    build = (sys.executable, "-m", "build", ROOT, "--outdir")
    return shared(tmp_path_factory, "dist", lambda folder: run(*build, folder))


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """Folder of the programs of an environment with the core alone."""
    programs = "Scripts" if os.name == "nt" else "bin"

    def make(folder):
        run(sys.executable, "-m", "venv", folder)
        run(folder / programs / "python", "-m", "pip", "install", wheel)

    return shared(tmp_path_factory, "core", make) / programs


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 64, seed=0), tmp_path_factory.mktemp("model") / "model")


def vectors(python, folder, out, **environment):
    """What the environment encodes, and the file that it imported."""
    texts = json.dumps(TEXTS)
    done = run(python, "-c", ENCODE, out, folder, texts, **environment)
    return np.load(out), Path(done.stdout.strip())


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    inside = [name for name in names if not name.parts[0].endswith(".dist-info")]
    assert {name.parts[0] for name in inside} == {"sse", "sse_kernels"}
    assert {name.suffix for name in inside} <= CODE | PAGES


def test_the_core_encodes_what_this_environment_does(core, folder, tmp_path):
    mine = sse.Encoder(folder).encode(TEXTS)
    theirs, file = vectors(core / "python", folder, tmp_path / "vectors.npy")
    assert not file.is_relative_to(ROOT)
    np.testing.assert_allclose(theirs, mine, rtol=0, atol=0 if table._table else 1e-6)


def test_the_core_writes_a_web_page(core, folder, tmp_path):
    run(core / "sse", "export", folder, tmp_path / "site", "--to", "web")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert names == {"index.html", "sse.mjs", "passages.json", "model"}


def test_without_a_compiler_the_package_builds_and_encodes(built, core, folder, tmp_path):
    sdist = next(built.glob("*.tar.gz"))
    pip = [core / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path]
    run(*pip, sdist, CC="/bin/false")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
        archive.extractall(tmp_path / "plain")
    python = core / "python"
    theirs, file = vectors(python, folder, tmp_path / "v.npy", PYTHONPATH=f"{tmp_path / 'plain'}")
    assert file.is_relative_to(tmp_path)
    np.testing.assert_allclose(theirs, sse.Encoder(folder).encode(TEXTS), rtol=0, atol=1e-6)


def test_the_core_brings_no_library_of_an_extra(core):
    find = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(core / "python", "-c", find, *EXTRAS).stdout.split() == []


def test_every_module_of_the_core_imports(core):
    modules = run(core / "python", "-c", IMPORT, *TORCH).stdout.split()
    assert {"sse.common.files", "sse.serving.encoder", "sse.model.table"} <= set(modules)


@pytest.mark.parametrize("form", ["npy", "jsonl", "parquet"])
def test_the_command_encodes_to_every_format(core, folder, tmp_path, form):
    (tmp_path / "lines.txt").write_text("one text\nanother\n")
    out = tmp_path / f"vectors.{form}"
    run(core / "sse", "encode", tmp_path / "lines.txt", out, "-m", folder, "--quiet")
    assert out.stat().st_size


def test_the_command_makes_smaller_rows(core, folder, tmp_path):
    run(core / "sse", "export", folder, tmp_path / "small", "--rows", "int8", "--dim", "32")
    assert sse.Encoder(tmp_path / "small").dim == 32


def test_training_says_which_extra(core):
    done = run(core / "sse", "train", "--help", check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'stable-static-embedding[train]'" in done.stderr
