"""Memory stays where it is, however large the set."""

import sys

import numpy as np
import pytest

from sse.data.pair_set import load_sets
from sse.data.split import hold_out, train_rows
from sse.data.tables import release, tables
from tests.helpers.pair_files import own_cache, write  # noqa: F401  a fixture

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def mapped() -> int:
    """Bytes of files in this process's memory."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssFile"))


def test_rows_picked_out_of_a_set_come_as_one_chunk(tmp_path):
    """As a chunk each, 300,000 of them take eight seconds more to hash."""
    rows = [{"anchor": f"a {n}", "positive": f"b {n}"} for n in range(300)]
    (pairs,) = load_sets([write(tmp_path / "set.jsonl", rows)], cap=100, say=lambda line: None)
    found = list(tables(pairs.dataset, 60))
    assert [len(table) for table in found] == [60, 40]
    assert {table.column(0).num_chunks for table in found} == {1}


@linux
def test_reading_a_set_keeps_little_of_it_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sse.data.tables.RELEASE", 16_000_000)
    rows = [
        {"anchor": f"{n} " + "a" * 800, "positive": f"{n} " + "b" * 800} for n in range(100_000)
    ]
    path = write(tmp_path / "set.jsonl", rows)  # 160 MB
    load_sets([write(tmp_path / "small.jsonl")], say=lambda line: None)  # loads the libraries
    before = mapped()
    (pairs,) = load_sets([path], say=lambda line: None)
    most, seen = mapped(), 0
    for anchors, _ in pairs.chunks():
        most, seen = max(most, mapped()), seen + len(anchors)
    assert seen == len(rows)
    assert most - before < 80_000_000
    assert mapped() - before < 30_000_000


@linux
def test_released_pages_come_back_as_they_were(tmp_path):
    numbers = np.arange(1_000_000)
    numbers.tofile(tmp_path / "n")
    there = np.memmap(tmp_path / "n", numbers.dtype, mode="r")
    assert (there == numbers).all()
    before = mapped()
    release([str(tmp_path / "n")])
    assert mapped() < before - 4_000_000
    assert (there == numbers).all()


@linux
def test_pages_that_can_be_written_are_kept(tmp_path):
    (tmp_path / "n").write_bytes(bytes(1 << 16))
    own = np.memmap(tmp_path / "n", np.uint8, mode="c")  # private: the file never learns of it
    own[:] = 7
    release([str(tmp_path / "n")])
    assert (own == 7).all()


def test_rows_held_out_do_not_depend_on_the_runs(monkeypatch):
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, 400, (n, 2), np.uint64) for n in (500, 90)]
    whole = hold_out(ids, 40)
    trained = [train_rows(i, rows) for i, rows in zip(ids, whole, strict=True)]
    monkeypatch.setattr("sse.data.split.RUN", 37)
    for given, rows, kept in zip(ids, hold_out(ids, 40), trained, strict=True):
        assert any((rows == other).all() for other in whole if len(other) == len(rows))
        assert (train_rows(given, rows) == kept).all()
        shared = np.isin(given[:, :2], given[rows, :2]).any(1)
        assert (kept == np.flatnonzero(~shared)).all()
    assert sum(map(len, whole)) >= 40
