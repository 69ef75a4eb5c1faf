"""A run's columns and rows: options choose them, bad ones are written aside, chance is said."""

import json

import pytest

from sse.training.options import parse
from sse.training.run import main, read_data
from tests.helpers.samples import sentences
from tests.helpers.training_runs import make_options


def test_columns_and_several_files_are_chosen_on_the_command_line(tmp_path):
    options = make_options(tmp_path)[1:]
    for name in "ab":
        rows = [{"x": f"{t} {name}", "y": t[::-1], "z": t} for t in sentences(40, seed=ord(name))]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    chosen = ["--data.anchor", "y", "--data.positive", "z"]
    data = read_data(parse(["--data.paths", *files, *chosen, *options]))
    assert [pairs.name for pairs in data.pairs] == ["a", "b"]
    assert [source.name for source in data.pairs[0].sources] == ["y", "z"]


def test_bad_rows_are_written_into_the_runs_folder(tmp_path, capsys):
    options = make_options(tmp_path)
    with open(tmp_path / "pairs.jsonl", "a") as file:
        file.write('{"anchor": null, "positive": "b"}\n')
    options += ["--data.skip_bad_rows=true", "--trainer.max_steps=2", f"--out={tmp_path / 'run'}"]
    main(options)
    (row,) = (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()
    assert json.loads(row)["place"] == "line 401"
    assert "1 bad of 401 rows are left out" in capsys.readouterr().out


@pytest.mark.parametrize("pairs", ["alike", "unlike"])
def test_a_score_at_chance_is_warned_of(tmp_path, capsys, pairs):
    options = make_options(tmp_path)
    texts = sentences(400, seed=6)
    others = texts if pairs == "alike" else [f"{n * 7919 % 400:04x}" for n in range(400)]
    rows = [{"anchor": a, "positive": p} for a, p in zip(texts, others, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main([*options, "--data.holdout=40", f"--out={tmp_path / 'run'}"])
    warned = "score no better than a random order" in capsys.readouterr().out
    assert warned == (pairs == "unlike")
