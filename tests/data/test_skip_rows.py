"""Bad rows are left out, counted and written aside."""

import json

import pytest

from sse.common.errors import UserError
from sse.data.pair_set import load_sets
from sse.data.skip_rows import BadRows
from tests.helpers.pair_files import ROWS, write

GOOD = [json.dumps({**row, "n": n}) for n, row in enumerate(ROWS)]
BAD = {
    "{broken": "no JSON",
    '{"anchor": "a"}': "no column 'positive'",
    '{"anchor": "a", "positive": null}': "'positive' is null",
    '{"anchor": 5, "positive": "b"}': "'anchor' is 5",
    '{"anchor": "\\ud83d", "positive": "b"}': "half a surrogate pair",
    "[1]": "[1] is no object",
}


def skip(tmp_path, *specs):
    said = []
    pairs = load_sets(
        list(specs), say=said.append, bad_rows=BadRows(tmp_path / "cache", tmp_path / "aside.jsonl")
    )
    aside = tmp_path / "aside.jsonl"
    rows = [json.loads(line) for line in aside.read_text().splitlines()] if aside.exists() else []
    return pairs, said, rows


def test_good_rows_are_taken_and_bad_ones_named_with_place_and_reason(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text("\n".join([*GOOD[:3], *BAD, *GOOD[3:]]) + "\n")
    (pairs,), said, rows = skip(tmp_path, str(path))
    assert pairs.texts("anchor") == [row["anchor"] for row in ROWS]
    assert pairs.fingerprint == load_sets([write(tmp_path / "good.jsonl")])[0].fingerprint
    aside = tmp_path / "aside.jsonl"
    assert said[0] == f"toy: 6 bad of 12 rows are left out and written to {aside}"
    assert [row["place"] for row in rows] == [f"line {n}" for n in range(4, 10)]
    assert all(part in row["reason"] for part, row in zip(BAD.values(), rows, strict=True))
    assert rows[0]["row"] == "{broken" and rows[0]["file"] == str(path)
    aside.unlink()
    again, said_again, rows_again = skip(tmp_path, str(path))
    assert (said_again, rows_again) == (said, rows), "from the cache"


def test_every_kind_of_file_may_have_bad_rows(tmp_path):
    (tmp_path / "a.csv").write_text('query,answer\n1984,"a\nb"\nx\nwhy,so\n')
    rows = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": None}]
    write(tmp_path / "b.parquet", [*rows, *rows])
    (tmp_path / "c.json").write_text(json.dumps([*rows, *rows]))
    specs = [str(tmp_path / name) for name in ("a.csv", "b.parquet", "c.json")]
    pairs, said, aside = skip(tmp_path, *specs)
    assert [len(each) for each in pairs] == [2, 2, 2]
    assert pairs[0].texts("anchor") == ["1984", "why"] and pairs[0].texts("positive")[0] == "a\nb"
    assert [row["place"] for row in aside] == ["line 4", "row 1", "row 3", "row 2", "row 4"]


def test_rows_without_a_negative_are_bad_where_the_others_have_a_list(tmp_path):
    rows = [{"query": f"q {n}", "pos": ["p"], "neg": ["n", "m"][: n % 3]} for n in range(6)]
    (pairs,), said, aside = skip(tmp_path, write(tmp_path / "toy.jsonl", rows))
    assert pairs.columns == ("anchor", "positive", "negative_1") and len(pairs) == 4
    assert "'neg' is [], expected a list of texts" in aside[0]["reason"]


def test_a_file_without_bad_rows_leaves_nothing_aside(tmp_path):
    (pairs,), said, rows = skip(tmp_path, write(tmp_path / "toy.jsonl"))
    assert len(pairs) == 6 and len(said) == 1 and not (tmp_path / "aside.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query,answer\na,b\nc,\xff\nd,e\nf,g\n", "line 3: not UTF-8"),
        (b"query,answer\na\nb\n", "no row can be read"),
    ],
)
def test_a_file_that_cannot_be_read_on_is_refused(tmp_path, content, message):
    (tmp_path / "toy.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        skip(tmp_path, str(tmp_path / "toy.csv"))
    assert not (tmp_path / "aside.jsonl").exists()
