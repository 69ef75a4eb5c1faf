"""Claims about what every benchmark shares: turns, ratios, options, and that each one starts."""

import os
import time

import pytest

from experiments.benchmarks.harness import neighbour, parse, parser, ratio, turns
from sse.common.errors import UserError


def test_systems_take_turns_in_another_order_each_round_and_the_warm_up_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    values = turns(calls, rounds=2, warmup=1)
    assert "".join(order) == "abcbcacab"
    assert values == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert ratio([1, 6, 4], [1, 2, 8]) == 1.0


def test_a_neighbour_takes_the_last_core_until_it_is_ended():
    process = neighbour()
    try:
        wait_for(lambda: os.sched_getaffinity(process.pid) == {max(os.sched_getaffinity(0))})
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def wait_for(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_quick_shrinks_what_is_not_given():
    made = parser("loss", "text")
    made.add_argument("--rounds", type=int, default=7)
    assert parse(made, ["--quick"], {"rounds": 1}, "rounds").rounds == 1
    assert parse(made, ["--quick", "--rounds", "3"], {"rounds": 1}, "rounds").rounds == 3
    with pytest.raises(UserError, match="--rounds: give at least 1"):
        parse(made, ["--rounds", "0"], {}, "rounds")


@pytest.mark.parametrize(
    "name", ["corpus", "encoding", "kernels", "loss", "processes", "search", "serving", "training"]
)
def test_each_benchmark_has_a_help(name, capsys):
    from importlib import import_module

    with pytest.raises(SystemExit) as ended:
        import_module(f"experiments.benchmarks.{name}").main(["--help"])
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out
