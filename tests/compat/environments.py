"""Environments of other versions and libraries, each made once by uv under `.venv-compat/`.

torch is large, so an environment has no torch of its own: links lead to the running one's.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv-compat"
UNREACHABLE = re.compile(
    "error sending request|dns error|timed out|Could not connect|offline", re.I
)
# Beside torch stand what it brings along on Linux; its other requirements are small, so installed.
TORCH = ("torch", "torchgen", "functorch", "nvidia", "triton")
WITHOUT = re.compile(r"(torch|triton|nvidia[\w-]*|cuda[\w-]*)\b")


def python(name, *requirements):
    """The interpreter of the environment `name`, which holds torch and the requirements.

    The environment is made anew where its requirements, torch or Python have changed, and every
    week where a requirement names no version. The test is skipped where uv is missing or the
    package index cannot be reached.
    """
    pinned = all("==" in requirement for requirement in requirements)
    week = "" if pinned else time.strftime("%G, week %V")
    recipe = "\n".join([sys.version, torch.__version__, week, *requirements])
    folder = PLACE / name
    interpreter = folder / "bin" / "python"
    made = folder / "made"
    PLACE.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not made.exists() or made.read_text() != recipe:
            _make(folder, interpreter, requirements)
            made.write_text(recipe)
    return interpreter


def _make(folder, interpreter, requirements):
    """Install the requirements and what they need beside links to torch."""
    uv("venv", "--clear", "--python", sys.executable, folder)
    _link_torch(next(folder.glob("lib/python*/site-packages")))
    needed = importlib.metadata.requires("torch") or []
    small = [n for n in needed if not WITHOUT.match(n) and "extra ==" not in n]
    without = folder / "without.txt"
    without.write_text("torch\ntriton\n")
    uv("pip", "install", "--python", interpreter, "--excludes", without, *small, *requirements)


def _link_torch(site):
    """Links to the running environment's torch, and to its record for `importlib.metadata`."""
    source = Path(torch.__file__).parents[1]
    for place in [source / name for name in TORCH] + list(source.glob("torch-*.dist-info")):
        if place.exists():
            (site / place.name).symlink_to(place)


def find_uv():
    """The path of uv; the test is skipped where there is none."""
    found = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if found is None:
        pytest.skip("uv is not installed: the extra `dev` brings it")
    return found


def uv(*arguments):
    """What uv printed; the test is skipped where the package index cannot be reached."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [find_uv(), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done


def run(interpreter, code, *arguments, check=True):
    """A process of that environment, which sees neither this checkout nor the hub."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(interpreter), "-c", code, *map(str, arguments)], capture_output=True, text=True,
        env=environment | {"HF_HUB_OFFLINE": "1"}, cwd=PLACE,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done
