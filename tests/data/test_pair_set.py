"""Reading pairs: which columns, which rows, and one clear line for everything that is wrong."""

import gzip
import json
import os
import random

import datasets
import pytest

from sse.common.errors import UserError
from sse.data.pair_set import load_sets
from sse.data.set_spec import SetSpec
from tests.helpers.pair_files import ROWS, error_of, load, own_cache, write  # noqa: F401  own_cache is autouse


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


@pytest.mark.parametrize(
    "columns, taken",
    [
        (["anchor", "positive"], ("anchor", "positive")),
        (["text", "Query"], ("Query", "text")),
        (["id", "question", "context", "answer"], ("question", "answer")),
        (["document", "query"], ("query", "document")),
        (["passage", "question"], ("question", "passage")),
        (["title", "abstract", "venue"], ("title", "abstract")),
        (["_id", "doc_id", "a", "b"], ("a", "b")),
        (["query", "body"], ("query", "body")),
        (["headline", "text"], ("headline", "text")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_the_usual_names_are_found_else_the_first_two_text_columns(tmp_path, columns, taken):
    rows = [{name: f"{name} {n}" for name in columns} | {"score": 0.5} for n in range(3)]
    said = []
    (pairs,) = load_sets([write(tmp_path / "toy.jsonl", rows)], say=said.append)
    assert tuple(pairs.texts(role)[0].split()[0] for role in pairs.columns) == taken
    assert f"anchor <- {taken[0]}, positive <- {taken[1]}" in said[0]


WEIRD = {
    "ticket_no": "T-{}",
    "Kundenfrage": "Wie geht {}?",
    "Antwort": "So {} hier",
    "am": "2026-11-{}",
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ids_numbers_dates_and_labels_are_no_guess_and_are_said(tmp_path, kind):
    rows = [
        {
            "nr": str(n),
            "state": "open",
            **{name: text.format(10 + n) for name, text in WEIRD.items()},
        }
        for n in range(120)
    ]
    said = []
    load_sets([write(tmp_path / f"weird.{kind}", rows)], say=said.append)
    assert said == [
        "weird: 120 rows; anchor <- Kundenfrage, positive <- Antwort; guessed: "
        "Kundenfrage, Antwort; ignored: nr (numbers), state (labels), ticket_no (ids), am (dates)"
    ]


@pytest.mark.parametrize("names", [("x", "y"), ("query", "answer"), ("id", "text")])
def test_a_csv_of_numbers_alone_is_refused(tmp_path, names):
    rows = [dict(zip(names, pair, strict=True)) for pair in [("1", "2"), ("3", "4.5")]]
    message = error_of(write(tmp_path / "numbers.csv", rows))
    assert f"two columns of text; it has {names[0]} (numbers), {names[1]} (numbers)" in message
    spec = f"{tmp_path}/numbers.csv?anchor={names[0]}&positive={names[1]}"
    assert load(spec)[0].texts("anchor") == ["1", "3"], "a named column is taken"


def test_lists_of_positives_and_negatives_are_taken_and_said(tmp_path):
    rows = [
        {
            "query": f"ask {n}",
            "pos": [f"good {n}", "spare"],
            "neg": [f"bad {n}", "worse"],
            "type": "a b",
        }
        for n in range(3)
    ]
    said = []
    (pairs,) = load_sets([write(tmp_path / "flag.jsonl", rows)], say=said.append)
    assert [pairs.texts(role, [1])[0] for role in pairs.columns] == [
        "ask 1",
        "good 1",
        "bad 1",
        "worse",
    ]
    assert said == [
        "flag: 3 rows; anchor <- query, positive <- pos[0], negative_1 <- neg[0], "
        "negative_2 <- neg[1]; of the lists in pos the first texts only; ignored: type"
    ]
    rows[2]["pos"] = []
    assert "row 3: 'pos' is an empty list" in error_of(write(tmp_path / "none.jsonl", rows))


@pytest.mark.parametrize(
    "name", ["neg", "neg_1", "hard_negative", "hard_negatives", "Hard_Neg", "negs"]
)
def test_the_usual_names_of_negatives_are_taken(tmp_path, name):
    rows = [{"anchor": f"a {n}", "positive": f"p {n}", name: f"n {n}"} for n in range(2)]
    (pairs,) = load(write(tmp_path / "toy.jsonl", rows))
    assert pairs.texts("negative_1") == ["n 0", "n 1"]


def test_negatives_come_in_order_and_scores_are_no_text(tmp_path):
    names = ["negative_10", "negative_2", "positive", "anchor", "negative"]
    rows = [{name: name for name in names} | {"negative_score": 1.5} for _ in range(2)]
    path = write(tmp_path / "toy.jsonl", rows)
    (pairs,) = load(path)
    assert pairs.columns == ("anchor", "positive", "negative_1", "negative_2", "negative_3")
    found = [pairs.texts(role)[1] for role in pairs.columns[2:]]
    assert found == ["negative", "negative_2", "negative_10"]
    (one,) = load(f"{path}?negatives=1")
    assert one.columns == ("anchor", "positive", "negative_1")
    (none,) = load(f"{path}?negatives=0")
    assert none.columns == ("anchor", "positive")
    (chosen,) = load(f"{path}?negative=negative_10&anchor=positive&positive=anchor")
    assert [chosen.texts(role)[0] for role in chosen.columns] == ["positive", "anchor", names[0]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_of_negatives_becomes_as_many_columns_as_its_shortest(tmp_path, kind):
    rows = [
        {"query": f"q{n}", "answer": f"a{n}", "negatives": [f"n{n}{k}" for k in range(3 + n)]}
        for n in range(3)
    ]
    path = write(tmp_path / f"toy.{kind}", rows)
    (pairs,) = load(path)
    assert pairs.columns == ("anchor", "positive", "negative_1", "negative_2", "negative_3")
    assert pairs.texts("negative_3", [2, 0]) == ["n22", "n02"]
    assert list(pairs.chunks())[0][3] == ["n01", "n11", "n21"]
    assert load(f"{path}?negatives=2")[0].columns[-1] == "negative_2"
    rows[1]["negatives"] = []
    assert "row 2: 'negatives' is an empty list" in error_of(write(tmp_path / f"e.{kind}", rows))


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


PAIR = '{"anchor": "a", "positive": "b"}\n'
BROKEN = {
    "empty.jsonl": (b"", "the file is empty"),
    "blank.jsonl": (b"\n \n", "the file is empty"),
    "one.jsonl": (PAIR.encode(), "only 1 row"),
    "broken.jsonl": (f'{PAIR}\n{{"anchor": "a", \n{PAIR}'.encode(), "line 3: no JSON at column"),
    "cut.jsonl": (f'{PAIR}{{"anchor": "a"'.encode(), "line 2: no JSON at column 15"),
    "missing.jsonl": (f'{PAIR}{{"anchor": "a"}}\n'.encode(), "line 2: no column 'positive'"),
    "null.jsonl": (
        f'{PAIR}\n{{"anchor": "a", "positive": null}}\n'.encode(),
        "line 3: 'positive' is null",
    ),
    "mixed.jsonl": (f'{PAIR}{{"anchor": 5, "positive": "b"}}\n'.encode(), "line 2: 'anchor' is 5"),
    "number.jsonl": (
        b'{"anchor": "a", "positive": 1}\n' * 2,
        "line 1: 'positive' is 1, expected a text",
    ),
    "object.jsonl": (
        b'{"anchor": "a", "positive": {"x": "y"}}\n' * 2,
        'line 1: \'positive\' is {"x": "y"}',
    ),
    "list.jsonl": (f"{PAIR}[1]\n".encode(), "line 2: [1] is no object"),
    "surrogate.jsonl": (
        PAIR.encode() + b'{"anchor": "\\ud83d", "positive": "b"}\n',
        "line 2: 'anchor' has half a surrogate pair",
    ),
    "latin.jsonl": (
        PAIR.encode() + '{"anchor": "é", "positive": "b"}\n'.encode("latin1"),
        "line 2: not UTF-8 (byte 0xe9)",
    ),
    "lonely.jsonl": (b'{"anchor": "a"}\n' * 2, "a pair needs two columns of text; it has anchor"),
    "scalar.json": (
        b'[{"anchor": "a", "positive": "b"},\n{"anchor"}]',
        "line 2: no JSON at column",
    ),
    "fake.jsonl.gz": (PAIR.encode() * 3, "a broken gzip after line 0 (Not a gzipped file"),
    "cut.jsonl.gz": (
        gzip.compress(
            PAIR.replace('"b"', f'"{random.Random(0).randbytes(50_000).hex()}"').encode()
            + PAIR.encode()
        )[:-40],
        "a broken gzip after line 1 (Compressed file ended",
    ),
    "empty.jsonl.gz": (gzip.compress(b""), "the file is empty"),
    "long.csv": (b"anchor,positive\na,b\nc,d,e\n", "line 3: 3 fields instead of 2"),
    "short.csv": (b'anchor,positive\n"a\nb",c\nd\n', "line 4: 1 fields instead of 2"),
    "header.csv": (b"anchor,positive\n", "no rows below the header"),
    "twice.csv": (b"anchor,anchor\na,b\nc,d\n", "line 1: column names must differ"),
    "fake.parquet": (b"PAR1 and no more", "no parquet file"),
    "notes.txt": (b"text", "unknown kind of file; give jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_line_and_value(tmp_path, name):
    content, expected = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    message = error_of(str(tmp_path / name))
    assert message.startswith(str(tmp_path / name)) and expected in message


def test_a_broken_shard_is_named(tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl")
    (tmp_path / "train-00001-of-00002.jsonl").write_text(f"{PAIR}{{")
    message = error_of(str(tmp_path))
    assert "train-00001-of-00002.jsonl: line 2: no JSON" in message


def test_parquet_nulls_and_numbers_are_named_by_row(tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[4]["positive"] = None
    assert "row 5: 'positive' is null" in error_of(write(tmp_path / "a.parquet", rows))
    rows = [{"anchor": "a", "positive": n} for n in range(3)]
    assert "column 'positive' is int64, not text" in error_of(write(tmp_path / "b.parquet", rows))
    rows = [{"anchor": "a", "positive": "b", "negatives": ["c", None]} for _ in range(3)]
    assert "row 1: 'negatives[1]' is null" in error_of(write(tmp_path / "c.parquet", rows))


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
