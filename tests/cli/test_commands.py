"""The command line: what a user types, what comes out, and what is left when it goes wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sse.cli.main import COMMANDS, OWN_OPTIONS, main
from sse.serving.encoder import Encoder
from tests.helpers.commands import TEXTS, failure

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
