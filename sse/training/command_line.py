"""The trainer's command line as people type it, before jsonargparse reads it."""

from __future__ import annotations

import collections.abc
import json
import re
from argparse import ArgumentParser as PlainParser
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from sse.common.errors import meant
from sse.common.ranges import Range

# The options of `--help`, by group; `--help-all` has the rest.
SHORT = {
    "data": (
        "data.paths", "data.documents", "data.anchor", "data.positive", "data.skip_bad_rows",
        "data.tokenizer", "data.vocab_size", "data.max_tokens", "data.pairs", "data.batch_size",
        "data.holdout",
    ),
    "model": (
        "model.norm", "model.start", "model.dim", "model.matryoshka_dims", "model.lr",
        "model.scale",
    ),
    "run": (
        "out", "resume", "config", "seed_everything", "trainer.max_epochs",
        "trainer.accelerator", "eval.beir", "eval.times", "ema",
    ),
}  # fmt: skip

LISTS = (
    "--data.paths",
    "--data.documents",
    "--data.document_pairs",
    "--eval.beir",
    "--model.matryoshka_dims",
    "--model.matryoshka_weights",
    "--model.matryoshka_scales",
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


def short_help(parser: ArgumentParser) -> str:
    """The description and the options that people need, with their defaults."""
    made = PlainParser(
        prog=parser.prog,
        usage=f"{parser.prog} [--OPTION VALUE ...]",
        description=parser.description,
        epilog=f"{parser.prog} --help-all lists every option, --print_config all values.",
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    actions = {action.dest: action for action in parser._actions}
    for title, names in SHORT.items():
        group = made.add_argument_group(title)
        for name in names:
            action = actions[name]
            text = " ".join(str(action.help).split()).replace("`", "").replace("%", "%%")
            default = "" if action.default is None else f" (default: {_shown(action.default)})"
            metavar = "FILE ..." if name == "data.paths" else name.rpartition(".")[2].upper()
            group.add_argument(f"--{name}", metavar=metavar, help=text + default)
    return made.format_help()


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def explained(message: str, parser: ArgumentParser, ranges: Mapping[str, Range]) -> str:
    """Jsonargparse's message on a command line, in words of this project.

    Args:
        message: its error.
        parser: the parser that raised it.
        ranges: {option: the range of its numbers}.
    """
    message = " ".join(message.split())
    way_on = f"see {parser.prog} --help"
    options = [name for name in parser._option_string_actions if not name.endswith("+")]
    if match := re.match(r"(?:unrecognized arguments|ambiguous option): (\S+)(.*)", message):
        name = match[1].partition("=")[0]
        if not name.startswith("-"):
            return f"'{name}' stands behind no option ({way_on})"
        return f"no option {name}{meant(name, options)} ({way_on})"
    if match := re.match(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        name = f"--{match[1]}.{match[2]}"
        return f"no option {name}{meant(name, options)} ({way_on})"
    if match := re.match(r"argument (--[\w.]+)\S*: expected one argument", message):
        return f"{match[1]} has no value: give {_wanted(match[1][2:], parser, ranges)}"
    if match := re.match(r'Parser key "([\w.]+)": (.*)', message):
        return _refused(match[1], match[2], parser, ranges)
    return f"{message} ({way_on})"


def _refused(name: str, reason: str, parser: ArgumentParser, ranges: Mapping[str, Range]) -> str:
    """An option's value is of another type."""
    if match := re.match(r"File does not exist: '?([^']*)'?", reason):
        return f"--{name} {match[1]}: no such file"
    values = re.findall(r"(?:Got|Given) value: (.*?)(?= - | Given value|$)", reason)
    if not values:
        return f"--{name}: {reason}"
    return f"--{name} is {values[-1][:60]!r}: give {_wanted(name, parser, ranges)}"


def _wanted(name: str, parser: ArgumentParser, ranges: Mapping[str, Range]) -> str:
    """What an option takes, in words."""
    action = next((a for a in parser._actions if a.dest == name), None)
    kinds = _words(getattr(action, "_typehint", None) or getattr(action, "type", None))
    words = " or ".join(dict.fromkeys(kinds))
    return f"{words} ({ranges[name]})" if name in ranges else words


def _words(kind: Any) -> list[str]:
    """The alternatives of a type, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return [str(part) for part in parts]
    if origin in (list, collections.abc.Iterable):
        return ["a list of such, as [a, b]"]
    if origin in (Union, UnionType):
        return [word for part in parts for word in _words(part)]
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return [plain.get(kind, "null" if kind in (None, NoneType) else "a class, as --help-all says")]
