"""`sse export --to web` writes model, module and page, or says in one line why not."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

import sse
from sse.cli.main import main
from sse.common.errors import UserError
from sse.serving.encoder import Encoder
from sse.text.tokenizer import TextTokenizer
from sse.web import export
from sse.web.export import write_web


@pytest.fixture
def model(make_model, tmp_path):
    return sse.export(make_model(), tmp_path / "model")


def test_the_folder_holds_model_module_page_and_passages(model, tmp_path, capsys):
    texts, site = tmp_path / "pairs.jsonl", tmp_path / "site"
    texts.write_text('{"q": "red", "a": "a red circle"}\n{"q": "x", "a": "blue \\ud800"}\n')
    command = ["export", str(model), str(site), "--to", "web", "--texts", str(texts)]
    assert main(command) == 2
    assert "name one with --column" in capsys.readouterr().err and not site.exists()
    assert main([*command, "--column", "a", "--rows", "int4", "--dim", "16"]) == 0
    assert "2 passages" in capsys.readouterr().out
    assert json.loads((site / "passages.json").read_text("utf-8")) == ["a red circle", "blue ?"]
    names = sorted(path.name for path in site.iterdir())
    assert names == ["index.html", "model", "passages.json", "sse.mjs"]
    assert Encoder(site / "model").table.kind == "int4"
    assert main([*command, "--column", "a"]) == 2 and "exists" in capsys.readouterr().err
    assert main([*command, "--column", "a", "--force"]) == 0
    small, full = Encoder(site / "model"), Encoder(model)
    assert small.table.kind == "int8"
    np.testing.assert_allclose(small.encode("red"), full.encode("red"), atol=0.05)


def test_a_folder_of_documents_gives_its_passages(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("# Shapes\n\nA red circle.\n")
    (tmp_path / "notes/b.bin").write_bytes(b"\0\1")
    notes = write_web(model, tmp_path / "site", texts=tmp_path / "notes")
    assert notes[0].startswith("1 passages") and notes[1].startswith("1 left out (.bin")
    assert json.loads((tmp_path / "site/passages.json").read_text()) == ["A red circle."]


def test_bad_input_leaves_nothing(model, tokenizer, tmp_path, monkeypatch):
    site = tmp_path / "site"
    with pytest.raises(UserError, match="a web folder holds float32, int8, int4"):
        write_web(model, site, "float16")
    with pytest.raises(UserError, match="no prefix of the model's 32"):
        write_web(model, site, dim=33)
    lower = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    lower.normalizer = Lowercase()
    other = sse.export(sse.SSE(TextTokenizer(lower), 4, seed=0), tmp_path / "other")
    with pytest.raises(UserError, match="normalizer is Lowercase, and the web module runs Bert"):
        write_web(other, site)
    lines = tmp_path / "lines.txt"
    lines.write_text("one\ntwo\nthree\n")
    monkeypatch.setattr(export, "MAX_PASSAGES", 2)
    with pytest.raises(UserError, match="holds more than the 2 passages"):
        write_web(model, site, texts=lines)
    assert not site.exists()
    site.mkdir()
    (site / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write_web(model, site)
    assert [path.name for path in site.iterdir()] == ["mine.txt"]


def test_texts_need_a_web_page(model, tmp_path, capsys):
    assert main(["export", str(model), str(tmp_path / "o"), "--texts", "notes"]) == 2
    assert capsys.readouterr().err == (
        "error: --texts notes: only a web page holds texts; give --to web\n"
    )
