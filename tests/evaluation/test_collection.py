"""Collections are read as BEIR and sentence-transformers read them; bad files say where."""

import gzip
import json
import shutil

import pytest
from sentence_transformers.sentence_transformer.evaluation import NanoBEIREvaluator

from sse.common import hub
from sse.common.errors import UserError
from sse.evaluation import nanobeir
from sse.evaluation.collection import load_beir, pairs_collection
from sse.evaluation.nanobeir import load_nanobeir

CORPUS = [
    {"_id": "d1", "title": "Title", "text": "body of one"},
    {"_id": "d2", "title": "", "text": "body of two"},
    {"_id": "d3", "text": "no title  "},
    {"_id": 4, "title": None, "text": "número cuatro 🌍", "metadata": {}},
]
QUERIES = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(1, 5)]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\t4\t2\nq3\td3\t0\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "tiny"
    (root / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", CORPUS), ("queries", QUERIES)):
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        (root / f"{name}.jsonl").write_text(text, "utf-8")
    (root / "qrels" / "test.tsv").write_text(QRELS)
    return root


def test_a_text_is_title_space_text_and_only_judged_queries_stay(folder):
    collection = load_beir(folder)
    assert collection.name == "tiny"
    assert collection.corpus_ids == ["d1", "d2", "d3", "4"]
    assert collection.corpus == ["Title body of one", "body of two", "no title  ",
                                 "número cuatro 🌍"]  # fmt: skip
    # q3 has no relevant document, q4 no judgement at all.
    assert collection.query_ids == ["q1", "q2"] and collection.queries == ["query 1", "query 2"]
    assert collection.qrels["q2"] == {"4": 2}


def test_gzipped_files_read_the_same(folder):
    plain = load_beir(folder)
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    assert load_beir(folder) == plain


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_matter(folder):
    plain = load_beir(folder)
    for path in (folder / "corpus.jsonl", folder / "qrels" / "test.tsv"):
        text = path.read_text("utf-8").replace("\n", "\r\n") + "\r\n"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_beir(folder) == plain


def test_judgements_without_a_header_lose_no_line(folder):
    (folder / "qrels" / "test.tsv").write_text(QRELS.split("\n", 1)[1])
    assert load_beir(folder).query_ids == ["q1", "q2"]


def test_the_only_split_is_taken_and_others_are_asked_for(folder):
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert load_beir(folder).query_ids == ["q1", "q2"]
    (folder / "qrels" / "train.tsv").write_text("q4\td2\t1\n")
    assert load_beir(folder, "train").query_ids == ["q4"]
    with pytest.raises(UserError, match=r"qrels/test.tsv: no such file: there is dev, train"):
        load_beir(folder)


def test_half_a_surrogate_pair_becomes_a_question_mark(folder):
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "a \\ud83d b"}\n')
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    assert load_beir(folder).queries == ["a ? b"]


BAD = {
    "unknown query": ("qrels/test.tsv", QRELS + "q9\td1\t1\n",
                      r"qrels/test.tsv, line 6: unknown query id 'q9'"),
    "unknown document": ("qrels/test.tsv", QRELS + "q1\td9\t1\n",
                         r"qrels/test.tsv, line 6: unknown corpus id 'd9'"),
    "score too long": ("qrels/test.tsv", QRELS + f"q1\td3\t1{'0' * 400}\n", "not a whole number"),
    "score of other digits": ("qrels/test.tsv", QRELS + "q1\td3\t1_0\n", "'1_0' is not a whole"),
    "score no number": ("qrels/test.tsv", QRELS + "q1\td3\thigh\n",
                        r"test.tsv, line 6: the score 'high' is not a whole number"),
    "two fields": ("qrels/test.tsv", QRELS + "q1\td3\n", r"test.tsv, line 6: .* has 2 tab-sep"),
    "judged twice": ("qrels/test.tsv", QRELS + "q1\td1\t0\n",
                     r"test.tsv, line 6: 'q1' with 'd1' is judged twice, 1 and 0"),
    "nothing relevant": ("qrels/test.tsv", "q1\td1\t0\n", r"test.tsv: no judgement above 0"),
    "empty qrels": ("qrels/test.tsv", "", r"test.tsv: the file is empty"),
    "broken json": ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": "d2", "te\n',
                    r"corpus.jsonl, line 2: no JSON at column \d+ \(Unterminated string"),
    "no object": ("corpus.jsonl", "[1]\n", r"corpus.jsonl, line 1: \[1\] is no object"),
    "missing column": ("corpus.jsonl", '{"_id": "d1", "body": "x"}\n',
                       r"corpus.jsonl, line 1: no column 'text': it has _id, body"),
    "text is a number": ("corpus.jsonl", '{"_id": "d1", "text": 7}\n',
                         r"corpus.jsonl, line 1: 'text' is 7, expected a text"),
    "title is a list": ("corpus.jsonl", '{"_id": "d1", "text": "x", "title": ["y"]}\n',
                        r"line 1: 'title' is \[\"y\"\], expected a text"),
    "id twice": ("queries.jsonl", '{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "y"}\n',
                 r"queries.jsonl, line 2: the id 'q1' occurs twice"),
    "blank file": ("corpus.jsonl", "\n\n", r"corpus.jsonl: the file is empty"),
    "not UTF-8": ("corpus.jsonl", b'{"_id": "d1", "text": "x"}\n{"_id": "d2", "text": "\xe9"}\n',
                  r"corpus.jsonl, line 2: not UTF-8 \(byte 0xe9\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_with_file_line_and_value(folder, case):
    name, content, message = BAD[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        load_beir(folder)
    assert "\n" not in str(error.value)


def test_a_truncated_gzip_says_after_which_line(folder):
    path = folder / "corpus.jsonl"
    rows = [{"_id": f"d{i}", "text": f"{i * 7919 % 1000} body"} for i in range(5000)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path.unlink()
    (folder / "corpus.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"corpus.jsonl.gz: a broken gzip after line \d{3,}"):
        load_beir(folder)
    (folder / "corpus.jsonl.gz").write_bytes(b"not a gzip")
    with pytest.raises(UserError, match=r"corpus.jsonl.gz: a broken gzip after line 0"):
        load_beir(folder)


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels"])
def test_a_missing_file_is_named(folder, missing):
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=rf"tiny/{missing}.*no such file"):
        load_beir(folder)
    with pytest.raises(UserError, match="no such folder"):
        load_beir(folder / "nowhere")


def test_pairs_merge_equal_texts():
    collection = pairs_collection("held out", ["a", "b", "a", "c"], ["x", "y", "z", "x"])
    assert collection.queries == ["a", "b", "c"] and collection.corpus == ["x", "y", "z"]
    q, d = collection.query_ids, collection.corpus_ids
    assert collection.qrels == {q[0]: {d[0]: 1, d[2]: 1}, q[1]: {d[1]: 1}, q[2]: {d[0]: 1}}
    assert sorted(d) == d
    with pytest.raises(UserError, match="2 anchors and 1 positives"):
        pairs_collection("held out", ["a", "b"], ["x"])


NANO = {
    "NanoMSMARCO": (
        {"_id": ["a", "b", "c"], "text": ["x y", "z", ""]},
        {"_id": ["q", "r"], "text": ["x", "z z"]},
        {"query-id": ["q", "q", "r"], "corpus-id": ["a", "c", "b"]},
    ),
    "NanoNQ": (
        {"_id": ["a"], "text": ["w"]},
        {"_id": ["q", "unjudged"], "text": ["w", "v"]},
        {"query-id": ["q"], "corpus-id": ["a"]},
    ),
}


@pytest.fixture(params=["ids", "lists"])
def nano(tmp_path, request):
    """NanoBEIR's layout, with the index that `datasets` needs to find the subsets.

    A judgement's `corpus-id` is one id or a list of them: both occur.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "nano"
    index = ["---", "configs:"]
    for i, subset in enumerate(("corpus", "queries", "qrels")):
        (root / subset).mkdir(parents=True)
        index += [f"- config_name: {subset}", "  data_files:"]
        for split, tables in NANO.items():
            name = f"{subset}/{split}-00000-of-00001.parquet"
            table = dict(tables[i])
            if subset == "qrels" and request.param == "lists":
                table["corpus-id"] = [[identity] for identity in table["corpus-id"]]
            pq.write_table(pa.table(table), root / name)
            index += [f"  - split: {split}", f"    path: {name}"]
    (root / "README.md").write_text("\n".join([*index, "---", ""]))
    return root


def test_nanobeir_from_a_folder_is_what_sentence_transformers_reads(nano, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    theirs = NanoBEIREvaluator(["msmarco", "nq"], dataset_id=str(nano)).evaluators
    for ours, evaluator in zip(load_nanobeir(str(nano)), theirs, strict=True):
        assert ours.name == evaluator.name
        assert (ours.corpus_ids, ours.corpus) == (evaluator.corpus_ids, evaluator.corpus)
        assert (ours.query_ids, ours.queries) == (evaluator.queries_ids, evaluator.queries)
        assert {q: set(d) for q, d in ours.qrels.items()} == evaluator.relevant_docs


def test_nanobeir_names_pick_collections(nano):
    assert [c.name for c in load_nanobeir(str(nano), ["nq"])] == ["NanoNQ"]
    assert [c.name for c in load_nanobeir(str(nano), ["NanoMSMARCO"])] == ["NanoMSMARCO"]
    with pytest.raises(UserError, match="'scifact' is not in .*: choose from NanoMSMARCO, NanoNQ"):
        load_nanobeir(str(nano), ["scifact"])


def test_bad_nanobeir_folders_say_what_is_wrong(nano, tmp_path):
    file = nano / "qrels" / "NanoNQ-00000-of-00001.parquet"
    file.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"NanoNQ.*parquet: not a readable parquet file"):
        load_nanobeir(str(nano))
    file.unlink()
    with pytest.raises(UserError, match=r"qrels/NanoNQ.parquet: no such file"):
        load_nanobeir(str(nano))
    with pytest.raises(UserError, match="no corpus/Nano<Name>.parquet"):
        load_nanobeir(str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor a hub data set"):
        load_nanobeir(str(tmp_path / "nowhere"))


def test_an_unreachable_hub_is_one_line_that_names_the_set(monkeypatch):
    # The hub's own client stays offline, so asking it fails as without a network.
    monkeypatch.setattr(nanobeir, "offline", lambda: False)
    monkeypatch.setattr(hub, "offline", lambda: False)
    with pytest.raises(UserError, match="some/NanoBEIR-xx: the hub .* local folder") as error:
        load_nanobeir("some/NanoBEIR-xx")
    assert "\n" not in str(error.value)
