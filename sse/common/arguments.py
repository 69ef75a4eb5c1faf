"""The argument parser of every command: its errors are one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from sse.common.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and options that are written out in full."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UserError; argparse would print the usage and exit."""
        raise UserError(f"{message} (see {self.prog} --help)")
