"""The one reader of records: what it gives, and which file, line and value it names."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sse.common.errors import UserError
from sse.evaluation.collection import load_beir
from sse.serving.corpus_batches import CorpusColumns, read_shard
from sse.serving.corpus_files import find_files, shards_of
from sse.text import parquet_tables, record_files
from sse.text.bad_rows import fault
from sse.text.record_files import open_bytes
from sse.text.records import Record, read_records

TEXTS = ["red circle", "", 'a "quoted", green square', "é漢🎉 blue"]


def write(path, texts=TEXTS):
    """The texts with ids as a file of the kind that the name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.table({"id": map(str, range(len(texts))), "text": texts}), path)
        return path
    if kind == "jsonl":
        content = "".join(json.dumps({"id": f"{n}", "text": t}) + "\n" for n, t in enumerate(texts))
    else:
        separator = "," if kind == "csv" else "\t"
        quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
        rows = "".join(f"{n}{separator}{text}\n" for n, text in enumerate(quoted))
        content = f"\ufeffid{separator}text\n{rows}"
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("t.jsonl", ":1 :2 :3 :4"),
        ("t.jsonl.gz", ":1 :2 :3 :4"),
        ("t.csv", ":2 :3 :4 :5"),
        ("t.tsv.gz", ":2 :3 :4 :5"),
        ("t.parquet", "#0 #1 #2 #3"),
    ],
)
def test_every_kind_of_file_gives_the_same_texts_with_their_places(tmp_path, name, places):
    path = write(tmp_path / name)
    records = list(read_records(str(path), keep=["id"]))
    assert [record.text for record in records] == TEXTS
    assert [record.where for record in records] == [f"{path}{at}" for at in places.split()]
    assert [record.columns for record in records] == [{"id": f"{n}"} for n in range(4)]


def test_plain_lines_are_texts_as_they_stand(tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeff one \r\n\ntwo".encode())
    records = list(read_records(str(tmp_path / "t.txt")))
    assert [record.text for record in records] == [" one ", "", "two"]
    assert records[2] == Record("two", f"{tmp_path}/t.txt:3")


def test_a_record_of_several_lines_is_named_by_its_first(tmp_path):
    (tmp_path / "t.csv").write_text('text,id\n"one\ntwo",1\n\nthree,2\n')
    records = list(read_records(str(tmp_path / "t.csv")))
    assert [record.text for record in records] == ["one\ntwo", "three"]
    assert [record.where.rpartition(":")[2] for record in records] == ["2", "5"]


BAD_FILES = [
    ("t.txt", b"fine\n\x89PNG\xff\n", "line 2: not UTF-8 (byte 0x89)"),
    ("t.txt", b"fine\nzero\x00byte\n", "line 2: holds a zero byte"),
    ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: no JSON at column"),
    ("t.jsonl", b'{"text": "a"}\n["b"]\n', 'line 2: ["b"] is no object'),
    ("t.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: no column 'text': it has body"),
    ("t.jsonl", b'{"text": 5}\n', "which column holds the text"),
    ("t.jsonl", b'{"text": "a"}\n{"text": 5}\n', "line 2: 'text' is 5, expected a text"),
    ("t.jsonl", b"[" * 100_000, "line 1: no JSON (nested too deep)"),
    ("t.jsonl", b'{"text": "a"}\n{"text": ' + b"9" * 5000 + b"}", "line 2: "),
    ("t.csv", b"id,text\n1,a\n2,b,c\n", "line 3: 3 fields instead of 2"),
    ("t.csv", b'id,text\n1,a\n2,"b\n\xff"\n', "line 4: not UTF-8"),
    ("t.csv", b"", "empty, expected a header"),
    ("t.csv", b"a,b\n1,2\n", "which column holds the text? It has a, b"),
    ("t.parquet", b"PAR1 no", "no parquet file"),
    ("t.txt.gz", gzip.compress(b"a\n" * 9999, mtime=0)[:-20], "a broken gzip after line"),
    ("t.txt.gz", b"no gzip", "a broken gzip after line 0"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[m for *_, m in BAD_FILES])
def test_a_bad_file_is_named_with_line_and_value(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        list(read_records(str(path)))
    assert str(raised.value).startswith(str(path)) and message in str(raised.value)


@pytest.mark.parametrize("value", [None, b"\xff"])
def test_a_text_that_parquet_lacks_is_named_by_its_row(tmp_path, value):
    text = pa.array([b"red", value], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "t.parquet")
    reason = "is null" if value is None else "is not UTF-8"
    with pytest.raises(UserError, match=f"t.parquet, row 1: 'text' {reason}"):
        list(read_records(str(tmp_path / "t.parquet")))


SAME = {
    "no JSON": (b'{"_id": "b", ', "no JSON at column 14 (Expecting property name"),
    "too deep": (b"[" * 100_000, "no JSON (nested too deep)"),
    "no object": (b'"b"', '"b" is no object'),
    "no column": (b'{"_id": "b"}', "no column 'text': it has _id"),
    "no text": (b'{"_id": "b", "text": [3]}', "'text' is [3], expected a text"),
    "null": (b'{"_id": "b", "text": null}', "'text' is null, expected a text"),
    "no UTF-8": (b'{"_id": "b", "text": "\xe9"}', "not UTF-8 (byte 0xe9): not a text file"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_fault_has_the_same_reason_for_every_caller(tmp_path, case):
    line, reason = SAME[case]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "fine"}\n' + line + b"\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "fine"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\ta\t1\n")
    for read in (lambda: list(read_records(str(path), column="text")), lambda: load_beir(tmp_path)):
        with pytest.raises(UserError) as raised:
            read()
        assert str(raised.value).startswith(f"{path}, line 2: {reason}")
    columns = CorpusColumns("text", pa.schema([]), places=False)
    (shard,) = shards_of(find_files(str(path)), 9)
    ((entry,),) = (batch.rejected for batch in read_shard(shard, columns))
    assert entry["line"] == 2 and entry["reason"].startswith(reason)
    in_training = reason.replace("[3]", "3")  # which takes lists of texts
    assert fault([path], ["text"]).startswith(f"line 2: {in_training}")


def test_records_are_read_one_by_one(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"fine\n" * 5000 + b"\xff\n")
    records = read_records(str(path))
    assert [next(records).where for _ in range(5000)][-1].endswith("t.txt:5000")
    with pytest.raises(UserError, match="line 5001"):
        next(records)


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MAX_LINE", 1000)
    path = tmp_path / "t.txt.gz"
    path.write_bytes(gzip.compress(b"fine\n" + b"x" * 100_000 + b"\nlast\n"))
    with pytest.raises(UserError, match=r"t.txt.gz, line 2: longer than 1,000 bytes"):
        list(read_records(str(path)))
    with open_bytes(path) as file:  # whoever sets it aside goes on with the next line
        _, long, last = record_files.numbered(file, "t")
    assert long.place == "line 2" and len(long.raw) <= 2000 and last == (3, "last\n")


def test_tables_of_long_rows_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_tables, "BYTES", 10_000)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["x" * 1000] * 100}), path)
    sizes = [
        (at, len(t)) for at, t in parquet_tables.tables(parquet_tables.open_parquet(str(path)), "t")
    ]
    assert max(size for _, size in sizes) <= 10
    ends = [at + size for at, size in sizes]
    assert [at for at, _ in sizes] == [0, *ends[:-1]] and ends[-1] == 100


def test_a_remote_file_is_read_as_a_local_one(tmp_path):
    import fsspec

    data = write(tmp_path / "t.jsonl.gz").read_bytes()
    with fsspec.open("memory://records/t.jsonl.gz", "wb") as file:
        file.write(data)
    for source in (
        tmp_path / "t.jsonl.gz",
        f"file://{tmp_path}/t.jsonl.gz",
        "memory://records/t.jsonl.gz",
    ):
        with open_bytes(source) as file:
            assert file.read() == gzip.decompress(data)
