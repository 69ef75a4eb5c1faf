"""The benchmark of one query in a browser."""

from experiments.benchmarks.browser import SYSTEMS, main, table


def test_x_is_how_many_times_longer_a_query_takes_than_here():
    us = {name: [10.0 * n, 20.0 * n, 90.0 * n] for n, name in enumerate(SYSTEMS, 1)}
    ones = dict.fromkeys(SYSTEMS, 1.0)
    lines = table({"us": us, "opened": ones, "difference": ones}).splitlines()
    assert [line.split(" | ")[3:6] for line in lines[2:]] == [
        [str(10 * n), str(20 * n), f"{n:.2f}"] for n in range(1, 5)
    ]


def test_a_folder_without_the_packages_is_one_line(tmp_path, capsys):
    assert main(["--packages", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --packages {tmp_path}: it holds no ")
