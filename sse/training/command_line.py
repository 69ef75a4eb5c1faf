"""The trainer's command line as people type it, before jsonargparse reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

LISTS = (
    "--data.paths",
    "--data.documents",
    "--data.document_pairs",
    "--eval.beir",
    "--model.matryoshka_dims",
    "--model.matryoshka_weights",
)


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with the values after an option of lists as one list.

    So a shell's pattern may stand there, and a list whose blanks the shell has split.

    >>> joined(["--data.paths", "a.jsonl", "b.jsonl", "--ema", "0"])
    ['--data.paths', '["a.jsonl", "b.jsonl"]', '--ema', '0']
    >>> joined(["--data.paths", "[a.jsonl,", "b.jsonl]"])
    ['--data.paths', '[a.jsonl, b.jsonl]']
    """
    return list(_joined(list(arguments)))


def _joined(rest: list[str]) -> Iterator[str]:
    while rest:
        option = rest.pop(0)
        yield option
        if option not in LISTS:
            continue
        values = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if len(values) < 2:
            yield from values
        elif values[0].startswith("["):
            yield " ".join(values)
        else:
            yield json.dumps(values, ensure_ascii=False)
