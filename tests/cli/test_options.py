"""Errors of the library name arguments; a command shows its options in their place."""

import pytest

from sse.cli.options import add_model, option_names
from sse.common.arguments import Parser
from sse.common.errors import UserError


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
