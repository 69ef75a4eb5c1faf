"""A YAML file of options runs no code of whoever wrote it.

An option such as `trainer.callbacks` takes classes and functions by their import paths. A file may
name those of `TRUSTED` only; a command line, which is one's own, may name any. A file that repeats
what the command line names may do so too.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sse.common.errors import UserError

TRUSTED = ("lightning.pytorch.", "lightning.fabric.", "torch.optim.", "sse.")
FILES = ("-c", "--config", "--trainer", "--model", "--data", "--eval")  # options that take one
PLAIN = ("data", "eval", "out", "resume")  # options without classes: their texts are paths


def check_configs(arguments: Sequence[str]) -> None:
    """UserError for a file of options, among a command line's, that names what is not trusted."""
    for i, argument in enumerate(arguments):
        name, _, path = argument.partition("=")
        if name in FILES and (path := path or " ".join(arguments[i + 1 : i + 2])):
            check_config(Path(path), arguments)


def check_config(path: Path, arguments: Sequence[str] = ()) -> None:
    """UserError where the file at `path` names a class, function or file that is not trusted."""
    import yaml  # of the extra `train`

    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
        raise UserError(f"{path} is not UTF-8 ({place}): write it again in UTF-8") from error
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ):  # the parser of options says what is wrong
        return
    for name in _named(config):
        if not name.startswith(TRUSTED) and not any(name in given for given in arguments):
            raise UserError(
                f"{path} names '{name}', and a file may name what begins with "
                f"{', '.join(TRUSTED)} only: give it on the command line if you trust it"
            )


def _named(config: Any) -> Iterator[str]:
    """Import paths and files that the values of a configuration name."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "class_path" and "." in str(value):
                yield str(value)
            elif str(key).partition(".")[0] not in PLAIN:
                yield from _named(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named(value)
    elif isinstance(config, str) and (_is_import_path(config) or os.path.isfile(config)):
        yield config


def _is_import_path(text: str) -> bool:
    """Whether `text` is `module.name` of a module that is there; nothing is imported."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text):
        return False
    try:
        return importlib.util.find_spec(text.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
