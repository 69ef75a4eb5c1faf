"""Specs of sets are read from text and from mappings; what cannot be meant is refused."""

import pytest

from sse.data.set_spec import SetSpec, parse_spec
from tests.helpers.pair_files import error_of, load, write


def test_specs_are_read_from_text():
    assert parse_spec("a/b.jsonl") == SetSpec("a/b.jsonl")
    assert parse_spec("hf:o/n") == SetSpec("hf:o/n") and parse_spec("hf:o/n").hub_name == "o/n"
    assert parse_spec("hf:o/n?config=triplet&split=train[:10%]&anchor=query&cap=500") == SetSpec(
        "hf:o/n", config="triplet", split="train[:10%]", columns={"anchor": "query"}, cap=500
    )
    assert parse_spec("x.csv?negatives=0&name=faq&positive=a+b") == SetSpec(
        "x.csv", name="faq", negatives=0, columns={"positive": "a+b"}
    )
    assert parse_spec("data/part-?.jsonl") == SetSpec("data/part-?.jsonl"), "a glob's mark"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x.csv?ancor=q", "unknown key 'ancor'"),
        ("x.csv?cap=some", "cap='some'"),
        ("x.csv?cap=1", "cap is 1"),
        ("hf:no name at all", "no hub name"),
    ],
)
def test_specs_that_cannot_be_meant_are_named(text, expected):
    assert expected in error_of(text)


def test_mappings_from_a_config_file_are_specs(tmp_path):
    path = write(tmp_path / "toy.jsonl")
    assert len(load({"path": path, "cap": 3})[0]) == 3
    assert "unknown 'kap'" in error_of({"path": path, "kap": 3})
    assert "unknown role 'query'" in error_of({"path": path, "columns": {"query": "anchor"}})
    assert "a set without path" in error_of({"cap": 3})
