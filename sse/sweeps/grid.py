"""Which trials a sweep has: a YAML file of options and grids, expanded and checked.

    options: {data.paths: "${DATA}/train", data.batch_size: 512}    # of every trial
    grid:                                                           # one trial per combination
      data.pairs: [50000, 200000]
      model.norm: [dyt, none]
      seed_everything: [0, 1, 2]

- Keys are the trainer's own options. `grid` may be a list of grids; a combination that occurs
  twice is one trial.
- A trial's folder is named by its options, so a file that grows keeps what has been trained.
- Everything is checked, down to each trial's options, before the first trial starts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sse.common.errors import UserError
from sse.training.options import check, parse

Options = dict[str, Any]

# Of the run, not of the experiment: a sweep sets these itself.
OWN = ("out", "resume", "config")


@dataclass(frozen=True)
class Trial:
    """One training run: its folder's name, what the grid varies in it, all its options."""

    name: str
    varied: Options
    options: Options

    @property
    def arguments(self) -> list[str]:
        """The trainer's command line."""
        return [f"--{key}={_argument(value)}" for key, value in self.options.items()]


def read_sweep(path: str, over: Options | None = None, grid: Options | None = None) -> list[Trial]:
    """The trials of a sweep file.

    Args:
        path: the YAML file; `${NAME}` in it is the environment's.
        over: options that replace the file's or add to them.
        grid: axes that replace the file's or add to them, in each of its grids.

    Raises:
        UserError: no such file, not YAML, an unknown key, an axis that is no list or empty.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such file: give a sweep's YAML file")
    try:
        content = yaml.safe_load(_expand(file.read_text("utf-8"), path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    known = isinstance(content, dict) and content.keys() <= {"options", "grid"}
    if not known or "grid" not in content:
        names = (
            ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        )
        raise UserError(
            f"{path}: holds {names or 'nothing'}: give `grid` and, if wanted, `options`"
        )
    options = _mapping(content.get("options") or {}, f"{path}: options") | (over or {})
    grids = content["grid"] if isinstance(content["grid"], list) else [content["grid"]]
    trials: dict[str, Trial] = {}
    for number, axes in enumerate(grids):
        axes = _mapping(axes, f"{path}: grid {number + 1}") | (grid or {})
        for trial in _product(axes, options, path):
            trials.setdefault(trial.name, trial)
    return list(trials.values())


def check_trials(trials: Sequence[Trial]) -> None:
    """UserError where a trial's options are not the trainer's, naming the trial."""
    for trial in trials:
        try:
            check(parse(trial.arguments))
        except UserError as error:
            raise UserError(f"trial {trial.name}: {error}") from error


def _product(axes: Options, options: Options, path: str) -> list[Trial]:
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{path}: the grid's {key} is {values!r}: give a list of at least one value"
            )
        if key in options:
            raise UserError(f"{key} stands in the grid and in the options of {path}: keep one")
    trials = []
    for combination in itertools.product(*axes.values()):
        varied = dict(zip(axes, combination, strict=True))
        trials.append(Trial(_name(varied, options | varied), varied, options | varied))
    return trials


def _name(varied: Options, options: Options) -> str:
    """Readable first, then a digest of all options, which is what makes it unique."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    parts = [f"{key.rpartition('.')[2].split('_')[0]}={value}" for key, value in varied.items()]
    readable = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))[:100]
    return f"{readable},{digest}" if readable else digest


def _mapping(value: Any, where: str) -> Options:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}: give `option: value` lines")
    for key in value:
        if str(key).split(".")[0] in OWN:
            raise UserError(f"{where} has {key}, which the sweep sets itself: leave it away")
    return {str(key): item for key, item in value.items()}


def _expand(text: str, path: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise UserError(f"{path} uses ${{{name}}}, which is not set: {name}=... before it")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _argument(value: Any) -> str:
    """A value as the trainer's command line takes it: YAML's flow style, which JSON is."""
    return value if isinstance(value, str) else json.dumps(value)


def read_options(arguments: Sequence[str]) -> tuple[Options, Options]:
    """`--KEY=VALUE` and `--KEY VALUE` of the command line: options, and axes (`--grid.KEY`)."""
    options: Options = {}
    axes: Options = {}
    rest = list(arguments)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise UserError(f"'{key}' is no option: give --OPTION=VALUE (see sweep.py --help)")
        if not equals:
            if not rest:
                raise UserError(f"{key}: give a value, as {key}=VALUE")
            value = rest.pop(0)
        name = key.removeprefix("--")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"{key}={value}: not a YAML value") from error
        into = axes if name.startswith("grid.") else options
        into[name.removeprefix("grid.")] = parsed
    return _mapping(options, "the command line"), _mapping(axes, "the command line")
