"""What a run shows while it trains: lines in a log, a bar on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from sse.training import callbacks
from sse.training.run import main
from tests.helpers.training_runs import make_options

LINE = re.compile(
    r"step (\d+) of 22, loss \d+\.\d{3}, nDCG@10 0\.\d{3} \(32d\), [\d,]+ pairs/s, \d+ s left"
)


@pytest.fixture
def options(tmp_path):
    shown = [o for o in make_options(tmp_path) if "progress" not in o]
    return [*shown, "--diagnostics=0", "--eval.baselines=false", f"--out={tmp_path / 'run'}"]


def test_a_log_has_a_line_per_evaluation_and_no_bar(options, capfd):
    main(options)
    out, err = capfd.readouterr()
    steps = [int(match[1]) for match in map(LINE.fullmatch, out.splitlines()) if match]
    assert steps == [5, 10, 15, 20]
    assert "%|" not in out + err


def test_a_log_has_a_line_after_each_interval_too(options, capfd, monkeypatch):
    made = callbacks.Lines.__init__
    monkeypatch.setattr(
        callbacks.Lines, "__init__", lambda self, throughput: made(self, throughput, every=0.0)
    )
    main([*options, "--eval.times=1"])
    assert len(re.findall(r"^step \d+ of 22", capfd.readouterr().out, re.MULTILINE)) == 23


@pytest.mark.slow
def test_a_terminal_has_bars_and_no_such_lines(options):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # tqdm asks for it
    command = [sys.executable, "-m", "sse.cli.main", "train", *options]
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
    os.close(master)
    assert process.returncode == 0
    assert b"training the tokenizer: 100%" in shown and b"Epoch 1" in shown
    assert b"step 5 of" not in shown
