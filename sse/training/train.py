"""A training from Python: pairs or documents in, the folder of a model out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.files import atomic_file, expanded
from sse.training.options import check, parse
from sse.training.resume import check_unused, next_folder
from sse.training.run import carry_out

Name = str | os.PathLike[str]
PATH = (str, os.PathLike)
Pair = Sequence[str] | Mapping[str, Any]
KEPT = "pairs.jsonl"  # in the run's folder: pairs out of memory, so that the run can go on


def train(
    pairs: Name | Iterable[Name | Pair] | None = None,
    documents: Name | Sequence[Name] | None = None,
    out: Name | None = None,
    **options: Any,
) -> Path:
    """Train a model, as `sse train` does.

    Args:
        pairs: files or folders of pairs, or the pairs themselves: (anchor, positive), then any
            number of negatives; or mappings of column to text. They are kept in OUT/pairs.jsonl.
        documents: folders of documents, of which pairs are made.
        out: the run's folder; by default the first free one of runs/1, runs/2, ...
        options: further options, as config.yaml has them: `data={"batch_size": 256}`,
            `model={"dim": 256}`, `trainer={"max_epochs": 3}`, `seed_everything=1`.

    Returns:
        The folder of the model, OUT/model. Its scores are in OUT/metrics.json.

    Raises:
        UserError: a pair of anything but texts, a bad option, or data that cannot be trained on.

    Examples:
        >>> model = sse.train([("flat tyre", "Patch the hole."), ...])  # doctest: +SKIP
        >>> sse.Encoder(model).encode("a tyre")  # doctest: +SKIP
    """
    folder = expanded(options.get("resume") or out or next_folder())
    arguments, lines = list(_arguments(options)), ""
    if documents is not None:
        names = [documents] if isinstance(documents, PATH) else documents
        arguments.append(f"--data.documents={json.dumps([os.fspath(name) for name in names])}")
    if pairs is not None:
        names, lines = _files_or_lines(pairs)
        names = [str(folder / KEPT)] if lines else names
        arguments.append(f"--data.paths={json.dumps(names)}")
    if not options.get("resume"):
        arguments.append(f"--out={folder}")
    parsed = parse(arguments)
    check(parsed)
    if lines:
        check_unused(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / KEPT) as temporary:
            temporary.write_text(lines, "utf-8")
    carry_out(parsed)
    return folder / "model"


def _arguments(options: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """The options as words of a command line."""
    for name, value in options.items():
        if isinstance(value, Mapping) and not group:
            yield from _arguments(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=os.fspath)
            yield f"--{group}{name}={text}"


def _files_or_lines(pairs: Name | Iterable[Name | Pair]) -> tuple[list[str], str]:
    """The files that `pairs` names; or the pairs themselves as lines of JSON."""
    if isinstance(pairs, PATH):
        return [os.fspath(pairs)], ""
    rows = list(pairs)
    if not rows:
        raise UserError("`pairs` is empty: give (anchor, positive) of some texts")
    if all(isinstance(row, PATH) for row in rows):
        return [os.fspath(row) for row in rows], ""  # type: ignore[arg-type]
    return [], "".join(json.dumps(_row(number, row)) + "\n" for number, row in enumerate(rows))


def _row(number: int, pair: Any) -> Mapping[str, Any]:
    """One pair by columns; UserError where it is none."""
    if isinstance(pair, Mapping):
        return pair
    texts = list(pair) if isinstance(pair, Sequence) and not isinstance(pair, str) else []
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise UserError(f"`pairs`: number {number} is {pair!r:.80}: give (anchor, positive) texts")
    row: dict[str, Any] = {"anchor": texts[0], "positive": texts[1]}
    return row | {f"negative_{n}": text for n, text in enumerate(texts[2:], 1)}
