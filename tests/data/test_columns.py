"""Which columns of a file are anchor, positive and negatives, and what is said about it."""

import pytest

from sse.data.pair_set import load_sets
from tests.helpers.pair_files import error_of, load, write


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
