"""Errors of the library name arguments; a command shows its options in their place."""

import importlib

import pytest

from sse.cli import encode_corpus, main, sweep
from sse.cli.options import add_model, option_names
from sse.common.arguments import Parser
from sse.common.errors import UserError
from sse.common.ranges import Range


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("batch_size is 0: give at least 1", "--batch-size is 0: give at least 1"),
        ("dim -1 is no prefix", "--dim -1 is no prefix"),
        ("gone: give its new folder as `model`", "gone: give its new folder as --model"),
        ("`other` stays", "`other` stays"),
        ("model is no folder", "model is no folder"),  # a path
        ("dim/model: no such file", "dim/model: no such file"),
    ],
)
def test_arguments_become_options_and_paths_stay(message, shown):
    parser = Parser()
    add_model(parser)
    with pytest.raises(UserError) as raised, option_names(parser):
        raise UserError(message)
    assert str(raised.value) == shown


def parsers():
    """The parser of every command that is argparse's."""
    for name, (module, _) in main.COMMANDS.items():
        if name not in main.OWN_OPTIONS:
            parser = Parser(prog=name)
            getattr(importlib.import_module(module), name)(parser)
            yield parser
    yield encode_corpus._parser()
    yield sweep.parser()


def test_every_number_among_the_options_has_a_range():
    kinds = [action.type for parser in parsers() for action in parser._actions if action.type]
    assert len(kinds) > 10
    assert all(isinstance(kind, Range) for kind in kinds)


def test_a_number_out_of_range_is_one_line_with_the_range(capsys):
    assert main.main(["search", "x.sse", "query", "-k", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: argument -k: 0: give at least 1 (see sse search --help)\n"
    )
