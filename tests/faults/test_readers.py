"""Damaged bytes in every reader: the content, or UserError; nothing else."""

import random
from pathlib import Path

import pytest

from sse.common.errors import UserError

from .readers import readers, seeds

pytest.importorskip("lance", reason="the extra 'search' is not installed")
BROKEN = sorted((Path(__file__).parent / "broken").iterdir())  # inputs that once broke a reader
SLOW = {"pairs jsonl", "pairs csv", "run config", "sweep"}  # they import or read with `datasets`
GIVEN = seeds()


def tried(name, root, data):
    """What a reader makes of it: whether it took it."""
    try:
        readers(root)[name](data)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.name)
def test_what_once_broke_a_reader_is_refused_in_one_line(path, tmp_path):
    assert not tried(path.name.rpartition("-")[0], tmp_path, path.read_bytes())


@pytest.mark.parametrize("name", GIVEN)
def test_a_reader_takes_or_refuses_damaged_bytes(name, tmp_path):
    generator = random.Random(name)
    for number in range(6 if name in SLOW else 25):
        data = bytearray(generator.choice(GIVEN[name] or [b"LANC" * 9]))
        for _ in range(number % 4):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        if number % 5 == 4:
            del data[generator.randrange(len(data)) :]
        tried(name, tmp_path, bytes(data))


@pytest.mark.parametrize("name", ["lines", "csv", "kept", "table", "prompts", "model2vec"])
def test_a_reader_takes_the_files_that_fuzzing_begins_with(name, tmp_path):
    assert tried(name, tmp_path, GIVEN[name][0])
