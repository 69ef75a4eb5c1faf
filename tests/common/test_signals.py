"""SIGTERM ends a command as Ctrl-C does, and the previous handlers return."""

from __future__ import annotations

import os
import signal

import pytest

from sse.common.errors import Stopped, one_line
from sse.common.signals import STOPS, NotedSignals, stopped_by_signals, stopped_with

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture(autouse=True)
def handlers_stay():
    before = [signal.getsignal(number) for number in STOPS]
    yield
    assert [signal.getsignal(number) for number in STOPS] == before


def test_sigterm_is_an_interruption():
    @one_line
    def main():
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("KeyboardInterrupt was due")

    assert main() == 130


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_says_how_to_go_on(number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("a suite in the background has SIGINT ignored")
    way_on = "go on with --resume run"
    with pytest.raises(Stopped, match=way_on) as stop, stopped_with(lambda: way_on):
        os.kill(os.getpid(), number)
    assert stop.value.exit_code == 128 + number


def test_a_stop_leaves_the_handler_of_another_alone():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopped_with(lambda: ""):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_noted_signal_lets_the_work_end_and_a_second_one_ends_the_process():
    signals = NotedSignals()
    signals.remember()
    signals.take_over()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signals.give_back()
