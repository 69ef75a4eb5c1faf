"""Ctrl-C and SIGTERM end a command even where Python's handler is never reached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sse.common.errors import one_line
from sse.common.signals import stopped_by_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

# A mutex taken twice stands for all waits that no signal handler cuts short.
STUCK = """
import ctypes, sys
from sse.common.errors import one_line
from sse.common.files import atomic_file, atomic_folder
from sse.common.signals import stopped_by_signals

@one_line
def main():
    with stopped_by_signals(grace=0.2), atomic_file(sys.argv[1]), atomic_folder(sys.argv[2]):
        print("ready", flush=True)
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)

sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stuck_main_thread_is_ended_and_leaves_nothing(tmp_path, number):
    folder = tmp_path / "out"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder / "file"), str(folder / "folder")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == b"ready\n"
    assert len(list(folder.iterdir())) == 2
    process.send_signal(number)
    _, message = process.communicate(timeout=30)
    assert (process.returncode, message) == (130, b"error: interrupted\n")
    assert not list(folder.iterdir())


def test_handlers_are_as_before_and_an_orderly_end_is_left_alone():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)

    @one_line
    def main():
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("KeyboardInterrupt was due")

    assert main() == 130
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
