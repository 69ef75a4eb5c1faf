"""How many cores a process may use."""

import math
import os

import pytest

from sse.common import machine


def limit(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def groups(tmp_path, monkeypatch):
    def make(own, files):
        limit(tmp_path / "fs", files)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "fs")
        monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")

    return make


def test_the_lowest_quota_on_the_way_to_the_root_counts(groups):
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "cpu.max": "max 1\n"}
    groups("0::/a/b\n", files)
    assert machine.quota() == 1.5


def test_version_1_has_its_quota_in_two_files(groups):
    files = {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    groups("4:memory:/job\n1:cpu:/job\n0::/\n", files)
    assert machine.quota() == 0.5
    assert machine.cores() == 1


def test_a_container_sees_its_own_group_as_the_root(groups):
    groups("0::/docker/1234\n", {"cpu.max": "200000 100000\n"})
    assert machine.quota() == 2


@pytest.mark.parametrize(
    "files",
    [{}, {"cpu.max": "max 100000\n"}, {"cpu.max": ""},
     {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}],
)  # fmt: skip
def test_without_a_quota_the_affinity_mask_counts(groups, files):
    groups("1:cpu:/\n0::/\n", files)
    assert machine.quota() == math.inf
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_without_cgroups_there_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "none")
    assert machine.quota() == math.inf
