"""Claims about the training benchmark: real processes, and systems that cannot run say so."""

import json

import pytest

from experiments.benchmarks import harness
from experiments.benchmarks import training as bench_training
from experiments.benchmarks.harness import figure
from experiments.benchmarks.training import NEEDS, Size, available, large_enough, panels, table
from sse.common.errors import UserError
from tests.helpers.samples import sentences

FACTS = {
    "results": [
        {"batch": 8, "kind": "cached", "system": "sse", "pairs_per_second": [40.0, 60.0, 50.0],
         "peak_mib": [100.0, 101.0, 99.0]},
        {"batch": 8, "kind": "cached", "system": "sentence-transformers",
         "pairs_per_second": [10.0, 10.0, 25.0], "peak_mib": [300.0, 300.0, 300.0]},
        {"batch": 65536, "kind": "cached", "system": "eager Lightning", "pairs_per_second": [],
         "peak_mib": [], "failed": "not started: needs 192 GiB of 14 free"},
    ]
}  # fmt: skip


def test_large_batches_get_few_steps_and_one_round():
    assert Size.of(512, 10**6, 30_000, 3) == Size(512, 97, 19, 29_696, 3)
    assert Size.of(65536, 10**6, 30_000, 3) == Size(65536, 1, 0, 0, 1)
    assert Size.of(64, 1_000, 30_000, 1).steps == 12, "no more than four fifths"


def test_a_system_whose_logits_cannot_fit_is_not_started(monkeypatch):
    def never(*args, **rest):
        raise AssertionError("started")

    monkeypatch.setattr(harness, "fresh", never)
    batch = int((available() / 16) ** 0.5)  # twelve matrices of 4 bytes a cell: three times that
    measured = bench_training.run("eager Lightning", "cached", Size(batch, 1, 0, 0, 1), [], "")
    assert measured["failed"].startswith("not started: needs ")


@pytest.fixture
def files(tmp_path, tokenizer):
    path = tmp_path / "pairs.jsonl"
    rows = [json.dumps({"anchor": text, "positive": text[::-1]}) for text in sentences(200, seed=3)]
    path.write_text("\n".join(rows))
    tokenizer.save(tmp_path / "tokenizer.json")
    return str(path), str(tmp_path / "tokenizer.json")


def test_only_sets_that_fill_the_largest_batch_are_used(files, tmp_path):
    small = tmp_path / "small.jsonl"
    small.write_text('{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": "d"}\n')
    assert large_enough([files[0], str(small)], 64) == ([files[0]], 200, ["small.jsonl"])
    with pytest.raises(UserError, match="smaller --batches"):
        large_enough([files[0]], 101)


@pytest.mark.slow
@pytest.mark.parametrize("system", bench_training.SYSTEMS)
def test_every_system_trains_in_a_process_of_its_own(files, tmp_path, monkeypatch, system):
    pytest.importorskip(NEEDS.get(system, "torch"))
    monkeypatch.setenv("SSE_CACHE", str(tmp_path / "cache"))
    size = Size(16, 3, 1, 64, 1)
    for kind in ("cached", "raw"):
        if bench_training.has(system, kind):
            measured = bench_training.run(system, kind, size, [files[0]], files[1])
            assert measured["pairs_per_second"] > 0
            assert measured["peak_mib"] > 100


def test_the_table_pairs_the_rounds_and_says_what_did_not_run(tmp_path):
    lines = table(FACTS).splitlines()
    assert lines[2] == "| 8 cached sse | 50 | 4.00 | 100 |", "the median of 4, 6 and 2"
    assert lines[-1] == (
        "| 65,536 cached eager Lightning | not started: needs 192 GiB of 14 free |  |  |"
    )
    figure(tmp_path / "plot.png", panels(FACTS), log=True)
    assert (tmp_path / "plot.png").stat().st_size > 10_000
