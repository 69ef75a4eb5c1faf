"""Where a set of pairs is and how its columns are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sse.common.errors import UserError


def is_role(text: str) -> bool:
    """Whether `text` names a role: anchor, positive, negative, negative_1, ..."""
    return re.fullmatch(r"anchor|positive|negatives?|negative_\d+", text) is not None


@dataclass(frozen=True)
class SetSpec:
    """Where a set of pairs is and how it is used.

    Attributes:
        path: a file (jsonl, json, csv, tsv, parquet; .gz too), a folder, a glob, or `hf:NAME`.
        name: how reports call it; by default made from the path.
        config: the hub set's configuration (subset).
        split: the hub set's split; `train` by default, and slices such as `train[:10%]` work.
        columns: role -> source column, roles being anchor, positive, negative, negative_1, ...;
            roles not named are found by the usual names.
        negatives: use at most this many negative columns (or list entries); 0 drops them.
        cap: use at most this many rows, spread evenly over the set.
        revision: the hub set's commit, tag or branch.
    """

    path: str
    name: str | None = None
    config: str | None = None
    split: str | None = None
    columns: dict[str, str] | None = None
    negatives: int | None = None
    cap: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        for role in self.columns or {}:
            if not is_role(role):
                raise UserError(
                    f"{self.path}: unknown role {role!r}; use anchor, positive, negative, "
                    "negative_1, negative_2, ..."
                )
        if self.cap is not None and self.cap < 2:
            raise UserError(f"{self.path}: cap is {self.cap}; a set needs at least 2 rows")
        if self.negatives is not None and self.negatives < 0:
            raise UserError(f"{self.path}: negatives is {self.negatives}; give 0 or more")

    @property
    def hub_name(self) -> str | None:
        """NAME of `hf:NAME`, or None for a local path."""
        return self.path[3:] if self.path.startswith("hf:") else None


def parse_spec(text: str) -> SetSpec:
    """Read `PATH[?key=value&...]`.

    PATH is a file, folder, glob or `hf:NAME`. A key is a field of `SetSpec` (config, split, cap,
    negatives, name, revision) or a role, whose value is the source column:

        hf:sentence-transformers/all-nli?config=triplet&split=train&cap=100000
        faq.csv?anchor=frage&positive=antwort

    Examples:
        >>> spec = parse_spec("faq.csv?anchor=frage&positive=antwort&cap=100")
        >>> spec.path, spec.columns, spec.cap
        ('faq.csv', {'anchor': 'frage', 'positive': 'antwort'}, 100)

    Raises:
        UserError: an unknown key, or a cap or negatives that is no whole number.
    """
    match = re.fullmatch(r"(.+?)\?(\w+=.*)", text)
    if not match or Path(text).exists():
        return SetSpec(text)
    path, options = match.groups()
    known = {field.name for field in fields(SetSpec)} - {"path", "columns"}
    values: dict[str, Any] = {}
    columns: dict[str, str] = {}
    for key, value in parse_qsl(options.replace("+", "%2B"), keep_blank_values=True):
        if key in ("cap", "negatives"):
            if not value.isdigit():
                raise UserError(f"{text}: {key}={value!r} is no whole number")
            values[key] = int(value)
        elif key in known:
            values[key] = value
        elif is_role(key):
            columns[key] = value
        else:
            raise UserError(
                f"{text}: unknown key {key!r}; use {', '.join(sorted(known))} or a role "
                "(anchor, positive, negative, negative_1, ...)"
            )
    return SetSpec(path, columns=columns or None, **values)


def as_spec(spec: str | SetSpec | Mapping[str, Any]) -> SetSpec:
    """A `SetSpec` from itself, from text, or from the mapping that a config file gives."""
    if isinstance(spec, str):
        return parse_spec(spec)
    if isinstance(spec, SetSpec):
        return spec
    known = {field.name for field in fields(SetSpec)}
    if unknown := sorted(set(spec) - known):
        raise UserError(f"{spec.get('path', 'a set')}: unknown {unknown[0]!r}; use {sorted(known)}")
    if not spec.get("path"):
        raise UserError(f"a set without path: {dict(spec)}; give a file, a folder or hf:NAME")
    return SetSpec(**spec)
