"""A folder has one run at a time, and a second one is told who has it."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from sse.common.errors import UserError
from sse.common.run_lock import HOLDER, LOCK, hold, release

HOLD = (
    "import sys, time; from pathlib import Path; from sse.common.run_lock import hold;"
    "hold(Path(sys.argv[1]), print); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    release()


def test_a_second_process_is_refused_by_name_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "a" / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            hold(folder, print)
        who = (
            rf"process {other.pid} on {re.escape(socket.gethostname())} trains there since \d{{4}}-"
        )
        assert re.search(who, str(refused.value)), refused.value
    other.send_signal(signal.SIGKILL)
    other.wait()
    hold(folder, print)
    assert str(os.getpid()) in (folder / HOLDER).read_text()


def test_a_process_may_go_on_with_its_own_run_and_leaves_no_empty_folder(tmp_path):
    hold(tmp_path / "run", print)
    hold(tmp_path / "run", print)
    (tmp_path / "run" / "metrics.json").touch()
    hold(tmp_path / "other", print)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]
    release()
    assert not (tmp_path / "other").exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def none(self, blocking):
        raise NotImplementedError

    monkeypatch.setattr("sse.common.run_lock.FileLock.acquire", none)
    said = []
    hold(tmp_path, said.append)
    assert "has no locks" in said[0] and not (tmp_path / HOLDER).exists() and LOCK
