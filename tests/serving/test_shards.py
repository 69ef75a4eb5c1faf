"""Encoding a corpus in shards: what is refused, written, set aside, and gone on with."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sse
from sse.cli.encode_corpus import main
from sse.serving.encoder import Encoder
from sse.serving.ray_workers import folder_for, model_files
from sse.serving.shards import Store
from tests.helpers.samples import sentences

ENCODE = Path(__file__).parents[2] / "experiments" / "encode_corpus.py"


@pytest.fixture(scope="session")
def ray():
    """One small Ray for all tests."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra `cluster`")
    pytest.importorskip("ray.data")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
    ray.init(num_cpus=2, object_store_memory=100_000_000, **quiet)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return str(sse.export(sse.SSE(tokenizer, 16, seed=0), tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def corpus(tmp_path):
    """500 lines in six files, the last of them packed."""
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(sentences(500))]
    for number, name in enumerate("abcde"):
        (folder / f"{name}.jsonl").write_text("".join(lines[90 * number : 90 * (number + 1)]))
    (folder / "f.jsonl.gz").write_bytes(gzip.compress("".join(lines[450:]).encode()))
    return folder


def run(source, out, model, *options):
    return main([str(source), str(out), "--model", model, "--quiet", *map(str, options)])


def failure(capsys, *arguments):
    """The one line on standard error."""
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


def shards(folder):
    return sorted(Path(folder).glob("part-*.parquet"))


def content(folder):
    files = {*Path(folder).glob("*"), *Path(folder).glob("_rejected/*")}
    return {p.name: p.read_bytes() for p in files if p.is_file()}


# The folder of shards: no Ray.


def test_files_in_an_object_store_are_whole_or_absent(tmp_path):
    store = Store("memory://shards/out")
    with pytest.raises(RuntimeError), store.whole("part-00000.parquet") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert store.names() == set()
    with store.whole("part-00000.parquet") as path:
        path.write_bytes(b"all")
    assert store.names() == {"part-00000.parquet"} and store.read("part-00000.parquet") == b"all"


# Mistakes: found before Ray starts.


def test_every_mistake_is_one_line(corpus, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sse.cli.encode_corpus.ray_session", None)
    pytest.importorskip("ray")
    a, out = corpus / "a.jsonl", tmp_path / "out"
    assert "no folder" in failure(capsys, a, out, str(tmp_path / "none"))
    assert "no such file" in failure(capsys, tmp_path / "none", out, model)
    assert "no file of a known kind" in failure(capsys, tmp_path / "*.csv", out, model)
    assert "no column 'body': it has id, text" in failure(capsys, a, out, model, "--text", "body")
    assert "no column 'url'" in failure(capsys, a, out, model, "--keep", "url")
    assert "expected texts" in failure(capsys, a, out, model, "--text", "id")
    assert "--dim 17" in failure(capsys, a, out, model, "--dim", 17)
    assert "--prompt 'x'" in failure(capsys, a, out, model, "--prompt", "x")
    assert "at least 1" in failure(capsys, a, out, model, "--shard_rows", 0)
    (tmp_path / "empty.jsonl").touch()
    assert "empty" in failure(capsys, tmp_path / "empty.jsonl", out, model)
    assert "is a file" in failure(capsys, a, tmp_path / "empty.jsonl", model)
    pq.write_table(pa.table({"text": ["red"]}), corpus / "c.parquet")
    assert "one after the other" in failure(capsys, corpus, out, model)
    assert "no such" in failure(capsys, f"file://{tmp_path}/none", out, model)
    assert "Protocol not known" in failure(capsys, "nowhere://x", out, model)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    assert "mine.txt" in failure(capsys, a, out, model)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"format": 1, "pieces": []}', "_manifest.json has format 1, this version's is 2"),
        ('{"format": 2}', "_manifest.json is damaged"),
        ("[", "_manifest.json is damaged"),
    ],
)
def test_a_manifest_of_another_version_or_a_damaged_one_is_refused(
    corpus, model, tmp_path, capsys, manifest, message
):
    pytest.importorskip("ray")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_manifest.json").write_text(manifest)
    line = failure(capsys, corpus, tmp_path / "out", model)
    assert message in line and "choose another folder" in line


def test_without_ray_the_way_out_is_one_line(corpus, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = failure(capsys, corpus, tmp_path / "out", model)
    assert "pip install 'stable-static-embedding[cluster]'" in message


# Shards: with Ray.


@pytest.mark.cluster
def test_shards_hold_what_the_encoder_gives_and_are_made_once(
    ray, corpus, model, tokenizer, tmp_path, capsys
):
    source, out = f"file://{corpus}", tmp_path / "out"
    assert run(source, out, model, "--dim", 8) == 0
    assert [p.name for p in shards(out)] == [f"part-{n:05d}.parquet" for n in range(6)]
    table = pq.read_table(out)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
    frame = pd.read_parquet(out)
    assert frame["id"].tolist() == list(range(500))
    vectors = Encoder(model).encode(sentences(500), dim=8)
    assert (np.stack(frame["vector"]) == vectors).all()
    before = content(out)

    # A shard that is missing is made again, to the byte; the others are not touched.
    (out / "part-00002.parquet").unlink()
    others = {p: p.stat().st_mtime_ns for p in shards(out)}
    assert run(source, out, model, "--dim", 8) == 0
    assert content(out) == before
    assert all(p.stat().st_mtime_ns == others.get(p, p.stat().st_mtime_ns) for p in shards(out))

    # Anything else is refused, and the difference named.
    other = str(sse.export(sse.SSE(tokenizer, 16, seed=1), tmp_path / "other"))
    same = ("--dim", 8)
    assert "another model" in failure(capsys, source, out, other, *same)
    assert "dim 8, not 16" in failure(capsys, source, out, model)
    assert "float16" in failure(capsys, source, out, model, *same, "--precision", "float16")
    with open(corpus / "a.jsonl", "a") as file:
        file.write('{"id": 1, "text": "late"}\n')
    assert "a.jsonl was" in failure(capsys, source, out, model, *same)
    assert content(out) == before


@pytest.mark.cluster
def test_rows_per_shard_decide_the_shards_of_parquet_alone(ray, corpus, model, tmp_path, capsys):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": sentences(60)}), path, row_group_size=20)
    assert run(path, tmp_path / "parquet", model, "--shard_rows", 20) == 0
    message = failure(capsys, path, tmp_path / "parquet", model, "--shard_rows", 40)
    assert "--shard-rows 20, not 40" in message
    for rows in (20, 40):  # a file of JSON lines is one shard
        assert run(corpus / "a.jsonl", tmp_path / "lines", model, "--shard_rows", rows) == 0
    assert len(shards(tmp_path / "lines")) == 1


@pytest.mark.cluster
def test_bad_rows_are_counted_and_change_the_exit_code(ray, corpus, model, tmp_path, capsys):
    path = corpus / "c.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": 9, "text": 3}\nbroken\n')
    out = tmp_path / "out"
    code = main([str(corpus), str(out), "-m", model, "--json"])
    totals = json.loads(capsys.readouterr().out)
    assert code == 3 and totals["texts"] == 500 and totals["rejected"] == 2
    (aside,) = (out / "_rejected").iterdir()
    assert aside.name == "part-00002.jsonl"
    entries = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [91, 92]
    assert entries[1].keys() == {"file", "line", "reason", "raw"} and entries[1]["raw"] == "broken"
    assert pq.read_table(out).num_rows == 500


@pytest.mark.cluster
@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_other_precisions_are_plain_lists_too(ray, tmp_path, model, precision):
    source, out = tmp_path / "t.parquet", tmp_path / "out"
    pq.write_table(pa.table({"text": sentences(50), "id": range(50)}), source)
    assert run(source, out, model, "--precision", precision) == 0
    computed = "float32" if precision == "float16" else precision
    expected = Encoder(model).encode(sentences(50), precision=computed)
    vectors = np.stack(pd.read_parquet(out)["vector"])
    assert (vectors == expected.astype(vectors.dtype)).all()
    assert vectors.dtype == {"float16": np.float16, "int8": np.int8, "binary": np.uint8}[precision]


@pytest.mark.cluster
def test_a_cluster_gets_the_model_with_the_work(ray, corpus, model, tmp_path):
    out = tmp_path / "out"
    assert run(corpus / "a.jsonl", out, model, "--cluster", "auto") == 0
    assert pq.read_table(out).num_rows == 90
    files = model_files(Path(model))
    sent = folder_for(files)  # where the workers unpacked it
    assert model_files(sent) == files
    shutil.rmtree(sent)


@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(ray, model, tmp_path, number):
    out, whole, path = tmp_path / "out", tmp_path / "whole", tmp_path / "t.parquet"
    options = ["--shard_rows", "20"]
    pq.write_table(pa.table({"text": sentences(430)}), path, row_group_size=20)
    command = [sys.executable, ENCODE, path, out, "--model", model, "--quiet", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not shards(out):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, message = process.communicate()
    made = shards(out)
    assert 0 < len(made) <= 22
    assert all(pq.read_metadata(p).num_rows in (10, 20) for p in made)
    if number == signal.SIGTERM:  # as Ctrl-C, which a shell may have told us to ignore
        assert process.returncode == 130
        assert "shards are whole; the same command goes on" in message
        assert not (out / "_partial").exists()
    assert run(path, out, model, *options) == 0
    assert run(path, whole, model, *options) == 0
    assert content(out) == content(whole)


@pytest.mark.cluster
def test_from_bucket_to_bucket(corpus, model, tmp_path, monkeypatch):
    """Against a server that speaks S3: the shards of the local run, to the byte."""
    pytest.importorskip("ray", reason="Ray is not installed: the extra `cluster`")
    server = pytest.importorskip("moto.server", reason="needs moto[server] and s3fs")
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = server.ThreadedMotoServer(port=0)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        bucket = s3fs.S3FileSystem(skip_instance_cache=True)
        bucket.mkdir("bucket")
        bucket.put(str(corpus), "bucket/in", recursive=True)
        for _ in range(2):  # the second time all are there
            command = ["s3://bucket/in", "s3://bucket/out", "--model", model]
            done = subprocess.run([sys.executable, ENCODE, *command], capture_output=True)
            assert done.returncode == 0, done.stderr
        assert run(corpus, tmp_path / "out", model) == 0
        names = {name.rpartition("/")[2] for name in bucket.ls("bucket/out")}
        assert names == {*(path.name for path in shards(tmp_path / "out")), "_manifest.json"}
        for path in shards(tmp_path / "out"):
            assert bucket.cat_file(f"bucket/out/{path.name}") == path.read_bytes()
    finally:
        server.stop()
