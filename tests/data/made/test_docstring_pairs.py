"""The embedded corpus: what makes a pair, and that only the text decides."""

import sys
import textwrap

import pytest

from sse.data.made import docstring_pairs as corpus
from sse.data.made.docstring_pairs import Package, embedded_pairs, extract
from sse.data.made.docstring_text import clean

BODY = "The handle is kept open until the last reader has gone away, and then it is closed."


def docstring(summary, body=BODY):
    return f"{summary}\n\n    {body}\n"


def test_summary_and_rest_make_a_pair():
    assert clean(docstring("Open a file for\n    reading later.")) == (
        "Open a file for reading later.",
        BODY,
    )


@pytest.mark.parametrize(
    "text",
    [
        "Open a file for reading.",
        docstring("Open a file for reading.", "Short."),
        docstring("Open it."),
        docstring("f(x, y, z) -> (a, b, c), (d, e)"),
        docstring("Open a file for reading.", f"Open a file, for reading. {BODY}"),
        docstring("Open a file for reading.", ">>> open('x')\n    <file of a name that is long>"),
        docstring("Open " + "a file for reading and writing " * 12),
        "",
    ],
    ids=["summary only", "short body", "short summary", "signature", "repeats", "doctest", "long"]
    + ["empty"],
)
def test_what_makes_no_pair(text):
    assert clean(text) is None


def test_doctests_underlines_directives_and_control_characters_go():
    text = """Open a file for reading.

    .. versionadded:: 3.1

    Parameters
    ----------
    path : the place\x07 of the file, which has to be there already

    >>> open("somewhere")
    <an opened file>
    ... more

    Afterwards it is closed.
    """
    assert clean(text)[1] == (
        "Parameters path : the place of the file, which has to be there already "
        "Afterwards it is closed."
    )


def test_sections_that_say_little_go_and_the_next_one_stays():
    text = f"""Open a file for reading.

    {BODY}

    See Also
    --------
    close, flush, and so on

    Returns
    -------
    an opened file

    Example:
        handle = open("somewhere")

        print(handle)
    """
    assert clean(text)[1] == f"{BODY} Returns an opened file"


def test_a_long_body_ends_at_a_word():
    body = clean(docstring("Open a file for reading.", "word " * 1000))[1]
    assert 1_900 < len(body) <= 2_000 and body.endswith("word")


@pytest.fixture
def packages(tmp_path):
    """Two packages of a few functions, and files that no parser takes."""
    made = {}
    for name in ("alpha", "beta"):
        folder = tmp_path / name
        folder.mkdir()
        parts = [
            f'def f{k}():\n    r"""Find the {word} of {name}.\n\n    {word.title()} is what {name} '
            f'gives to those who look for it a long time.\n    """\n'
            for k, word in enumerate(["length", "colour", "weight", "origin"])
        ]
        (folder / "good.py").write_text("".join(parts))
        (folder / "broken.py").write_text("".join(parts) + "def oops(:\n")
        (folder / "null.py").write_bytes("".join(parts).encode() + b"\0")
        (folder / "latin.py").write_bytes(
            "".join(parts).replace("look", "l\xf6ok").encode("latin1")
        )
        (folder / "escape.py").write_text(
            "".join(parts).replace('r"""', '"""').replace("look", r"l\dok")
        )
        paths = [str(path) for path in folder.iterdir()] + [str(folder / "gone.py")]
        made[name] = Package("1.0", name, paths)
    return made


def test_files_that_cannot_be_parsed_are_passed_over_silently(packages, recwarn, capsys):
    rows = extract(packages, progress=False)
    assert {row[2] for row in rows} == {"alpha", "beta"}
    assert ("Find the colour of beta.", "beta") in {(row[0], row[2]) for row in rows}
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_the_order_depends_on_the_text_alone(packages):
    rows = extract(packages, progress=False)
    backwards = {
        name: package._replace(paths=package.paths[::-1])
        for name, package in reversed(packages.items())
    }
    assert extract(backwards, progress=False) == rows
    assert rows != sorted(rows), "shuffled, so that a head of it is a fair sample"


def test_pairs_that_differ_in_case_digits_and_marks_only_count_once(packages):
    rows = extract(packages, progress=False)
    summaries = [row[0] for row in rows]
    assert len(set(summaries)) == len(summaries) == 8, "good.py and escape.py say the same"
    kept = corpus._distinct([("A b c", "d e", "p"), ("a, b: C2", "other", "q"), ("x", "D-E!", "r")])
    assert kept == [("A b c", "d e", "p")]


def test_no_code_is_run_and_nothing_is_imported(tmp_path, monkeypatch):
    source = textwrap.dedent(f'''
        """Open the gate of the town.

        {BODY} {BODY}
        """
        raise SystemExit("this file was run")
    ''')
    (tmp_path / "gate_that_nobody_imports.py").write_text(source)
    package = Package("1", "", [str(tmp_path / "gate_that_nobody_imports.py")])
    assert len(extract({"gate": package}, progress=False)) == 1
    assert "gate_that_nobody_imports" not in sys.modules


def test_the_standard_library_and_the_requirements_are_read_but_no_tests_and_nothing_else():
    found = corpus._packages()
    assert {"python", "torch", "numpy", "sympy"} <= set(found), "also what torch requires"
    assert not {"stable-static-embedding", "pytest", "ruff", "mypy", "pip"} & set(found)
    files = [path.replace("\\", "/") for package in found.values() for path in package.paths]
    assert all(path.endswith(".py") for path in files)
    assert not [path for path in files if "/tests/" in path or "/test_" in path]
    assert any(path.endswith("/json/decoder.py") for path in found["python"].paths)


def test_pairs_come_with_counts_and_versions_and_are_kept(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_packages", lambda: packages)
    said = []
    first = embedded_pairs(tmp_path / "kept", said.append, progress=False)
    assert first.columns == ("anchor", "positive") and len(first) == 8
    assert said == ["docstrings: 8 pairs of 2 packages: alpha 1.0 (4), beta 1.0 (4)"]
    assert first.report == ("docstrings: 8 pairs of 2 packages", "alpha 1.0 (4), beta 1.0 (4)")
    monkeypatch.setattr(corpus, "extract", lambda *_: pytest.fail("parsed again"))
    again = embedded_pairs(tmp_path / "kept", said.append, progress=False)
    assert again.fingerprint == first.fingerprint and again.report == first.report
    assert again.texts("positive") == first.texts("positive")


def test_kept_pairs_that_are_damaged_or_of_other_packages_are_made_again(
    packages, tmp_path, monkeypatch
):
    monkeypatch.setattr(corpus, "_packages", lambda: packages)
    first = embedded_pairs(tmp_path / "kept", str, progress=False)
    (kept,) = (tmp_path / "kept").glob("*.parquet")
    kept.write_bytes(kept.read_bytes()[:100])
    assert embedded_pairs(tmp_path / "kept", str, progress=False).fingerprint == first.fingerprint
    packages["beta"] = Package("1.0", "another record", [])
    assert len(embedded_pairs(tmp_path / "kept", str, progress=False)) == 4
