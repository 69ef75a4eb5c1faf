"""`sse fit` and `sse average`: what a user types, and what is left when it goes wrong."""

import json

import numpy as np
import pytest

import sse
from sse.cli.main import main
from sse.model.folder import read_folder
from tests.helpers.samples import sentences


@pytest.fixture
def model(make_model, tmp_path):
    return str(sse.export(make_model(), tmp_path / "model"))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.csv"
    path.write_text("id,body\n" + "".join(f"{i},{t}\n" for i, t in enumerate(sentences(30))))
    return str(path)


def test_fit_writes_what_the_library_writes(model, corpus, tmp_path, capsys):
    out = tmp_path / "fitted"
    more = ["--column", "body", "--strength", "0.3", "--json"]
    assert main(["fit", model, corpus, str(out), *more]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["texts"], facts["strength"], facts["out"]) == (30, 0.3, str(out))
    sse.fit(model, sentences(30), tmp_path / "same", strength=0.3)
    np.testing.assert_array_equal(read_folder(out).table, read_folder(tmp_path / "same").table)


def test_average_writes_the_mean(model, corpus, tmp_path, capsys):
    sse.fit(model, sentences(30), tmp_path / "b")
    out = tmp_path / "mean"
    arguments = [model, str(tmp_path / "b"), str(out), "--weights", "3", "1"]
    assert main(["average", *arguments]) == 0
    assert "mean of 2 models" in capsys.readouterr().err
    a, b = read_folder(model).table, read_folder(tmp_path / "b").table
    np.testing.assert_allclose(read_folder(out).table, 0.75 * a + 0.25 * b, atol=1e-6)


def test_files_of_a_folder_that_are_not_read_are_told(model, tmp_path, capsys):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("red circle")
    (notes / "b.bin").write_bytes(b"\0")
    assert main(["fit", model, str(notes), str(tmp_path / "fitted"), "--quiet"]) == 0
    assert "1 left out (.bin 1 no known format)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "MODEL", "CORPUS", "OUT"], "which column holds the text"),
        (["fit", "MODEL", "CORPUS", "MODEL", "--column", "two"], "exists: give a new folder"),
        (["fit", "MODEL", "none.txt", "OUT"], "none.txt: no such file"),
        (["fit", "none", "CORPUS", "OUT"], "none is no folder"),
        (
            ["fit", "MODEL", "CORPUS", "OUT", "--column", "two", "--strength", "7"],
            "--strength: 7: give 0 to 1",
        ),
        (["average", "MODEL", "OUT"], "1 model: give two"),
        (["average", "MODEL", "MODEL", "OUT", "--weights", "1"], "1 --weights for 2 models"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    model, corpus, tmp_path, capsys, arguments, message
):
    (tmp_path / "corpus.csv").write_text("one,two\nred,blue\n")
    places = {"MODEL": model, "CORPUS": corpus, "OUT": str(tmp_path / "out")}
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main([places.get(word, word) for word in arguments]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
