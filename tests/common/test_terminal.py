"""No string of a stranger commands the terminal."""

import io
import unicodedata

import pytest

from sse.common import terminal
from sse.common.terminal import clean, is_terminal, linked, marked


def test_no_character_that_controls_or_reorders_a_terminal_passes():
    text = "".join(map(chr, range(0x11000)))
    for one_line in (True, False):
        left = clean(text, one_line)
        assert len(left) == len(text)
        kinds = {unicodedata.bidirectional(c) for c in left}
        assert not kinds & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        controls = {c for c in left if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
        assert controls == (set() if one_line else {"\t", "\n"})


@pytest.mark.parametrize("text", ["plain", "é漢🎉 👩‍👩‍👧", "עברית العربية", "soft\u00adhyphen"])
def test_letters_of_every_script_pass(text):
    assert clean(text) == text


def test_a_link_names_the_whole_path_and_hides_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = linked("a b.txt:3", "a b\x1b.txt")
    assert shown.count("\x1b") == 4 and "a%20b%1B.txt" in shown
    assert marked("x") == "\x1b[1mx\x1b[0m"


def test_no_colour_where_nobody_sees_it(monkeypatch):
    screen = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not is_terminal(screen)
    screen.isatty = lambda: True
    assert is_terminal(screen)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_terminal(screen)


def test_long_work_prints_a_line_a_minute_where_no_bar_stands(capsys, monkeypatch):
    now = iter([0.0, 30.0, 61.0, 70.0, 130.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    minutes = terminal.Minutes("tokenising a", 1_000, done=100)
    for count in (100, 200, 100, 100):
        minutes.update(count)
    assert capsys.readouterr().err.splitlines() == [
        "tokenising a: 400 of 1,000 rows, 2 min left",
        "tokenising a: 600 of 1,000 rows, 2 min left",
    ]
