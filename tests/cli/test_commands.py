"""The command line: what a user types, what comes out, and what is left when it goes wrong."""

import contextlib
import gzip
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

import sse
from sse.cli.main import COMMANDS, OWN_OPTIONS, main
from sse.serving.encoder import Encoder

TEXTS = ["red circle", "", 'a "quoted", green square', "é漢🎉 blue"]


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return str(sse.export(sse.SSE(tokenizer, 16, seed=0), tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def inputs(tmp_path):
    """The same texts in every format."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "t.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    lines = "".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(TEXTS))
    (folder / "t.jsonl").write_text(lines, "utf-8")
    (folder / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    quoted = ['"' + t.replace('"', '""') + '"' for t in TEXTS]
    rows = "".join(f"{n},{t}\n" for n, t in enumerate(quoted))
    (folder / "t.csv").write_text("id,text\n" + rows, "utf-8-sig")
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), folder / "t.parquet")
    return folder


def failure(capsys, arguments):
    """Exit code and the one line on stderr."""
    code = main([str(a) for a in arguments])
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return code, message


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


BAD_COMMANDS = [
    (["encode", "nope.txt", "o.npy"], "nope.txt: no such file"),
    (["encode", ".", "o.npy"], ".: is a folder"),
    (["encode", "t.jsonl", "o.xyz"], "o.xyz: end it in .parquet, .npy, .jsonl, or name its --to"),
    (["encode", "t.jsonl", "-", "--to", "npy"], "cannot go to standard output"),
    (["encode", "t.jsonl", "t.npy"], "t.npy exists: give another name, or --force to replace it"),
    (["encode", "t.jsonl", "."], "is a folder"),
    (["encode", "t.jsonl", "o.npy", "--dim", "17"], "--dim 17 is no prefix of the model's 16"),
    (["encode", "t.jsonl", "o.npy", "--column", "body"], "no column 'body': it has"),
    (["encode", "t.parquet", "o.npy", "--column", "body"], "no column 'body': it has"),
    (["encode", "t.parquet", "o.npy", "--column", "id"], "'id' holds int64"),
    (["encode", "t.txt", "o.npy", "--column", "x"], "plain lines have no column"),
    (["encode", "t.jsonl", "o.npy", "--keep", "id"], "npy holds vectors only"),
    (["encode", "t.jsonl", "o.jsonl", "--keep", "id", "--keep", "vector"], "--keep vector: the"),
    (["encode", "t.jsonl", "o.jsonl", "--keep", "text"], "--keep text: the output has its own"),
    (["encode", "t.jsonl", "o.npy", "--batch-size", "0"], "--batch-size: 0: give at least 1"),
    (["encode", "t.jsonl", "o.npy", "--prompt", "q"], "--prompt 'q'"),
    (["encode", "t.jsonl", "o.npy", "--frob"], "unrecognized arguments: --frob"),
    (["encode", "t.jsonl", "o.npy", "-m", "."], "modules.json is missing"),
    (["info", "nothing"], "nothing is no folder"),
    (["export", "MODEL", "."], "exists"),
    (["export", "MODEL", "new", "--rows", "int8", "--dim", "0"], "--dim: 0: give at least 1"),
    (["export", "MODEL", "m.onnx", "--rows", "int4", "--dim", "7"], "pairs of columns"),
    (["evaluate", "nothing"], "nothing is no folder"),
    (["evaluate", "MODEL"], "nothing to evaluate on"),
    (["evaluate", "MODEL", "--beir", "nowhere"], "nowhere"),
    (["index", "t.jsonl", "t.npy"], "t.npy is a file, and no index: index again with --force"),
    (["index", "empty", "o"], "empty: no file to index: it is empty"),
    (["index", "-", "o"], "standard input: name its format with --from"),
    (["index", "t.jsonl", "o", "--keep", "x"], "--keep x: no table has such a column"),
    (["search", "t.npy", "red"], "t.npy is a file, and no index"),
    (["search", "nowhere", "red"], "nowhere: no such index: make one with 'sse index'"),
    (["search", "t.npy", "red", "-k", "0"], "-k: 0: give at least 1"),
    (["frobnicate"], "'frobnicate' is no command"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=[m for _, m in BAD_COMMANDS])
def test_bad_input_is_one_line_and_leaves_nothing(
    model, inputs, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(inputs)
    np.save("t.npy", np.zeros(3))
    (inputs / "empty").mkdir()
    before = sorted(os.listdir("."))
    if arguments[0] in ("encode", "index") and "-m" not in arguments:
        arguments = [*arguments, "-m", model]
    code, line = failure(capsys, [model if a == "MODEL" else a for a in arguments])
    assert (code, message in line) == (2, True), line
    assert sorted(os.listdir(".")) == before


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
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"red circle\n" * 3000)
        pipe.flush()
        deadline = time.time() + 30
        while not list(out.iterdir()) and time.time() < deadline:
            time.sleep(0.05)
        assert [p.suffix for p in out.iterdir()] == [".tmp"]
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        if process.poll() is None:  # it came just before the read: a second one is heard
            process.send_signal(number)
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


def test_encode_and_help_load_no_torch(model, tmp_path):
    (tmp_path / "t.txt").write_text("red\n" * 3000)
    code = (
        "import sys; from sse.cli.main import main; "
        f"assert main(['encode', {str(tmp_path / 't.txt')!r}, {str(tmp_path / 'o.npy')!r}, "
        f"'-m', {model!r}, '--quiet']) == 0; "
        f"assert main(['info', {model!r}, '--json']) == 0 and main(['--help']) == 0; "
        f"assert main(['export', {model!r}, {str(tmp_path / 'small')!r}, '--rows', 'int8']) == 0; "
        "slow = {'torch', 'sentence_transformers', 'transformers', 'datasets', 'lightning'}; "
        "print('loaded:', *sorted(slow & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(OWN_OPTIONS)))
def test_every_command_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert f"sse {name}" in shown


def test_info_names_the_tokenizer_and_why(model, capsys):
    assert main(["info", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokenizer"] in ("nanotoken", "tokenizers")
    assert main(["info", model]) == 0
    assert facts["tokenizer_because"] in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--rows", "int8"], ["--rows", "int4", "--dim", "8"]])
def test_export_keeps_the_vectors(model, tmp_path, capsys, options):
    target = str(tmp_path / "new")
    assert main(["export", model, target, "--json", *options]) == 0
    size = json.loads(capsys.readouterr().out)["bytes"]
    assert size == sum(f.stat().st_size for f in (tmp_path / "new").rglob("*") if f.is_file())
    made = Encoder(target)
    expected = Encoder(model).encode(TEXTS, dim=made.dim)
    atol = {"int8": 0.02, "int4": 0.25}.get(options[1] if options else "", 1e-6)
    np.testing.assert_allclose(made.encode(TEXTS), expected, atol=atol)


def test_export_onnx(model, tmp_path):
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    assert main(["export", model, str(tmp_path / "m.onnx"), "--dim", "8"]) == 0
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_train_hands_over(capsys, monkeypatch):
    import sse.training.run

    handed = []
    monkeypatch.setattr(sse.training.run, "run", lambda arguments: handed.append(arguments) or 0)
    assert main(["train", "--out", "x"]) == 0
    assert handed == [["--out", "x"]]


def test_a_damaged_page_of_a_parquet_file_is_one_line(model, tmp_path, capsys):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196  # the first page's header
    path.write_bytes(content)
    code, message = failure(capsys, ["encode", path, tmp_path / "o.npy", "-m", model])
    assert code == 2 and "t.parquet: damaged after row 0" in message


def test_export_replaces_a_model_folder_only_with_force(model, tmp_path, capsys):
    target = str(tmp_path / "small")
    command = ["export", model, target, "--rows", "int8"]
    assert main(command) == 0
    assert main(command) == 2 and "--force to replace a model folder" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main(["export", model, str(tmp_path / "mine"), "--rows", "int8", "--force"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


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
