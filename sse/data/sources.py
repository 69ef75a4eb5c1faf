"""From a spec to rows: files, folders and globs are found first, then read through `datasets`.

- Finding is cheap and covers all specs, so that a mistake in the last shows before work starts.
- `datasets` reads and caches; its noise is muted, and when it fails the file itself is examined.
- No data set runs code: scripts in hub sets are refused, pickles are never read.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from sse.common.errors import UserError, first_line
from sse.common.files import expanded
from sse.common.hub import HubUnreachable, ask_hub
from sse.data.set_spec import SetSpec
from sse.text.bad_rows import fault
from sse.text.record_files import kind_of, numbered, open_bytes, or_raise

KINDS = "jsonl, json, csv, tsv (each also .gz) or parquet"
BIG = 200_000_000  # bytes from which reading takes long enough for a progress bar
SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # not the data's fault


@dataclass(frozen=True)
class Source:
    """One set to read: local files of one kind, a local copy of a hub set, or a hub set."""

    spec: SetSpec
    name: str
    label: str  # what errors call it
    files: tuple[Path, ...] = ()
    cached: bool = False  # the hub does not answer: only what the local cache holds

    def read(self) -> Any:
        """The rows as a `datasets.Dataset`; UserError names file, line, value, or the hub set."""
        try:
            big = sum(path.stat().st_size for path in self.files) > BIG
            with _quiet(bars=big and sys.stderr.isatty()):
                return self._read_files() if self.files else self._read_repository()
        except UserError:
            raise
        except Exception as error:
            raise self._explained(error) from error

    def _read_files(self) -> Any:
        import datasets

        kind = kind_of(self.files[0])
        options: dict[str, Any] = {}
        if kind == "json":
            options = _supported(parse_agent_traces=False)
        elif kind in ("csv", "tsv"):
            options = _csv_options(self.files, "\t" if kind == "tsv" else ",")
        # Opening an Arrow file reads the head of each batch, and the system maps the pages around
        # it: with the default of 1,000 rows per batch that is all of the file.
        with _configured(DEFAULT_MAX_BATCH_SIZE=16_384):
            return datasets.load_dataset(
                "csv" if kind == "tsv" else kind,
                data_files=[glob.escape(str(path.resolve())) for path in self.files],
                split="train",
                **options,
            )

    def check(self, dataset: Any) -> None:
        """UserError where a row of a CSV file has too few fields, which `datasets` lets pass."""
        delimited = self.files and kind_of(self.files[0]) in ("csv", "tsv")
        if delimited and _may_lack_fields(dataset) and (problem := fault(self.files)):
            raise UserError(f"{self.label}: {problem}; mend the file or leave it out")

    def _read_repository(self) -> Any:
        import datasets

        spec = self.spec
        path = spec.hub_name or str(expanded(spec.path))
        options = {"split": spec.split or "train", "revision": spec.revision}
        # With the cache alone, `datasets` does not retry a dead hub for many seconds.
        with _configured(HF_HUB_OFFLINE=self.cached or datasets.config.HF_HUB_OFFLINE):
            return datasets.load_dataset(path, spec.config, **options)

    def _explained(self, error: Exception) -> Exception:
        """The error a user can act on."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in SYSTEM:
                return cause
            last, cause = cause, cause.__cause__
        problem = fault(self.files)
        if problem is None:
            problem = f"cannot be read ({first_line(last if self.files else error)})"
        if self.files:
            return UserError(f"{self.label}: {problem}; mend the file or leave it out")
        if self.cached:
            return HubUnreachable(
                f"{self.label}: neither the hub nor the local cache has it; check the network, or "
                "give local files with `paths`"
            )
        return UserError(f"{self.label}: {problem}; check name, config and split")


def find_sources(specs: Sequence[SetSpec]) -> list[Source]:
    """Everything the specs name, without reading any of it.

    Raises:
        UserError: no specs, a missing or empty file, an unknown kind of file, a folder or glob
            without data, a hub set that does not exist, an unreachable hub.
    """
    if not specs:
        raise UserError("no data: give files, folders, globs or hf:NAME with `paths`")
    local = {at: _find_local(spec) for at, spec in enumerate(specs) if spec.hub_name is None}
    sources: list[Source] = []
    reachable = True
    for at, spec in enumerate(specs):
        if at in local:
            sources += local[at]
            continue
        source, reachable = _find_remote(spec, reachable)
        sources.append(source)
    return _named_apart(sources)


def _find_remote(spec: SetSpec, reachable: bool) -> tuple[Source, bool]:
    name = spec.hub_name or ""
    label = f"hf:{name}" + "".join(f" {part}" for part in (spec.config, spec.split) if part)
    short = name.rpartition("/")[2] + (f"/{spec.config}" if spec.config else "")
    source = Source(spec, spec.name or short, label)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{spec.path}: no hub name; write hf:OWNER/NAME")
    try:
        if reachable:
            way_out = "give local files with `paths`"
            ask_hub(label, lambda api: api.dataset_info(name, revision=spec.revision), way_out)
            return source, True
    except HubUnreachable:
        if not _in_cache(name):
            raise
    return dataclasses.replace(source, cached=True), False


def _in_cache(name: str) -> bool:
    """Whether `datasets` has prepared the hub set `name` before."""
    import datasets

    return (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def _find_local(spec: SetSpec) -> list[Source]:
    path = expanded(spec.path)
    if path.is_dir():
        if spec.config or spec.split:  # a copy of a hub set's repository
            return [Source(spec, spec.name or path.name, spec.path)]
        files = [file for file in sorted(path.rglob("*")) if _is_data(file.relative_to(path), file)]
        if not files:
            raise UserError(
                f"{path}: the folder holds no {KINDS} file; documents without labels go to "
                "`documents`"
            )
    elif path.exists():
        if kind_of(path) is None:
            raise UserError(f"{path}: unknown kind of file; give {KINDS}")
        files = [path]
    elif glob.has_magic(spec.path):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if _is_data(Path(file.name), file)]
        if not files:
            raise UserError(f"{spec.path}: matches no {KINDS} file")
    else:
        raise UserError(f"{path}: no such file or folder; for a hub set write hf:OWNER/NAME")
    for file in files:
        if not os.access(file, os.R_OK):
            raise UserError(f"{file}: no permission to read it; change its mode or leave it out")
        if not file.stat().st_size:
            raise UserError(f"{file}: the file is empty; fill it or leave it out")
    groups = _shards(files)
    return [
        Source(
            spec,
            spec.name if spec.name and len(groups) == 1 else name,
            str(members[0] if len(members) == 1 else members[0].parent / name),
            tuple(members),
        )
        for name, members in groups
    ]


def _is_data(relative: Path, file: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return not hidden and kind_of(file) is not None and file.is_file()


def _shards(files: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """(name, files) of each set; `train-00000-of-00002.parquet` and its like are one set."""
    groups: dict[tuple[Path, str, str | None], list[Path]] = {}
    for file in files:
        stem = file.name.removesuffix(".gz").rpartition(".")[0] or file.name
        whole = re.sub(r"-\d{5,}-of-\d{5,}$", "", stem)
        groups.setdefault((file.parent, whole, kind_of(file)), []).append(file)
    return [(name, members) for (_, name, _), members in groups.items()]


def _named_apart(sources: list[Source]) -> list[Source]:
    """The sources with names made unique: by the parent folder, then by a number."""
    names = [source.name for source in sources]
    result: list[Source] = []
    for source in sources:
        name = source.name
        if names.count(name) > 1 and source.files:
            name = f"{source.files[0].resolve().parent.name}/{name}"
        base, number = name, 1
        while name in {other.name for other in result}:
            number += 1
            name = f"{base}#{number}"
        result.append(dataclasses.replace(source, name=name))
    return result


def _supported(**options: Any) -> dict[str, Any]:
    """Those options that the installed version of `datasets` knows for JSON."""
    from datasets.packaged_modules.json.json import JsonConfig

    known = {field.name for field in dataclasses.fields(JsonConfig)}
    return {key: value for key, value in options.items() if key in known}


def _csv_options(files: Sequence[Path], separator: str) -> dict[str, Any]:
    """Read every field as text: `1984`, `NA` and an empty field are texts here."""
    import datasets

    with open_bytes(files[0]) as file:
        lines = (line for _, line in or_raise(numbered(file, str(files[0]))))
        header = next(csv.reader(lines, delimiter=separator), [])
    if len(set(header)) < len(header) or "" in header:
        raise UserError(f"{files[0]}: line 1: column names must differ and not be empty: {header}")
    features = datasets.Features({name: datasets.Value("string") for name in header})
    return {"sep": separator, "features": features, "keep_default_na": False}


def _may_lack_fields(dataset: Any) -> bool:
    """Whether the last column has an empty text, as rows with too few fields get one silently."""
    last = dataset.column_names[-1]
    tables = dataset.select_columns([last]).with_format("arrow").iter(65_536)
    return any(pc.any(pc.equal(table.column(0), "")).as_py() for table in tables)


@contextlib.contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Mute the log of `datasets`, and its bars unless a file is big."""
    import datasets

    level, shown = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _configured(**values: Any) -> Iterator[None]:
    """Set values of `datasets.config` meanwhile."""
    import datasets

    before = {name: getattr(datasets.config, name) for name in values}
    vars(datasets.config).update(values)
    try:
        yield
    finally:
        vars(datasets.config).update(before)
