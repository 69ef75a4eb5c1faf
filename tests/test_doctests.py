"""The examples in docstrings give what they show."""

import doctest
from importlib import import_module

import pytest

MODULES = [
    "sse.analysis.statistics",
    "sse.common.terminal",
    "sse.data.set_spec",
    "sse.documents.left_out",
    "sse.documents.passages",
    "sse.evaluation.metrics",
    "sse.model.quantise",
    "sse.search.snippets",
    "sse.text.values",
    "sse.text.token_batch",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    failed, tried = doctest.testmod(import_module(name))
    assert tried, f"{name} has no example: take it off the list"
    assert not failed
