"""No crafted file makes a process hold much more than its own size, hang, or end in a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("only", ["tensors", "axes", "prompt", "JSON", "charsmap", "token id"])
def test_hostile_files_stay_within_time_and_memory(only):
    """One case of each kind, in a process of its own, which forks; `make test-hostile` has all."""
    command = [sys.executable, "-m", "tests.faults.hostile", "--only", only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" B  ") >= 1, "no case of that name"
