"""What of a corpus is found, cut, read and set aside."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sse.common.errors import UserError
from sse.serving.corpus_batches import PLACES, CorpusColumns, read_shard
from sse.serving.corpus_files import find_files, shards_of
from tests.helpers.samples import sentences

IDS = (("id", pa.int64()),)


def read(path, rows, kept=IDS, places=False):
    """(numbers of the shards' first rows, texts, kept rows, rejected)."""
    columns = CorpusColumns("text", pa.schema(list(kept)), places)
    shards = shards_of(find_files(str(path)), rows)
    batches = [batch for shard in shards for batch in read_shard(shard, columns)]
    texts = [text for batch in batches for text in batch.texts]
    table = pa.concat_tables([batch.columns for batch in batches])
    return (
        [shard.first for shard in shards],
        texts,
        table.to_pylist(),
        [entry for batch in batches for entry in batch.rejected],
    )


def test_a_file_of_json_lines_is_one_shard_packed_or_not(tmp_path):
    lines = [json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(sentences(500))]
    (tmp_path / "a.jsonl").write_text("".join(lines[:430]).rstrip("\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[430:]).encode()))
    (tmp_path / "c.jsonl").touch()
    (tmp_path / "_d.jsonl").write_text("hidden")
    first, texts, kept, rejected = read(tmp_path, 7)
    assert first == [0, 0] and texts == sentences(500) and not rejected
    assert [row["id"] for row in kept] == list(range(500))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, [0, 64, 128, 192, 256]), (64, [0, 64, 128, 192, 256]), (65, [0, 128, 256]), (1000, [0])],
)
def test_a_parquet_file_is_cut_at_row_groups_of_at_least_so_many_rows(tmp_path, rows, expected):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": sentences(300), "id": range(300)}), path, row_group_size=64)
    first, texts, kept, rejected = read(path, rows, kept=(*PLACES, *IDS), places=True)
    assert first == expected
    assert texts == sentences(300) and not rejected
    assert [row["id"] for row in kept] == [row["row"] for row in kept] == list(range(300))


def test_batches_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("sse.serving.corpus_batches.BYTES", 10_000)
    lines = [json.dumps({"id": n, "text": "x" * 1000}) + "\n" for n in range(100)]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    (shard,) = shards_of(find_files(str(tmp_path / "t.jsonl")), 1)
    batches = read_shard(shard, CorpusColumns("text", pa.schema(IDS), places=False))
    sizes = [len(batch.texts) for batch in batches]
    assert max(sizes) == 10 and sum(sizes) == 100


def test_files_without_rows_have_no_shard(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no rows, expected texts"):
        read(tmp_path, 9)


def test_rows_that_cannot_be_encoded_are_set_aside_with_line_and_reason(tmp_path):
    lines = [b'{"id": 1, "text": "red"}', b'{"id": 2, "text": null}', b"", b'{"id": 3,', b"[4]"]
    lines += [b'{"id": 5, "text": "\xff"}', b'{"id": 6}', b'{"id": "x", "text": "blue"}']
    lines += [b'{"id": 7, "text": "\\ud800"}', b'{"id": 8, "text": "\\ud83d\\ude00"}']
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    _, texts, kept, rejected = read(tmp_path / "t.jsonl", 3)
    assert texts == ["red", "\N{GRINNING FACE}"] and [row["id"] for row in kept] == [1, 8]
    reasons = {bad["line"]: bad["reason"] for bad in rejected}
    assert list(reasons) == [2, 4, 5, 6, 7, 8, 9]
    words = ["null", "JSON", "object", "UTF-8", "column", "int64", "surrogate"]
    assert all(word in why for word, why in zip(words, reasons.values(), strict=True))
    assert all(bad["file"].endswith("t.jsonl") and bad["raw"] for bad in rejected)


def test_nulls_and_broken_utf8_in_parquet_are_set_aside_with_their_row(tmp_path):
    data = [b"red", None, b"\xff\xfe", b"blue"]
    text = pa.array(data, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text, "id": [4, 5, 6, 7]}), tmp_path / "t.parquet")
    _, texts, kept, rejected = read(tmp_path / "t.parquet", 3)
    assert texts == ["red", "blue"] and [row["id"] for row in kept] == [4, 7]
    assert [(bad["row"], bad["kept"]["id"]) for bad in rejected] == [(1, 5), (2, 6)]
    assert "null" in rejected[0]["reason"] and "UTF-8" in rejected[1]["reason"]


def test_without_ids_file_and_line_stand_beside_the_vector(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "red"}\n\n{"text": "blue"}\n')
    _, _, kept, _ = read(tmp_path / "t.jsonl", 9, kept=PLACES, places=True)
    assert [row["row"] for row in kept] == [1, 3]
    assert kept[0]["file"] == f"file://{tmp_path}/t.jsonl"


def test_a_gzip_that_breaks_off_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 1, "text": "red"}\n' * 100)[:-10])
    with pytest.raises(UserError, match="b.jsonl.gz: a broken gzip after line"):
        read(path, 100)
