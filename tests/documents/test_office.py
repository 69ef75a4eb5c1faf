"""PDF, Word, OpenDocument and EPUB."""

import sys

import pytest

from sse.documents import office
from sse.documents.left_out import LeftOut
from sse.documents.read import read_document
from tests.helpers.office_files import docx, epub, odt, pdf, zipped

WORD = [("Title", "Sourdough"), ("", "Feed it."), ("Heading1", "Care"), ("", "Keep it cold.")]
OPEN = (
    '<text:h text:outline-level="1">Sourdough</text:h><text:p>Feed it.</text:p>'
    '<text:h text:outline-level="2">Care</text:h><text:p>Keep it cold.</text:p>'
)
BOOK = ["<p>Feed it.</p>", "<h1>Care</h1><p>Keep it cold.</p>"]


def read(folder, name, data):
    """(document, reasons) of a file with this name and content."""
    (folder / name).write_bytes(data)
    left_out = LeftOut()
    found = read_document(folder / name, left_out)
    return found, [reason for _, reason in left_out.counts]


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.docx", docx(WORD)), ("a.odt", odt(OPEN)), ("a.epub", epub("Sourdough", BOOK))],
)
def test_an_office_file_gives_title_headings_and_paragraphs(tmp_path, name, data):
    pytest.importorskip("kreuzberg", reason="the extra `documents` is not installed")
    found, _ = read(tmp_path, name, data)
    parts = [(s.headings, p.text, p.position) for s in found.sections for p in s.paragraphs]
    assert (found.title, found.unit) == ("Sourdough", "paragraph")
    assert parts == [((), "Feed it.", 1), (("Care",), "Keep it cold.", 2)]


def test_a_paragraph_of_a_pdf_knows_its_page(tmp_path):
    pytest.importorskip("kreuzberg", reason="the extra `documents` is not installed")
    found, _ = read(tmp_path, "a.pdf", pdf(["Feed it every day.", "Keep it cold."]))
    places = {p.text: p.position for s in found.sections for p in s.paragraphs}
    assert (found.title, found.unit) == ("a", "page")
    assert places == {"Feed it every day.": 1, "Keep it cold.": 2}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", pdf(["secret"], locked=True), "encrypted"),
        ("a.pdf", b"%PDF-1.4 broken", "broken"),
        ("a.pdf", pdf([""]), "without text"),
        ("a.docx", b"PK\3\4 broken", "broken"),
        ("a.odt", docx(WORD)[:300], "broken"),
        ("a.epub", zipped({"x": "y"}), "broken"),
        ("a.docx", docx([("", "x" * (2 << 20))]), "above 1 MiB unpacked"),
    ],
    ids=["locked", "broken", "blank", "no zip", "cut", "no book", "bomb"],
)
def test_an_office_file_that_cannot_be_read_is_counted(tmp_path, monkeypatch, name, data, reason):
    pytest.importorskip("kreuzberg", reason="the extra `documents` is not installed")
    monkeypatch.setattr(office, "UNPACKED", 1 << 20)
    assert read(tmp_path, name, data) == (None, [reason])


def test_without_the_extra_office_files_are_counted_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kreuzberg", None)
    assert sorted(office.TYPES) == [".docx", ".epub", ".odt", ".pdf"]
    assert read(tmp_path, "a.pdf", pdf(["x"])) == (
        None,
        ["not read without the extra 'documents'"],
    )
