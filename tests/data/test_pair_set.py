"""Reading pairs: which files, which rows, and what is read once."""

import json
import os

import datasets
import pytest

from sse.common.errors import UserError
from sse.data.pair_set import load_sets
from sse.data.set_spec import SetSpec
from tests.helpers.pair_files import ROWS, error_of, load, write


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_pairs_and_fingerprint(tmp_path, kind):
    (pairs,) = load(write(tmp_path / f"toy.{kind}"))
    assert pairs.name == "toy" and len(pairs) == 6
    assert pairs.texts("anchor") == [row["anchor"] for row in ROWS]
    assert pairs.texts("positive", [5, 0, 0]) == ["answer 5", "answer 0", "answer 0"]
    assert pairs.fingerprint == load(write(tmp_path / "other.jsonl"))[0].fingerprint


def test_chunks_give_all_rows_from_a_start_within_rows_and_bytes(tmp_path):
    rows = [{"anchor": f"q{n}", "positive": "x" * (5_000 if n == 3 else 5)} for n in range(20)]
    (pairs,) = load(write(tmp_path / "toy.jsonl", rows))
    chunks = list(pairs.chunks(start=2, rows=4, size=200))
    assert [text for anchors, _ in chunks for text in anchors] == [f"q{n}" for n in range(2, 20)]
    assert max(len(anchors) for anchors, _ in chunks) == 4
    assert any(positives == ["x" * 5_000] for _, positives in chunks), "a long row stands alone"


def test_a_cap_spreads_evenly_and_a_sets_own_cap_wins(tmp_path):
    rows = [{"anchor": str(n), "positive": f"p{n}"} for n in range(100)]
    path = write(tmp_path / "toy.jsonl", rows)
    capped, own = load(path, SetSpec(path, cap=4), cap=10)
    assert capped.texts("anchor") == [str(n) for n in range(0, 100, 10)]
    assert own.texts("anchor") == ["0", "25", "50", "75"]
    assert capped.texts("positive", [9, 1]) == ["p90", "p10"]
    assert list(capped.chunks(start=8))[0] == [["80", "90"], ["p80", "p90"]]
    assert len({s.fingerprint for s in (capped, own, *load(path))}) == 3
    (shorter,) = load(path, cap=1_000)
    assert len(shorter) == 100


def test_the_fingerprint_tells_texts_roles_and_order_apart(tmp_path):
    swapped = [{"anchor": row["positive"], "positive": row["anchor"]} for row in ROWS]
    shifted = [{"anchor": "question", "positive": f" {n}answer {n}"} for n in range(6)]
    files = [ROWS, swapped, shifted, ROWS[::-1], ROWS[:5]]
    paths = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate(files)]
    assert len({pairs.fingerprint for pairs in load(*paths)}) == len(files)


@pytest.fixture
def kept(tmp_path):
    """Reads sets with a cache; returns them and the lines about them."""

    def read(*specs, cap=None):
        lines = []
        return load_sets(specs, cap, lines.append, tmp_path / "cache"), lines

    return read


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_texts_of_unchanged_files_are_read_once(tmp_path, kept, monkeypatch, kind):
    path = write(tmp_path / f"toy.{kind}", [{"text": "x", **row} for row in ROWS])
    (first,), line = kept(path)
    read_tables = datasets.Dataset.iter
    monkeypatch.setattr(datasets.Dataset, "iter", lambda *_: pytest.fail("read again"))
    (again,), same_line = kept(path)
    assert (again.fingerprint, again.columns, line) == (first.fingerprint, first.columns, same_line)
    assert again.texts("positive", [5]) == ["answer 5"]
    monkeypatch.setattr(datasets.Dataset, "iter", read_tables)
    assert list(again.chunks()) == list(first.chunks())


def test_a_changed_file_is_read_and_checked_again(tmp_path, kept):
    path = write(tmp_path / "toy.jsonl")
    ((first,), _), time = kept(path), (tmp_path / "toy.jsonl").stat().st_mtime_ns
    write(tmp_path / "toy.jsonl", [{**row, "anchor": row["anchor"].upper()} for row in ROWS])
    os.utime(path, ns=(time, time + 1_000_000))
    ((second,), _) = kept(path)
    assert second.texts("anchor", [0]) == ["QUESTION 0"]
    assert second.fingerprint == load(path)[0].fingerprint != first.fingerprint
    write(tmp_path / "toy.jsonl", [{**row, "anchor": None} for row in ROWS])
    os.utime(path, ns=(time, time + 2_000_000))
    with pytest.raises(UserError, match="line 1: 'anchor' is null"):
        kept(path)


def test_other_options_of_a_file_have_a_record_of_their_own(tmp_path, kept):
    rows = [{**row, "negative": f"no {n}"} for n, row in enumerate(ROWS)]
    path = write(tmp_path / "toy.jsonl", rows)
    for _ in range(2):
        for options in ("", "?negatives=0", "?cap=3", "?anchor=positive&positive=anchor"):
            spec = path + options
            (pairs,), _ = kept(spec)
            (checked,) = load(spec)
            assert (pairs.fingerprint, pairs.columns) == (checked.fingerprint, checked.columns)
            assert list(pairs.chunks()) == list(checked.chunks())
    (few,), _ = kept(path, cap=2)
    assert len(few) == 2 and few.fingerprint == load(path, cap=2)[0].fingerprint


def test_a_damaged_record_is_made_again(tmp_path, kept):
    path = write(tmp_path / "toy.jsonl")
    ((first,), _) = kept(path)
    (record,) = (tmp_path / "cache" / "sets").glob("*.json")
    whole = record.read_bytes()
    for damaged in (whole.replace(b"positive", b"negative"), whole[:-9], b""):
        record.write_bytes(damaged)
        ((again,), _) = kept(path)
        assert (again.fingerprint, again.columns) == (first.fingerprint, first.columns)
        assert record.read_bytes() == whole


def test_folders_globs_and_shards(tmp_path, monkeypatch):
    write(tmp_path / "data" / "one.jsonl")
    write(tmp_path / "data" / "deep" / "two.parquet")
    write(tmp_path / "data" / "train-00000-of-00002.parquet", ROWS[:3])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", ROWS[3:])
    (tmp_path / "data" / "README.md").write_text("not data")
    write(tmp_path / "data" / ".hidden" / "three.jsonl")
    found = load(str(tmp_path / "data"))
    assert {pairs.name: len(pairs) for pairs in found} == {"one": 6, "two": 6, "train": 6}
    assert found[2].texts("anchor") == [row["anchor"] for row in ROWS]
    monkeypatch.chdir(tmp_path)
    assert [pairs.name for pairs in load("data/**/*.parquet")] == ["two", "train"]
    assert [pairs.name for pairs in load("data/o?e.jsonl")] == ["one"]


def test_sets_of_one_name_are_told_apart(tmp_path):
    paths = [write(tmp_path / folder / "toy.jsonl") for folder in ("a", "b")]
    assert [pairs.name for pairs in load(*paths, paths[1])] == ["a/toy", "b/toy", "b/toy#2"]


def test_a_name_with_brackets_and_blanks_is_a_file(tmp_path):
    (pairs,) = load(write(tmp_path / "[a] b?.jsonl"))
    assert len(pairs) == 6


def test_csv_fields_are_texts_even_if_they_look_like_numbers_or_nothing(tmp_path):
    (tmp_path / "toy.csv").write_text('query,answer\n1984,NA\n007,"a, ""b""\nc"\nnull,\n')
    (pairs,) = load(str(tmp_path / "toy.csv"))
    assert pairs.texts("anchor") == ["1984", "007", "null"]
    assert pairs.texts("positive") == ["NA", 'a, "b"\nc', ""]


def test_odd_texts_come_through_unchanged(tmp_path):
    odd = ["", " ", "\x00\x07\t", "🙂👩‍👩‍👧", "ꙮ 日本 עברית", "x" * 1_000_000, "a\u2028b\\n", "{}"]
    rows = [{"anchor": text, "positive": text[::-1]} for text in odd]
    for kind in ("jsonl", "parquet"):
        (pairs,) = load(write(tmp_path / f"odd.{kind}", rows))
        assert pairs.texts("anchor") == odd


def test_other_columns_may_hold_anything(tmp_path):
    rows = [{**ROWS[0], "meta": 1}, {**ROWS[1], "meta": "x"}, {**ROWS[2], "meta": {"a": [1]}}]
    path = tmp_path / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load(str(path))[0].texts("anchor") == [row["anchor"] for row in rows]


def test_paths_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "void").mkdir()
    assert "no such file or folder" in error_of(str(tmp_path / "gone.jsonl"))
    assert "the folder holds no jsonl" in error_of(str(tmp_path / "void"))
    assert "*.jsonl: matches no jsonl" in error_of(str(tmp_path / "void" / "*.jsonl"))
    assert "no data" in error_of()
    path = write(tmp_path / "toy.jsonl")
    assert "no column 'frage' for anchor; it has anchor, positive" in error_of(
        f"{path}?anchor=frage"
    )


def test_all_specs_are_looked_at_before_the_first_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("read too early"))
    error_of(write(tmp_path / "toy.jsonl"), str(tmp_path / "gone.jsonl"))
    error_of(write(tmp_path / "toy.jsonl"), "toy.jsonl?cap=many")


def test_a_full_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise datasets.exceptions.DatasetGenerationError("failed") from OSError(28, "No space left")

    monkeypatch.setattr("datasets.load_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        load(write(tmp_path / "toy.jsonl"))


def test_the_log_and_the_bars_of_datasets_are_quiet_and_restored(tmp_path, capfd):
    datasets.enable_progress_bars()
    level = datasets.logging.get_verbosity()
    load(write(tmp_path / "toy.jsonl"))
    (tmp_path / "broken.jsonl").write_text("{")
    error_of(str(tmp_path / "broken.jsonl"))
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
    assert datasets.logging.get_verbosity() == level
