"""Documents out of files and folders, and what is left out."""

import gzip
import os

import pytest

from sse.common.errors import UserError
from sse.documents.left_out import LeftOut
from sse.documents.passages import passages
from sse.documents.read import read_document, read_documents

MARKDOWN = """---
title: "The sourdough"
---
Feed it **daily**, says [Ann](https://ann.example).

# Care
## In summer

Keep it cold.

```sh
# no heading
ls
```
## In winter
Keep it warm.
"""
RST = """
The sourdough
=============

Feed it :ref:`daily <feeding>`::

    ls  # no text

.. index:: care

Care
----

.. note::

   Keep it ``cold``.
"""
ADOC = """= The sourdough
:toc:

Feed it *daily*.

== Care
[source,sh]
----
ls
----

Keep it cold.
"""
ORG = """#+TITLE: The sourdough
Feed it *daily*.
* Care
#+BEGIN_SRC sh
ls
#+END_SRC
Keep it cold.
"""
TEX = r"""\documentclass{article}
\title{The sourdough}
\begin{document}
Feed it \emph{daily}. % a remark
\section{Care}\label{care}
\begin{verbatim}
ls
\end{verbatim}
Keep it cold.
\end{document}
"""
HTML = """<html><head><title>The sourdough</title><style>p {}</style></head><body>
<nav>Home</nav><p>Feed it
<b>daily</b>.</p><h2>Care<a class="headerlink">¶</a></h2><pre>ls</pre><p>Keep it cold.<br>
Always.<footer>(c)</footer></body></html>
"""
NOTEBOOK = """{"cells": [
{"cell_type": "markdown", "source": ["# The sourdough\\n", "Feed it daily."]},
{"cell_type": "code", "source": "ls", "outputs": [{"text": "big"}]},
{"cell_type": "markdown", "source": "## Care\\nKeep it cold."}]}
"""


def document(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    left_out = LeftOut()
    found = read_document(folder / name, left_out)
    assert not left_out.counts
    return found


def parts(found):
    """(headings, text, is it code) of each paragraph."""
    return [(s.headings, p.text, p.code) for s in found.sections for p in s.paragraphs]


def test_markdown_has_headings_listings_and_a_title(tmp_path):
    found = document(tmp_path, "a.md", MARKDOWN)
    assert found.title == "The sourdough"
    assert parts(found) == [
        ((), "Feed it daily, says Ann.", False),
        (("Care", "In summer"), "Keep it cold.", False),
        (("Care", "In summer"), "# no heading\nls", True),
        (("Care", "In winter"), "Keep it warm.", False),
    ]
    assert [p.position for s in found.sections for p in s.paragraphs] == [4, 9, 12, 16]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.rst", RST), ("a.adoc", ADOC), ("a.org", ORG), ("a.tex", TEX), ("a.html", HTML)],
)
def test_a_format_has_title_headings_text_and_listing(tmp_path, name, content):
    found = document(tmp_path, name, content)
    assert found.title == "The sourdough"
    text = [(headings, text) for headings, text, code in parts(found) if not code]
    assert text[0][0] == ()
    assert text[0][1].rstrip(".: ") == "Feed it daily"
    assert [headings for headings, _ in text[1:]] == [("Care",)]
    assert text[1][1].startswith("Keep it cold.")
    assert [text.split("  #")[0] for _, text, code in parts(found) if code] == ["ls"]


def test_a_notebook_gives_its_cells_without_their_outputs(tmp_path):
    found = document(tmp_path, "a.ipynb", NOTEBOOK)
    assert (found.title, found.unit) == ("The sourdough", "cell")
    assert parts(found) == [
        ((), "Feed it daily.", False),
        ((), "ls", True),
        (("Care",), "Keep it cold.", False),
    ]


def test_source_code_has_a_section_for_each_definition(tmp_path):
    found = document(tmp_path, "a.py", "import os\n\n\ndef knead(dough):\n    return dough\n")
    assert parts(found) == [
        ((), "import os", True),
        (("def knead(dough)",), "def knead(dough):\n    return dough", True),
    ]


def test_text_may_be_packed_in_another_encoding_or_without_ending(tmp_path):
    assert parts(document(tmp_path, "a.txt.gz", gzip.compress(b"daily")))[0][1] == "daily"
    assert document(tmp_path, "b.txt", "täglich".encode("utf-16")).sections
    declared = '<meta charset="latin-1"><p>täglich'.encode("latin-1")
    assert parts(document(tmp_path, "c.html", declared)) == [((), "täglich", False)]
    assert document(tmp_path, "README", "daily").title == "README"


MARKS = ["*", "_", "`", "[", "![", "<", "<a", "<!--", "<<", "|", "-", " -", "#", "\\a[", "\\cite["]
MARKS += [
    ":a:`",
    ".. ",
    "\n",
    "\n- ",
    "a. ",
    ". \n",
    "=\n",
    "link:",
    "[[",
    "<p>",
    "<div>",
    "&",
    "def ",
]


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.rst", "a.adoc", "a.org", "a.tex", "a.html", "a.py"]
)
def test_marks_that_never_end_are_read_in_linear_time(tmp_path, name):
    for mark in MARKS:
        (tmp_path / name).write_text(mark * (5_000 // len(mark)))
        found = read_document(tmp_path / name, LeftOut())
        assert found is None or list(passages(found, 200, 50))


@pytest.fixture
def odd_folder(tmp_path):
    """A folder of one good file and many that cannot be read."""
    root = tmp_path / "odd"
    root.mkdir()
    for name, content in {
        "good.txt": b"daily",
        "empty.txt": b" \n",
        "binary.txt": b"a\0b",
        "latin.txt": b"t\xe4glich",
        "cut.txt.gz": gzip.compress(b"daily" * 99)[:20],
        "broken.ipynb": b'{"cells": 3}',
        "picture.png": b"\x89PNG",
        "rows.csv": b"a,b",
        "tags.html": b"<html><script>x</script></html>",
        ".hidden.txt": b"hidden",
    }.items():
        (root / name).write_bytes(content)
    with open(root / "big.txt", "wb") as file:
        file.truncate(1 << 30)
    with open(os.fsencode(root) + b"/n\xffme.txt", "wb") as file:
        file.write(b"daily")
    (root / "circle").symlink_to(root)
    (root / "nowhere.txt").symlink_to(root / "missing")
    os.mkfifo(root / "pipe.txt")
    return root


def test_every_file_that_cannot_be_read_is_counted_with_its_reason(odd_folder):
    left_out = LeftOut()
    assert [d.path for d in read_documents(odd_folder, left_out)] == [str(odd_folder / "good.txt")]
    assert dict(left_out.counts) == {
        (".txt", "empty"): 1,
        (".txt", "binary"): 1,
        (".txt", "not UTF-8"): 1,
        (".txt", "a broken gzip"): 1,
        (".txt", "above 32 MiB"): 1,
        (".txt", "a name that is not UTF-8"): 1,
        (".txt", "no such file or directory"): 1,
        (".txt", "no plain file"): 1,
        (".ipynb", "a broken notebook"): 1,
        (".png", "no known format"): 1,
        (".csv", "a table of rows"): 1,
        (".html", "without text"): 1,
        ("folder", "a link to a folder that was read"): 1,
    }
    assert left_out.summary().startswith("13 left out (")
    with pytest.raises(UserError, match="--strict"):
        left_out.forbid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_counted(tmp_path):
    (tmp_path / "good.txt").write_text("daily")
    (tmp_path / "bad.txt").touch(0)
    (tmp_path / "bad").mkdir(0)
    left_out = LeftOut()
    assert len(list(read_documents(tmp_path, left_out))) == 1
    assert {reason for _, reason in left_out.counts} == {"permission denied"}


def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"daily"))
    read = gzip.GzipFile.read

    def written_to(self, size):
        with open(path, "ab") as file:
            file.write(b"more")
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", written_to)
    left_out = LeftOut()
    assert read_document(path, left_out) is None
    assert list(left_out.counts)[0][1] in ("changed while it was read", "a broken gzip")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder"),
        ("a.png", "no known format"),
        ("folder", "no document"),
    ],
)
def test_one_path_without_a_document_is_refused(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        list(read_documents(tmp_path / name, LeftOut()))
