"""The command `sse`, with a command of `COMMANDS` behind it.

Only the module of the running command is imported, so `sse --help` and `sse encode` start without
torch. Exit codes are those of `sse.common.errors.one_line`: 0 success, 1 a full disk, 2 bad input
or a missing extra, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sse.cli.options import Run, option_names
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line, one_of, script_imports
from sse.common.signals import stopped_by_signals
from sse.common.version import __version__

COMMANDS = {
    "train": ("sse.training.run", "train a model (extra `train`)"),
    "encode": ("sse.cli.encode", "from a file of texts to a file of vectors"),
    "evaluate": ("sse.cli.model", "retrieval quality of a model on collections (extra `train`)"),
    "export": ("sse.cli.model", "write a model as a portable folder, a smaller one or ONNX"),
    "fit": ("sse.cli.fit", "fit a model to a corpus, without training"),
    "average": ("sse.cli.fit", "the mean of several models"),
    "info": ("sse.cli.model", "what a model folder holds, and which tokenizer runs it"),
    "index": ("sse.cli.index", "make an index of documents, or update it (extra `search`)"),
    "search": ("sse.cli.search", "search an index by meaning and words (extra `search`)"),
    "sweep": ("sse.cli.sweep", "train a grid of options (extra `train`)"),
    "compare": ("sse.cli.compare", "compare a sweep's trials (extra `train`)"),
    "report": ("sse.cli.report", "a page about a sweep (extra `train`)"),
    "serve": ("sse.cli.serve", "search and embeddings over HTTP (extra `serve`)"),
    "completion": ("sse.cli.completion", "a script for Tab in bash, zsh or fish (extra `train`)"),
}
OWN_OPTIONS = ("train", "sweep", "compare")  # these read their command line themselves
ARROW = ("index", "search", "serve")  # these use pyarrow
EXAMPLES = """examples:
  sse encode corpus.jsonl vectors.parquet -m model
  echo "a short text" | sse encode - - -m model
  sse export model smaller --rows int8 --dim 256
  sse index notes/ notes.sse -m model
  sse search notes.sse "how to restart the server"
  sse train --data.paths '[pairs.jsonl]' --out runs/mine

`sse COMMAND --help` lists the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    own_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    hidden = [_NoPandas()] if own_process and name in ARROW else []
    sys.meta_path[:0] = hidden
    try:
        if name in OWN_OPTIONS:
            with script_imports():
                module = import_module(COMMANDS[name][0])
            return int(module.run(arguments[1:]))
        return _command(name, arguments[1:])
    except BrokenPipeError:  # `head` has closed the pipe in `sse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in hidden]


@one_line
def _command(name: str, arguments: list[str]) -> None:
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return
    if name in ("-V", "--version"):
        sys.stdout.write(f"sse {__version__}\n")
        return
    if name not in COMMANDS:
        raise UserError(f"'{name}' is no command: {one_of(name, COMMANDS)}")
    with stopped_by_signals():
        module = import_module(COMMANDS[name][0])
        parser = Parser(prog=f"sse {name}")
        run: Run = getattr(module, name)(parser)
        parsed = parser.parse_args(arguments)
        with option_names(parser):
            run(parsed)


class _NoPandas:
    """Hides pandas, which pyarrow would load where it is installed, in 0.3 s."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ModuleNotFoundError for pandas; leave all else to the other finders."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used", name=name)


def _overview() -> str:
    lines = [f"  {name:11}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: sse COMMAND ...", "", "commands:", *lines, "", EXAMPLES])


if __name__ == "__main__":
    sys.exit(main())
