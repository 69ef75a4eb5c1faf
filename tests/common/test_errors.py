"""A failure that a user can mend is one line; a defect of this project keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from sse.common.errors import Stopped, UserError, one_line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("dim is 0:\n give 1"), 2, "error: dim is 0: give 1"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (Stopped(15, "go on"), 143, "error: stopped by SIGTERM: go on"),
        (OSError(errno.ENOSPC, "Disk full", "/x/y"), 1, "error: Disk full (/x/y): free some space"),
        (OSError(errno.ENOENT, "Not there", "/x/y"), 1, "error: Not there (/x/y): check the path"),
        (RuntimeError(f"rust: {os.strerror(errno.ENOSPC)} (28)"), 1, "free some space or choose"),
    ],
)
def test_failures_a_user_can_mend_are_one_line_and_an_exit_code(error, code, line, capsys):
    @one_line
    def main():
        raise error

    assert main() == code
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


def test_a_defect_of_ours_keeps_its_traceback():
    @one_line
    def main():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()


def test_ctrl_c_while_a_script_imports_is_one_line():
    code = (
        "import time\nfrom sse.common.errors import script_imports\n"
        "with script_imports():\n    print('importing', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "error: interrupted\n"
    assert process.returncode == 130


def test_no_error_commands_the_terminal_or_fills_it(capsys):
    @one_line
    def fail(text):
        raise UserError(text)

    assert fail("norm '\x1b[2J\u202e\x9b1m': choose") == 2
    assert capsys.readouterr().err == "error: norm '?[2J??1m': choose\n"
    assert fail("word " * 100_000) == 2
    line = capsys.readouterr().err
    assert len(line) < 2_100 and line.endswith(" ...\n") and line.count("\n") == 1


def test_want_of_memory_is_one_line(capsys):
    @one_line
    def fail():
        raise MemoryError

    assert fail() == 1
    assert "the memory does not suffice" in capsys.readouterr().err
