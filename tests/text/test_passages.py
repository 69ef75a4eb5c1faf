"""Passages of a folder of texts, and the lines that show them."""

import pytest

from sse.common.errors import UserError
from sse.text.passages import folder_passages, snippet


def test_a_passage_is_some_paragraphs_and_knows_its_first_line(tmp_path, capsys):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    (tmp_path / "a.md").write_text("red circle\n\n\n" + "blue " * 300 + "\n\ngreen square\n")
    (tmp_path / "b.bin").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    (tmp_path / "d.txt").write_text("one\n\ntwo")
    passages = list(folder_passages(str(tmp_path)))
    places = [passage.where.rpartition("/")[2] for passage in passages]
    assert places == ["a.md:1", "a.md:4", "a.md:6", "d.txt:1"]
    assert passages[-1].text == "one\n\ntwo"
    assert "c.txt: not UTF-8, left out" in capsys.readouterr().err


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(UserError, match="no text file in it"):
        list(folder_passages(str(tmp_path)))


@pytest.mark.parametrize("query", ["zebra", "", "the ZEBRA crosses"])
def test_a_snippet_shows_the_query(query):
    text = "alpha beta gamma " * 40 + "a zebra stands here " + "delta epsilon " * 40
    shown = snippet(text, query, 100)
    assert len(shown) <= 106
    assert ("zebra" in shown) == ("zebra" in query.lower())
    assert snippet("short\n text", "x") == "short text"
