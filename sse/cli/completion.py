"""The command `sse completion`: what a shell completes after `sse`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from sse.cli.options import Run
from sse.common.arguments import Parser
from sse.common.errors import import_extra

SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = """Print a script that completes the commands and options of sse.

examples:
  sse completion bash > ~/.local/share/bash-completion/completions/sse
  sse completion zsh > "${fpath[1]}/_sse"
  sse completion fish > ~/.config/fish/completions/sse.fish"""


def completion(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse completion`; the function that runs it."""
    parser.description = DESCRIPTION
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return _completion


def _completion(args: argparse.Namespace) -> None:
    shtab = import_extra("shtab")
    sys.stdout.write(shtab.complete(whole_parser(), args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """`sse` with all commands and their options; those of the trainer's short help for `train`."""
    from sse.cli.main import COMMANDS

    whole = Parser(prog="sse")
    commands = whole.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, (module, about) in COMMANDS.items():
        made = commands.add_parser(name, help=about)
        if name == "train":
            _declare_trainer(made)
        elif name in ("sweep", "compare"):
            for action in import_extra(module).parser()._actions[1:]:
                made._add_action(action)
        else:
            getattr(import_module(module), name)(made)
    return whole


def _declare_trainer(parser: argparse.ArgumentParser) -> None:
    trainer, short = import_extra("sse.training.options"), import_extra("sse.training.command_line")
    helps = {action.dest: str(action.help) for action in trainer._parser()._actions}
    for name in (name for names in short.SHORT.values() for name in names):
        parser.add_argument(f"--{name}", help=" ".join(helps[name].replace("%", "%%").split()))
