"""The argument parser of every command: its errors are one line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from sse.common.errors import UserError, meant, one_of


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and options that are written out in full."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise UserError for a value that is none of the choices; argparse calls this."""
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[-1] if action.option_strings else action.dest
            raise UserError(f"{name} is '{value}': {one_of(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Raise UserError; argparse would print the usage and exit."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message += meant(unknown.split()[0].partition("=")[0], self._option_string_actions)
        raise UserError(f"{message} (see {self.prog} --help)")


def program(name: str) -> str:
    """What a user has typed: `NAME.py` for the script in experiments/, else `sse NAME`."""
    return f"{name}.py" if Path(sys.argv[0]).name == f"{name}.py" else f"sse {name}"
