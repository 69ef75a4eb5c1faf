"""A corpus gives its texts, whatever holds it."""

import json

import pytest

from sse.common.errors import UserError
from sse.documents.corpus import corpus_texts
from sse.documents.left_out import LeftOut
from sse.evaluation.collection import load_beir

DOCUMENTS = [
    {"_id": "a", "title": "Tyres", "text": "They lose air."},
    {"_id": "b", "title": "", "text": "No title here."},
    {"_id": "c", "text": "Nor here."},
]


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps(document) for document in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "air"}')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    return folder


def test_a_collection_gives_the_texts_that_its_evaluation_searches(beir):
    assert [*corpus_texts(str(beir))] == load_beir(beir).corpus
    assert [*corpus_texts(str(beir / "corpus.jsonl"))] == load_beir(beir).corpus
    assert next(corpus_texts(str(beir))) == "Tyres They lose air."


def test_a_named_column_is_taken_alone(beir):
    texts = corpus_texts(str(beir / "corpus.jsonl"), column="text")
    assert next(texts) == "They lose air."


def test_a_table_gives_its_column(tmp_path):
    (tmp_path / "x.csv").write_text("id,body\n1,one\n2,two\n")
    assert [*corpus_texts(str(tmp_path / "x.csv"), column="body")] == ["one", "two"]


def test_a_folder_gives_its_passages_and_counts_the_rest(tmp_path):
    (tmp_path / "a.md").write_text("# Head\n\nOne text.\n")
    (tmp_path / "b.bin").write_bytes(b"\0\1")
    left_out = LeftOut()
    assert "One text." in "".join(corpus_texts(str(tmp_path), left_out=left_out))
    assert len(left_out) == 1


def test_a_broken_line_is_named(beir):
    (beir / "corpus.jsonl").write_text('{"_id": "a", "text": 3}')
    with pytest.raises(UserError, match=r"corpus\.jsonl, line 1: 'text' is 3"):
        [*corpus_texts(str(beir))]
