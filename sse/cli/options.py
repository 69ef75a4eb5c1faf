"""Options that several commands share, and their names in the library's errors."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from sse.common.errors import UserError
from sse.common.ranges import whole
from sse.text.records import FORMATS

Run = Callable[[argparse.Namespace], None]  # a command, once its options are declared


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that encode texts."""
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="DIR", help="folder of a model")
    add("--dim", type=whole(1), help="first dimensions only (Matryoshka)")
    add("--batch-size", type=whole(1), default=1024,
        help="texts per batch of a thread (default: 1024)")  # fmt: skip
    add_no_fast(parser)


def add_no_fast(parser: argparse.ArgumentParser) -> None:
    """Declare `--no-fast`."""
    help = "use Hugging Face's tokenizer even if nanotoken is installed"
    parser.add_argument("--no-fast", action="store_true", help=help)


def add_input(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that read texts."""
    add = parser.add_argument
    add("--from", dest="input_form", choices=FORMATS, help="format of IN (default: by its name)")
    add("--column", help="column of the texts (default: text, or the only one)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that write OUT and a summary."""
    add = parser.add_argument
    add("--force", action="store_true", help="replace OUT if it exists")
    add("--quiet", action="store_true", help="no progress bar, no summary")
    add("--json", action="store_true", help="the summary as JSON")


@contextlib.contextmanager
def option_names(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Say in a library's UserError which option an argument is: "dim 9 ..." -> "--dim 9 ...".

    An argument is a name in backquotes, or the first word before a number or a quoted value.
    """
    options = {a.dest: a.option_strings[-1] for a in parser._actions if a.option_strings}

    def option(match: re.Match[str]) -> str:
        return options.get(match[1] or match[2], match[0])

    try:
        yield
    except UserError as error:
        error.args = (re.sub(r"`(\w+)`|^(\w+)(?= (?:is )?-?\d| ')", option, str(error)),)
        raise


@contextlib.contextmanager
def bar(title: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal, silence elsewhere; yields the function that moves it."""
    if quiet or not sys.stderr.isatty():
        yield lambda n: None
        return
    from tqdm import tqdm  # slow to import

    with tqdm(desc=title, unit=" texts", unit_scale=True) as shown:
        yield shown.update
