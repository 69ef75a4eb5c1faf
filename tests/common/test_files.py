"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sse.common.errors import UserError
from sse.common.files import STALE, atomic_file, atomic_folder, expanded, write_json


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


def test_a_later_write_removes_what_a_killed_writer_left_a_day_ago(tmp_path):
    dead, alive, other = (tmp_path / f".{name}.tmp" for name in ("x.dead", "x.alive", "y.dead"))
    for path in (dead, alive, other):
        path.mkdir()
        (path / "half").touch()
    for path in (dead, other):
        os.utime(path, (0, time.time() - STALE - 9))
    with pytest.raises(ValueError, match="stop"), atomic_file(tmp_path / "x"):
        raise ValueError("stop")
    assert dead.exists(), "it may be the only copy of x"
    write_json(tmp_path / "x", 1)
    assert sorted(os.listdir(tmp_path)) == [".x.alive.tmp", ".y.dead.tmp", "x"]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    with atomic_file(tmp_path / "x") as first:
        first.write_text("first")
        with atomic_file(tmp_path / "x") as second:  # as another process would
            second.write_text("second")
        assert (tmp_path / "x").read_text() == "second"
    assert (tmp_path / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["x"]


KILLED = """
import os, signal, sys
from sse.common.files import atomic_file, atomic_folder
with (atomic_file if sys.argv[2] == "file" else atomic_folder)(sys.argv[1]) as temporary:
    (temporary if temporary.is_file() else temporary / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_writer_leaves_the_old_one_as_it_was(tmp_path, kind):
    target = tmp_path / "old"
    file = target if kind == "file" else target / "x"
    file.parent.mkdir(exist_ok=True)
    file.write_text("whole")
    process = subprocess.run([sys.executable, "-c", KILLED, str(target), kind])
    assert process.returncode == -signal.SIGKILL
    assert file.read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 2, "the unfinished one stays for now"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with atomic_folder(target) as temporary:
        (temporary / "x").write_text("old")
    rename = os.replace

    def refuse(source, place):
        if Path(source).name == "new":
            raise OSError(errno.EACCES, "refused")
        rename(source, place)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="refused"), atomic_folder(target) as temporary:
        (temporary / "x").write_text("new")
    assert (target / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_atomic_writes_within_an_atomic_folder_leave_no_temporary_file(tmp_path):
    for _ in range(2):
        with atomic_folder(tmp_path / "m") as folder:
            write_json(folder / "a.json", 1)
            with atomic_folder(folder / "sub") as sub:
                write_json(sub / "b.json", 2)
    assert sorted(os.listdir(tmp_path / "m")) == ["a.json", "sub"]
    assert os.listdir(tmp_path) == ["m"]


def test_an_unknown_users_home_is_one_line():
    with pytest.raises(UserError, match=r"^~nosuchuser/m: no such user"):
        expanded("~nosuchuser/m")
    assert expanded("~/m").is_absolute()
