"""Shells complete what the commands take."""

import subprocess

import pytest

from sse.cli.main import COMMANDS, main
from sse.training.command_line import SHORT

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    place = tmp_path_factory.mktemp("completion") / "sse.bash"
    with pytest.MonkeyPatch.context() as patch, open(place, "w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return place


def completed(script, *words):
    """What bash offers for the last word."""
    line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_sse"
    command = ["bash", "-c", f'source {script}; {line}; printf "%s\\n" "${{COMPREPLY[@]}}"']
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def test_bash_completes_commands(script):
    assert set(completed(script, "sse", "''")) >= set(COMMANDS)
    assert completed(script, "sse", "enc") == ["encode"]


def test_bash_completes_the_options_of_a_command(script):
    assert completed(script, "sse", "encode", "--ke") == ["--keep"]
    assert completed(script, "sse", "sweep", "--dry") == ["--dry-run"]
    names = {f"--{name}" for names in SHORT.values() for name in names}
    assert set(completed(script, "sse", "train", "--")) >= names


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_of_all_commands(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_an_unknown_shell_is_one_line(capsys):
    assert main(["completion", "csh"]) == 2
    assert "choose one of bash, zsh, fish" in capsys.readouterr().err
