"""`sse encode`: every format, and what is left when it goes wrong."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sse.cli.main import main
from sse.serving.encoder import Encoder
from tests.helpers.commands import TEXTS, failure


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "t.jsonl.gz", "t.csv", "t.parquet"])
@pytest.mark.parametrize("out", ["o.parquet", "o.npy", "o.jsonl"])
def test_every_format_in_and_out(model, inputs, tmp_path, name, out):
    target = tmp_path / out
    assert main(["encode", str(inputs / name), str(target), "-m", model, "--quiet"]) == 0
    if out == "o.npy":
        vectors = np.load(target)
    elif out == "o.parquet":
        table = pq.read_table(target)
        assert table.column("text").to_pylist() == TEXTS
        assert table.schema.field("vector").type == pa.list_(pa.float32(), 16)
        vectors = np.array(table.column("vector").to_pylist(), np.float32)
    else:
        records = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
        assert [r["text"] for r in records] == TEXTS
        vectors = np.array([r["vector"] for r in records], np.float32)
    np.testing.assert_array_equal(vectors, Encoder(model).encode(TEXTS))


def test_columns_precision_dim_and_no_text(model, inputs, tmp_path):
    target = tmp_path / "o.parquet"
    options = [
        "--dim",
        "9",
        "--precision",
        "binary",
        "--keep",
        "id",
        "--no-text",
        "--batch-size",
        "1",
        "--quiet",
    ]
    assert main(["encode", str(inputs / "t.csv"), str(target), "-m", model, *options]) == 0
    table = pq.read_table(target)
    assert table.schema.names == ["id", "vector"]
    bits = np.array(table.column("vector").to_pylist(), np.uint8)
    np.testing.assert_array_equal(bits, Encoder(model).encode(TEXTS, dim=9, precision="binary"))


def test_pipes(model, monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(b"red\nblue\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["encode", "-", "-", "-m", model, "--json"]) == 0
    streams = capsys.readouterr()
    records = [json.loads(line) for line in streams.out.splitlines()]
    assert [r["text"] for r in records] == ["red", "blue"]
    assert json.loads(streams.err)["texts"] == 2


def test_no_texts_give_a_file_without_rows(model, tmp_path):
    (tmp_path / "t.txt").write_text("")
    for name in ("o.npy", "o.parquet", "o.jsonl"):
        assert main(["encode", str(tmp_path / "t.txt"), str(tmp_path / name), "-m", model]) == 0
    assert np.load(tmp_path / "o.npy").shape == (0, 16)
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0


BAD_FILES = [
    ("t.txt", b"fine\n\x89PNG\xff\n", "line 2: not UTF-8"),
    ("t.jsonl", b'{"text": "a"}\n{"text": 5}\n', "line 2: 'text' is 5, expected a text"),
    ("t.parquet", b"PAR1 no", "no parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[m for *_, m in BAD_FILES])
def test_a_bad_file_is_one_line_and_leaves_nothing(model, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    code, line = failure(capsys, ["encode", tmp_path / name, tmp_path / "o.npy", "-m", model])
    assert (code, message in line) == (2, True), line
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_force_replaces_and_a_failure_keeps_the_old_file(model, inputs, tmp_path, capsys):
    target = tmp_path / "o.npy"
    target.write_text("old")
    (inputs / "t.txt").write_bytes(b"red\n\xff\n")
    arguments = ["encode", inputs / "t.txt", target, "-m", model, "--force"]
    assert failure(capsys, arguments)[0] == 2
    assert target.read_text() == "old"
    (inputs / "t.txt").write_bytes(b"red\n")
    assert main([str(a) for a in arguments]) == 0
    assert np.load(target).shape == (1, 16)


def test_a_full_disk_is_one_line_and_leaves_nothing(model, inputs, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    code, line = failure(
        capsys, ["encode", inputs / "t.txt", tmp_path / "o" / "o.parquet", "-m", model]
    )
    assert (code, "No space left" in line) == (1, True)
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(model, tmp_path, number):
    reader, writer = os.pipe()  # an endless file
    out = tmp_path / "o"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "sse.cli.main",
        "encode",
        "-",
        str(out / "o.parquet"),
        "-m",
        model,
    ]
    process = subprocess.Popen(
        [*command, "--batch-size", "10"],
        stdin=reader,
        stderr=subprocess.PIPE,
        # A suite started in the background hands Ctrl-C down as ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        pipe.write(b"red circle\n" * 3000)
        deadline = time.time() + 30
        while not list(out.iterdir()) and time.time() < deadline:
            time.sleep(0.05)
        assert [p.suffix for p in out.iterdir()] == [".tmp"]
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        # A signal just before a read is heard after it; a second one might hit the clearing up.
        with contextlib.suppress(BrokenPipeError):
            pipe.write(b"red circle\n")
        _, message = process.communicate(timeout=30)
    assert (process.returncode, message) == (130, b"error: interrupted\n")
    assert list(out.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error(model):
    command = (
        f"yes red | head -20000 | {sys.executable} -m sse.cli.main encode - - -m {model} | head -1"
    )
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert json.loads(result.stdout)["text"] == "red"
    assert "Traceback" not in result.stderr


def test_a_damaged_page_of_a_parquet_file_is_one_line(model, tmp_path, capsys):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196  # the first page's header
    path.write_bytes(content)
    code, message = failure(capsys, ["encode", path, tmp_path / "o.npy", "-m", model])
    assert code == 2 and "t.parquet: damaged after row 0" in message


ODD = [
    [{"a": 1}, "x"],
    [1, "x"],
    [2**70],
    [2**63, -1],
    [[1], 1],
]


@pytest.mark.parametrize("batch", ["1", "100"])
@pytest.mark.parametrize("values", ODD, ids=str)
def test_kept_values_that_fit_no_column_are_one_line_and_others_stay(
    model, tmp_path, capsys, values, batch
):
    lines = [json.dumps({"text": "red", "a": "b", "id": value}) for value in values]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    options = ["-m", model, "--batch-size", batch, "--keep", "a", "--keep", "id", "--quiet"]
    command = ["encode", str(tmp_path / "t.jsonl")]
    code, line = failure(capsys, [*command, tmp_path / "o.parquet", *options])
    assert code == 2 and "--keep" in line and "write jsonl instead" in line
    assert main([*command, str(tmp_path / "o.jsonl"), *options]) == 0
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(r["a"], r["id"]) for r in records] == [("b", value) for value in values]
