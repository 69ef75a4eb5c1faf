"""Passages of a document."""

import pytest

from sse.common.errors import UserError
from sse.documents.left_out import LeftOut
from sse.documents.passages import passages
from sse.documents.read import read_document


def read(folder, text, name="a.md"):
    (folder / name).write_text(text)
    return read_document(folder / name, LeftOut())


def test_a_passage_knows_path_title_heading_position_and_number(tmp_path):
    found = list(
        passages(read(tmp_path, "# Bread\n\nFeed.\n\n## Care\n### Cold\n\nKeep.\n\nCool.\n"))
    )
    path = str(tmp_path / "a.md")
    assert [(p.text, p.path, p.title, p.heading, p.position, p.index) for p in found] == [
        ("Feed.", path, "Bread", "", 3, 0),
        ("Keep.\n\nCool.", path, "Bread", "Care > Cold", 8, 1),
    ]
    assert found[1].with_headings() == "Bread > Care > Cold\nKeep.\n\nCool."


def test_a_long_paragraph_is_cut_at_sentences_and_a_long_sentence_at_words(tmp_path):
    text = "One two three. " * 10 + "word " * 60 + "\n\n" + "x" * 250
    found = [p.text for p in passages(read(tmp_path, text), size=100)]
    assert all(len(text) <= 100 for text in found)
    assert found[0].endswith("three.")
    assert "".join("".join(found).split()) == "".join(text.split())


def test_an_overlap_repeats_whole_sentences_and_keeps_their_lines(tmp_path):
    text = "\n".join(f"This is the sentence number {number}." for number in range(20))
    found = list(passages(read(tmp_path, text), size=110, overlap=40))
    for one, two in zip(found, found[1:], strict=False):
        assert two.text.split("\n")[0] == one.text.split("\n")[-1]
    lines = [text.split("\n").index(p.text.split("\n")[0]) + 1 for p in found]
    assert [p.position for p in found] == lines


@pytest.mark.parametrize(("size", "overlap"), [(10, 0), (100, -1), (100, 60)])
def test_a_size_or_overlap_out_of_range_is_refused(tmp_path, size, overlap):
    with pytest.raises(UserError, match="size|overlap"):
        list(passages(read(tmp_path, "text"), size, overlap))
