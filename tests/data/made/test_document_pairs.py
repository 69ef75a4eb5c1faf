"""A folder of documents as a set of pairs."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sse.common.errors import UserError
from sse.data.made.document_pairs import document_pairs
from sse.data.split import hold_out, one_of_each


@pytest.fixture
def notes(tmp_path):
    """Twenty notes of several sections each, and a picture."""
    root = tmp_path / "notes"
    root.mkdir()
    for n in range(20):
        word = "".join(chr(97 + int(digit)) * 3 for digit in f"{n:02}")
        body = f"About {word} there is much to say. It is {word} that grows here. Water it, {word}."
        parts = "".join(
            f"\n## Care of {word} number {i}\n\n{i} {body} {word} {i}.\n" for i in "abc"
        )
        (root / f"{n}.md").write_text(f"# The plant {word}\n\n{body}\n{parts}")
    (root / "x.png").write_bytes(b"\x89PNG")
    return root


def test_the_pairs_know_their_documents_and_come_from_the_cache_again(notes, tmp_path):
    said = []
    found = document_pairs(str(notes), tmp_path, say=said.append)
    assert said[0].endswith("20 documents; 1 left out (.png 1 no known format)")
    assert said[1].startswith("pairs made of them: heading 60")
    assert found.columns == ("anchor", "positive")
    assert len(np.unique(found.groups[:, 0])) == 20
    for path in notes.glob("*.md"):
        path.chmod(0)  # not read again
    said_again = []
    again = document_pairs(str(notes), tmp_path, say=said_again.append)
    assert again.fingerprint == found.fingerprint
    assert said_again == said


def test_a_cap_spreads_over_the_documents(notes, tmp_path):
    found = document_pairs(str(notes), tmp_path, cap=40)
    assert len(found) == len(found.groups) == 40
    assert len(np.unique(found.groups[:, 0])) == 20


def test_a_changed_file_gives_other_pairs(notes, tmp_path):
    found = document_pairs(str(notes), tmp_path)
    (notes / "0.md").write_text("# Another plant\n\nIt grows well here. It needs no water. " * 3)
    assert document_pairs(str(notes), tmp_path).fingerprint != found.fingerprint


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_each_row_of_a_table_is_a_document(tmp_path, ending):
    rows = [
        {
            "title": f"The plant {word}",
            "text": f"About {word} there is much to say. It is {word} that grows here in spring. "
            f"Water it, dear {word}, with care and patience.",
        }
        for word in ("aaa", "bbb", "ccc")
    ]
    path = tmp_path / f"plants.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["title", "text"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    found = document_pairs(str(path), tmp_path / "cache", say=said.append)
    assert said == [f"{path}: 3 documents", "pairs made of them: title 3, first 3, neighbour 6"]
    assert found.texts("anchor", [0]) == ["The plant aaa"]
    assert found.texts("positive", [0]) == [rows[0]["text"]]
    assert len(np.unique(found.groups[:, 0])) == 3


def test_a_broken_row_of_a_table_of_documents_is_one_clear_line(tmp_path):
    path = tmp_path / "plants.jsonl"
    path.write_text('{"text": "It grows. It grows well here."}\n{"text": 3}\n')
    with pytest.raises(UserError, match="plants.jsonl, line 2"):
        document_pairs(str(path), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("documents-*"))


def test_whole_documents_are_held_out(notes, tmp_path):
    found = document_pairs(str(notes), tmp_path)
    ids = np.arange(2 * len(found), dtype=np.uint64).reshape(-1, 2)
    (held,) = hold_out([ids], 1000, [found.groups])
    documents = found.groups[:, 0]
    assert 0 < len(np.unique(found.groups[held, 1])) <= len(np.unique(found.groups[:, 1])) // 10
    assert not set(documents[held]) & set(np.delete(documents, held))


def test_one_pair_of_each_passage_is_evaluated(notes, tmp_path):
    found = document_pairs(str(notes), tmp_path)
    rows = one_of_each(found.groups, np.arange(0, len(found)))
    assert len(rows) < len(found)
    assert len(rows) == len(np.unique(found.groups[:, 1])) == len(np.unique(found.groups[rows, 1]))
    assert one_of_each(None, rows) is rows


def test_a_set_of_documents_beside_one_of_pairs_gives_its_share(notes, tmp_path):
    found = document_pairs(str(notes), tmp_path)
    ids = np.random.default_rng(0).integers(0, 2**63, (2, len(found), 2)).astype(np.uint64)
    plain, grouped = hold_out([*ids], 20, [None, found.groups])
    assert len(plain) == 10
    assert 0 < len(np.unique(found.groups[grouped, 1])) <= 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["heading", "head"]}, "'head': choose of question, heading"),
        ({"strict": True}, "1 left out"),
    ],
)
def test_a_bad_option_or_a_strict_one_is_refused(notes, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        document_pairs(str(notes), tmp_path, **options)


def test_documents_without_pairs_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError, match="1 documents and no pairs"):
        document_pairs(str(tmp_path), tmp_path / "cache")
    assert os.listdir(tmp_path / "cache")
