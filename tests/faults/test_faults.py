"""The short form of `make test-faults`: nothing lost, nothing silently wrong, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lance", reason="the extra 'search' is not installed")
ROOT = Path(__file__).parents[2]


def disturbed(tmp_path, *arguments):
    """The tallies of a few faults, tried in a process of their own: it forks."""
    place = tmp_path / "table.json"
    command = [sys.executable, "-m", "tests.faults", "--json", str(place), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    tallies = json.loads(place.read_text())
    for tally in tallies:
        assert not tally["lost"] + tally["wrong"] + tally["unclear"] + tally["litter"], tally
    return {(tally["fault"], tally["where"]): tally for tally in tallies}


def test_kills_and_full_disks_lose_nothing(tmp_path):
    only = ["train", "cache", "encode", "export"]
    counts = ["--kills", "2", "--damages", "0", "--full", "1", "--shared", "1"]
    found = disturbed(tmp_path, *counts, "--only", *only)
    assert all(found["kill -9", name]["hit"] >= 1 for name in only)
    assert sum(tally["refused"] for tally in found.values()) >= 3, "the disk was full"


def test_damaged_files_are_refused_or_made_again(tmp_path):
    only = ["model", "index", "cache", "train"]
    found = disturbed(
        tmp_path, "--kills=0", "--full=0", "--shared=0", "--damages=4", "--only", *only
    )
    assert len(found) == 12, "flips and cuts of six kinds of file"
    models = [tally for (_, name), tally in found.items() if name.startswith("model")]
    assert sum(tally["refused"] for tally in models) == 3 * (4 + 1), "each flip and cut of a model"
