"""The index finds what exact search finds, and says what is wrong with a file."""

import io
import json
import sys

import numpy as np
import pytest

import sse
from sse.cli.main import main
from sse.common.errors import UserError
from sse.serving import index as index_module
from sse.serving.encoder import Encoder
from sse.serving.index import Index, build_index
from sse.text.records import Record

pytest.importorskip("faiss", reason="the extra 'search' is not installed")
from tests.helpers.samples import sentences  # noqa: E402  after the skip

TEXTS = sentences(700, seed=3)


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    folder = sse.export(sse.SSE(tokenizer, 64, seed=0), tmp_path_factory.mktemp("m") / "model")
    return Encoder(folder)


@pytest.fixture(params=["exact", "binary"])
def opened(request, model, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "CHUNK", 256)  # several chunks
    rows = (Record(text, f"f:{n}") for n, text in enumerate(TEXTS))
    assert build_index(rows, model, tmp_path / "i", request.param, batch_size=100) == 700
    return Index(tmp_path / "i")


def best(model, queries, k):
    scores = model.encode(queries) @ model.encode(TEXTS).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def test_finds_what_brute_force_finds(opened, model):
    queries = sentences(20, words=4, seed=9)
    scores, rows = best(model, queries, 5)
    found, at = opened.search_vectors(model.encode(queries), 5, oversampling=40)
    same = np.mean([len(set(a) & set(b)) for a, b in zip(rows.tolist(), at.tolist(), strict=True)])
    assert same >= (5 if opened.kind == "exact" else 4.5)
    np.testing.assert_allclose(
        found[:, 0], scores[:, 0], atol=1e-6 if opened.kind == "exact" else 2e-3
    )


def test_a_text_finds_itself_first(opened):
    for hits, n in zip(opened.search([TEXTS[3], TEXTS[655]], k=3), (3, 655), strict=True):
        assert (hits[0].text, hits[0].where, hits[0].rank) == (TEXTS[n], f"f:{n}", 1)
        assert hits[0].score == pytest.approx(1, abs=1e-3)
        assert hits[0].score >= hits[1].score >= hits[2].score


def test_all_rescored_is_exact(opened, model):
    queries = sentences(5, words=3, seed=11)
    _, rows = best(model, queries, 10)
    _, at = opened.search_vectors(model.encode(queries), 10, oversampling=70)
    overlap = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), at.tolist(), strict=True)]
    assert min(overlap) >= 9  # float16 may swap the tenth with the eleventh


def test_more_results_than_texts_gives_all(opened):
    assert len(opened.search(["red"], k=5000)[0]) == 700


def test_no_texts_leave_no_file(model, tmp_path):
    with pytest.raises(UserError, match="no texts"):
        build_index([], model, tmp_path / "i")
    with pytest.raises(UserError, match="index kind 'hnsw'"):
        build_index([], model, tmp_path / "i", "hnsw")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_leaves_no_file(model, tmp_path):
    def rows():
        yield from (Record(text, "f") for text in TEXTS)
        raise UserError("line 701 is broken")

    with pytest.raises(UserError, match="line 701"):
        build_index(rows(), model, tmp_path / "i", batch_size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"junk" * 100, "truncated"])
def test_a_damaged_file_is_refused(model, tmp_path, content):
    build_index([Record("red", "f:1")], model, tmp_path / "i")
    whole = (tmp_path / "i").read_bytes()
    (tmp_path / "i").write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(UserError, match="no index, or a damaged one"):
        Index(tmp_path / "i")
    with pytest.raises(UserError, match="no such index"):
        Index(tmp_path / "other")


@pytest.mark.parametrize("dim", [64, 16])  # the same dimensions, and fewer than the index has
def test_another_model_is_refused(model, tmp_path, tokenizer, dim):
    build_index([Record("red", "f:1")], model, tmp_path / "i")
    other = sse.export(sse.SSE(tokenizer, dim, seed=5), tmp_path / "other")
    with pytest.raises(UserError, match="another model"):
        Index(tmp_path / "i", model=other)


class TestCommands:
    """`sse index` and `sse search`."""

    @pytest.fixture
    def index(self, model, tmp_path):
        lines = [json.dumps({"text": text}) + "\n" for text in ("red circle", "blue", "green")]
        (tmp_path / "t.jsonl").write_text("".join(lines))
        target = str(tmp_path / "i.sse")
        source = str(tmp_path / "t.jsonl")
        assert main(["index", source, target, "-m", str(model.folder), "--json"]) == 0
        return target

    def test_one_shot(self, index, capsys):
        capsys.readouterr()
        assert main(["search", index, "red", "circle", "-k", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["query"] == "red circle"
        assert [h["rank"] for h in found["hits"]] == [1, 2]
        assert found["hits"][0]["text"] == "red circle"
        assert found["hits"][0]["where"].endswith("t.jsonl:1")

    def test_a_query_a_line(self, index, capsys, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"red circle\n\nblue\n")))
        capsys.readouterr()
        assert main(["search", index, "-k", "1"]) == 0
        shown = capsys.readouterr().out
        assert shown.count("  1. ") == 2
        assert "red circle" in shown

    def test_a_folder_of_texts(self, model, tmp_path, capsys):
        notes = tmp_path / "notes"
        notes.mkdir()
        (notes / "a.md").write_text("red circle\n\n\n" + "blue " * 300 + "\n\ngreen square\n")
        target = str(tmp_path / "i")
        assert main(["index", str(notes), target, "-m", str(model.folder), "--kind", "binary"]) == 0
        capsys.readouterr()
        assert main(["search", target, "green square", "-k", "1"]) == 0
        assert "a.md:6" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["exact", "binary"])
def test_no_flipped_bit_changes_a_result(model, tmp_path, kind):
    path = tmp_path / "i"
    build_index((Record(text, f"f:{n}") for n, text in enumerate(TEXTS[:40])), model, path, kind)
    queries = sentences(5, words=4, seed=9)
    expected = Index(path).search(queries, k=40)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        try:
            assert Index(path, model=model.folder).search(queries, k=40) == expected
        except UserError as error:
            refused += 1
            assert "index" in str(error) and "\n" not in str(error)
    assert refused > 40, "most bytes matter"


def test_texts_of_an_index_cannot_command_the_terminal(model, tmp_path, capsys):
    build_index([Record("red \x1b]0;owned\x07 circle\x9b2J", "f:1")], model, tmp_path / "i")
    assert main(["search", str(tmp_path / "i"), "red", "--full"]) == 0
    shown = capsys.readouterr().out
    assert "red ?]0;owned? circle?2J" in shown and "\x1b" not in shown
