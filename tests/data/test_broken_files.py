"""A broken file of pairs is named with its line and value."""

import gzip
import random

import pytest

from tests.helpers.pair_files import ROWS, error_of, write

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
