"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import stat

import pytest

from sse.common.errors import Stopped, UserError, one_line
from sse.common.files import atomic_file, atomic_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(OSError, match="full"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["facts.json"]


def test_a_folder_is_replaced_whole_and_readable_by_others(tmp_path):
    target = tmp_path / "model"
    for text in ("old", "new"):
        with atomic_folder(target) as temporary:
            (temporary / "sub").mkdir()
            file = temporary / "sub" / "x"
            file.write_text(text)
            file.chmod(0o600)
    assert (target / "sub" / "x").read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((target / "sub" / "x").stat().st_mode) == 0o666 & ~mask
    with pytest.raises(ValueError, match="stop"), atomic_folder(target) as temporary:
        (temporary / "half").write_text("half")
        raise ValueError("stop")
    assert sorted(os.listdir(tmp_path)) == ["model"]
    assert (target / "sub" / "x").read_text() == "new"


def test_what_a_killed_writer_left_goes_and_what_another_holds_stays(tmp_path):
    for name in (".x.dead.tmp", ".y.dead.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".x.folder.tmp").mkdir()
    with atomic_file(tmp_path / "x") as mine:
        mine.write_text("mine")
        with atomic_file(tmp_path / "x") as other:  # as another process would
            other.write_text("other")
        assert mine.exists()
    assert (tmp_path / "x").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == [".y.dead.tmp", "x"], "other names are not touched"


def test_a_folder_may_be_written_through_the_same_door(tmp_path):
    for _ in range(2):
        with atomic_folder(tmp_path / "m") as folder:
            write_json(folder / "a.json", 1)
            with atomic_folder(folder / "sub") as sub:
                write_json(sub / "b.json", 2)
    assert sorted(os.listdir(tmp_path / "m")) == ["a.json", "sub"]
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("dim is 0 (--model.dim):\n give 1"), 2, "error: dim is 0 (--model.dim): give 1"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (Stopped(15, "go on"), 143, "error: stopped by SIGTERM: go on"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "No space left on device"),
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
