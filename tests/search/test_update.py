"""An index follows its folder: nothing is read twice, lost, or seen before it is whole."""

import io
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import sse
from sse.common.errors import UserError
from sse.search import rows as rows_module
from sse.search import sources as sources_module
from sse.search import store as store_module
from sse.search import update as update_module
from sse.search.index import Index
from sse.search.store import Store
from sse.search.update import Options, delete_from_index, update_index
from sse.serving.encoder import Encoder

REAL = open


@pytest.fixture
def name(tmp_path):
    return tmp_path / "notes.sse"


def found(name, query="zorbium"):
    """The paths of the documents with the words of a query."""
    return sorted(hit.path for hit in Index(name).search(query, mode="keyword")[0])


def test_a_second_run_reads_nothing_again(notes, name, model, monkeypatch):
    first = update_index(notes, name, model)
    assert dict(+first.counts) == {"new": 4}
    monkeypatch.setattr(update_module, "rows_of", None)  # a file that is read would fail
    second = update_index(notes, name)
    assert dict(+second.counts) == {"unchanged": 4} and second.passages == first.passages


def test_new_changed_moved_and_deleted_files_are_told_and_found(notes, name, model):
    update_index(notes, name, model)
    (notes / "new.md").write_text("A zorbium too.")
    (notes / "green.rst").write_text("Green zorbium.")
    (notes / "red/one.md").rename(notes / "moved.md")
    (notes / "blue.html").unlink()
    done = update_index(notes, name)
    counts = {"new": 1, "changed": 1, "moved": 1, "deleted": 1, "unchanged": 1}
    assert dict(+done.counts) == counts
    assert found(name) == ["green.rst", "moved.md", "new.md"]
    assert found(name, "triangle") == found(name, "grass") == []
    assert found(name, "blue") == ["red/two.txt"]


def test_an_update_equals_an_index_made_anew(notes, name, model, tmp_path):
    update_index(notes, name, model)
    for path in ("green.rst", "red/two.txt"):
        (notes / path).write_text(f"A red square in {path}, green and blue.")
    update_index(notes, name)
    update_index(notes, tmp_path / "anew", model)
    for mode in ("dense", "keyword", "hybrid"):
        updated, anew = (
            Index(index).search(["red square", "green"], mode=mode)
            for index in (name, tmp_path / "anew")
        )
        for ours, theirs in zip(updated, anew, strict=True):
            assert {hit.where for hit in ours} == {hit.where for hit in theirs}
            scores = [[hit.score for hit in hits] for hits in (ours, theirs)]
            np.testing.assert_allclose(*scores, atol=1e-5)


def test_many_small_updates_give_the_scores_of_an_index_made_anew(
    notes, name, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(store_module, "PARTS", 3)
    monkeypatch.setattr(store_module, "DEAD", 1.0)  # no rewrite, which would merge too
    update_index(notes, name, model)
    parts = []
    for number in range(5):
        (notes / f"{number}.md").write_text(f"A zorbium of number {number}, red and round.")
        update_index(notes, name)
        facts = Store(name).current().stats.index_stats("stems")
        parts.append(facts["num_indices"])
    update_index(notes, tmp_path / "anew.sse", model)
    ours, anew = (
        {h.path: h.score for h in Index(n).search("a red zorbium", mode="keyword")[0]}
        for n in (name, tmp_path / "anew.sse")
    )
    assert parts == [2, 3, 1, 2, 3] and len(ours) > 5
    assert ours == pytest.approx(anew)


def test_a_file_that_is_too_large_or_grows_is_not_read_for_ever(notes, name, model, monkeypatch):
    (notes / "huge.txt").touch()
    os.truncate(notes / "huge.txt", 1 << 30)
    monkeypatch.setattr(sources_module, "content_hash", lambda path: os.path.getsize(path) and path)
    done = update_index(notes, name, model)
    assert done.left_out.counts == {(".txt", "above 32 MiB"): 1} and done.counts["new"] == 4
    monkeypatch.undo()
    grown = notes / "log.txt"
    grown.write_bytes(b"a" * sources_module.BLOCK * 2)
    digest = sources_module.content_hash(grown)

    class Growing(io.FileIO):
        def read(self, size=-1):
            with REAL(grown, "ab") as file:
                file.write(b"more")
            return super().read(size)

    monkeypatch.setattr("builtins.open", lambda p, m: Growing(p, m) if m == "rb" else REAL(p, m))
    assert sources_module.content_hash(grown) == digest


def test_a_file_without_text_is_left_out_and_not_new(notes, name, model):
    (notes / "binary.txt").write_bytes(b"\0")
    for counts in ({"new": 4}, {"unchanged": 4}):
        done = update_index(notes, name, model)
        assert dict(+done.counts) == counts and len(done.left_out) == 1


def test_a_part_of_the_folder_can_be_updated_alone(notes, name, model):
    update_index(notes, name, model)
    (notes / "red/one.md").write_text("A new zorbium.")
    (notes / "blue.html").unlink()
    done = update_index(notes / "red", name)
    assert dict(+done.counts) == {"changed": 1, "unchanged": 1}
    assert found(name) == ["red/one.md"] and found(name, "triangle") == ["blue.html"]


def test_several_folders_share_an_index(notes, name, model, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.md").write_text("Another zorbium.")
    update_index(notes, name, model)
    update_index(tmp_path / "more", name)
    assert found(name) == ["red/one.md", "x.md"]
    update_index(notes, name)
    assert found(name) == ["red/one.md", "x.md"]


def test_deleted_documents_may_be_gone_already(notes, name, model):
    update_index(notes, name, model)
    shutil.rmtree(notes / "red")
    assert delete_from_index(notes / "red", name).counts["deleted"] == 2
    assert found(name) == [] and found(name, "blue") == ["blue.html"]
    with pytest.raises(UserError, match="has no document there"):
        delete_from_index(notes / "red", name)


def test_until_an_update_is_whole_the_old_index_answers(notes, name, model, monkeypatch):
    update_index(notes, name, model)
    (notes / "red/one.md").write_text("A red circle.")
    (notes / "new.md").write_text("Now zorbium is here.")

    def killed(self, table):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "finish", killed)
        update_index(notes, name)
    assert found(name) == ["red/one.md"]
    update_index(notes, name)
    assert found(name) == ["new.md"]


def test_a_stopped_run_goes_on_behind_what_it_has_written(tmp_path, name, model, monkeypatch):
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps({"text": f"row {n} zorbium"}) + "\n" for n in range(50)))
    monkeypatch.setattr(rows_module, "ROWS", 8)
    written = []

    def stop(count):
        written.append(count)
        if len(written) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_index(table, name, model, progress=stop)
    with pytest.raises(UserError, match="is not finished: run the same 'sse index' again"):
        Index(name)
    again = []
    assert update_index(table, name, model, progress=again.append).passages == 50
    assert sum(again) == 50 - 24
    wheres = {hit.where for hit in Index(name).search("zorbium", k=99, mode="keyword")[0]}
    assert len(wheres) == 50


def test_kill_9_leaves_the_old_index_and_the_next_run_ends_well(notes, name, model):
    update_index(notes, name, model)
    for n in range(400):
        (notes / f"{n}.md").write_text(f"Note {n} about zorbium. " * 50)
    command = [sys.executable, "-m", "sse.cli.main", "index", notes, name, "--quiet"]
    for seconds in (1.5, 2.2):
        process = subprocess.Popen(list(map(str, command)))
        time.sleep(seconds)
        process.kill()
        process.wait()
        assert len(found(name)) in (1, 10)
    update_index(notes, name)
    assert len(Index(name).search("zorbium", k=999, mode="keyword")[0]) == 401


def test_a_run_killed_between_the_two_inverted_indexes_makes_the_other(
    notes, name, model, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setitem(store_module.WORDS, "nothing", "third")
        patch.delitem(store_module.WORDS, "words")
        update_index(notes, name, model)
    update_index(notes, name)
    indexes = {index.name for index in Store(name).current().describe_indices()}
    assert indexes == {"stems", "forms"}


def test_a_file_url_is_its_folder(notes, name, model):
    update_index(notes, f"file://{name}", model)
    assert Index(name).name == Index(f"file://{name}").name == str(name)
    assert found(f"file://{name}") == ["red/one.md"]


def test_a_store_that_does_not_answer_is_one_line(notes, model, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(UserError, match="s3://none/i: no index, .*check bucket, address"):
        update_index(notes, "s3://none/i", model)


def test_a_second_writer_is_refused(notes, name, model):
    update_index(notes, name, model)
    with (
        Store(name).locked(),
        pytest.raises(UserError, match="another process is indexing into it"),
    ):
        update_index(notes, name)
    assert found(name) == ["red/one.md"]


def test_force_makes_the_index_anew_with_another_model(notes, name, model, tmp_path, tokenizer):
    other = sse.export(sse.SSE(tokenizer, 8, seed=1), tmp_path / "other")
    update_index(notes, name, model)
    with pytest.raises(UserError, match="made with another model than"):
        update_index(notes, name, other)
    with pytest.raises(UserError, match="dim 4, but .* has 16"):
        update_index(notes, name, options=Options(dim=4))
    update_index(notes, name, other, force=True)
    opened = Index(name)
    assert opened.dim == 8 and found(name) == ["red/one.md"]
    assert len(os.listdir(name / "models")) == 1, "the old model is gone"


def test_a_model_fitted_to_the_documents_stays_in_the_index(notes, name, model, tmp_path):
    update_index(notes, name, model, Options(fit=True))
    sse.fit(model, notes, tmp_path / "fitted")
    expected = Encoder(tmp_path / "fitted").encode("red square")
    np.testing.assert_array_equal(Index(name).model.encode("red square"), expected)
    (notes / "red/one.md").write_text("A new zorbium.")
    assert update_index(notes, name, model, Options(fit=True)).counts["changed"] == 1
    update_index(notes, tmp_path / "plain", model)
    with pytest.raises(UserError, match="`fit`: .* was made without"):
        update_index(notes, tmp_path / "plain", options=Options(fit=True))


def test_columns_of_tables_are_kept_with_their_types(tmp_path, name, model):
    rows = [
        {"text": "a red circle", "title": "Circle", "price": 3, "tags": ["a"], "year": None},
        {"text": "a blue square", "price": 20.5},
        {"text": "   ", "price": 1},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keep = ("price", "tags")
    done = update_index(tmp_path / "t.jsonl", name, model, Options(keep=keep))
    assert done.left_out.counts == {(".jsonl", "rows without text"): 1}
    opened = Index(name)
    (hit,) = opened.search("red square", where="price < 10")[0]
    assert (hit.text, hit.title, hit.columns) == (
        "a red circle", "Circle", {"price": 3.0, "tags": '["a"]'},
    )  # fmt: skip
    assert hit.where.endswith("t.jsonl:1")
    rows.append({"text": "green", "price": "dear"})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="row 4: 'price' is 'dear', but the index keeps double"):
        update_index(tmp_path / "t.jsonl", name)
    assert len(Index(name)) == 2


BAD = [
    ({"source": "nowhere"}, "no such file or folder"),
    ({"source": "empty"}, "no file to index: it is empty"),
    ({"source": "binary"}, "no text to index: 1 left out"),
    ({"model": None}, "is new: name its model with `model`"),
    ({"options": Options(keep=("id",))}, "`keep` id: no table has such a column"),
    ({"options": Options(keep=("path",))}, "`keep` path: the index has a column of that name"),
    ({"strict": True}, "1 left out"),
    ({"name": "memory://a/b"}, "memory://a/b: an index is a folder, or a URL of s3, gs, az"),
    ({"name": "."}, "is a folder with other files"),
    ({"name": "file"}, "is a file, and no index"),
    ({"name": "old.sse"}, "was made by an older version"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    notes, model, tmp_path, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary/x.txt").write_bytes(b"\0")
    (notes / "x.txt").write_bytes(b"\0")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "old.sse").write_bytes(b"ARROW1\0\0")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        update_index(**{"source": notes, "name": "new.sse", "model": model, **change})
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != ".lock"] == before


def test_vectors_that_are_no_numbers_are_refused(notes, name, model, encoder, monkeypatch):
    monkeypatch.setattr(type(encoder), "encode", lambda *a, **k: np.full((4, 16), np.nan))
    with pytest.raises(UserError, match="gives vectors that are no numbers"):
        update_index(notes, name, model)
    assert not name.exists()


def test_a_folder_that_cannot_be_opened_is_told(notes, name, model):
    if os.geteuid() == 0:
        (notes / "loop").symlink_to(notes)
        reason = "a link to a folder that was read"
    else:
        (notes / "red").chmod(0)
        reason = "permission denied"
    done = update_index(notes, name, model)
    (notes / "red").chmod(0o755)
    assert ("folder", reason) in done.left_out.counts
