"""The one table of all benchmarks."""

import json

from experiments.benchmarks.__main__ import against, main, table


def test_a_ratio_above_one_says_that_ours_is_better_whether_more_or_less_is():
    values = {"sse": [20.0, 30.0, 40.0], "peer": [10.0, 10.0, 10.0]}
    (speed,) = against("passages", "/s", values)
    (cost,) = against("memory", " MiB", values, less=True)
    assert (speed.ours, speed.peer, speed.ratios) == ("sse: 30/s", "peer", [2, 3, 4])
    assert cost.ratios == [0.5, 1 / 3, 0.25]


def test_a_row_has_the_median_ratio_and_its_range():
    by = {
        "tiled": {"ms": 2.0, "rounds": [2.0, 2.0, 4.0]},
        "dense": {"ms": 6.0, "rounds": [6.0, 8.0, 8.0]},
    }
    lines = table({"loss": {"time": {"4096": by}, "memory": {}}}).splitlines()
    assert lines[2] == "| loss, 4,096 pairs | tiled: 2 ms | dense | 3.00 | 2.00 to 4.00 |"


def test_one_command_measures_and_prints_a_table(tmp_path, capsys):
    written = tmp_path / "bench.json"
    words = ["--quick", "--only", "loss", "--json", str(written)]
    main([*words, "--paths", "unused.jsonl", "--tokenizer", "unused.json"])
    assert "| loss, 64 pairs, memory | tiled:" in capsys.readouterr().out
    assert json.loads(written.read_text())["parts"]["loss"]["time"]["64"]["dense"]["rounds"]
