"""The core installs from the sdist, compiles and encodes on each Python that is declared."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import sse
from tests.compat.environments import PLACE, ROOT, find_uv, run, uv

pytestmark = pytest.mark.compat
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
DECLARED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
TEXTS = ["the red circle rolls", "", "large blue square é漢🎉"] * 50
ENCODE = """
import json, sys, sse
from sse.model import table
assert table._table is not None, "not compiled"
print(sse.__file__, file=sys.stderr)
print(json.dumps(sse.Encoder(sys.argv[1]).encode(json.loads(sys.argv[2])).tolist()))
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--sdist", ROOT, "--outdir", folder]
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("m") / "model")


@pytest.mark.parametrize("version", DECLARED)
def test_the_core_encodes(sdist, folder, version):
    found = subprocess.run(
        [find_uv(), "python", "find", "--no-python-downloads", version], capture_output=True
    )
    if found.returncode:
        pytest.skip(f"no Python {version} here")
    place = PLACE / f"python-{version}"
    uv("venv", "--clear", "--python", version, place)
    uv("pip", "install", "--python", place / "bin" / "python", "--reinstall", sdist)
    done = run(place / "bin" / "python", ENCODE, folder, json.dumps(TEXTS))
    assert str(place) in done.stderr
    vectors = np.array(json.loads(done.stdout), np.float32)
    np.testing.assert_array_equal(vectors, sse.Encoder(folder).encode(TEXTS))
