"""The embedded corpus: (summary -> rest of the docstring) pairs of the code that is installed.

- Sources: the standard library and the distributions that this project requires, directly or not;
  what else is installed does not matter. Files are read with `ast`: nothing is imported or run,
  nothing is downloaded, no text is shipped.
- Only files rich in docstrings are parsed: a fifth of the bytes holds half of the pairs.
- The same package versions give the same pairs in the same order on every machine: they are
  sorted by a hash of their text, and paths do not enter.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata as metadata
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from packaging.requirements import InvalidRequirement, Requirement
from tqdm.auto import tqdm

from sse.common.digests import is_whole, write_digest
from sse.common.files import atomic_file
from sse.data.columns import Column
from sse.data.made.docstring_text import bare, clean
from sse.data.pair_set import PairSet, make_pair_set

PROJECT = "stable-static-embedding"
FORMAT = 2  # raise it when the rules change
MAX_PAIRS = 30_000

# Tests repeat the code's words, vendored copies repeat whole packages, and some distributions of
# Python leave the last ones of these out.
SKIPPED = frozenset(
    ("test", "tests", "testing", "_tests", "idle_test", "_vendor", "vendor", "vendored", "extern")
    + ("__pycache__", "site-packages", "dist-packages")
    + ("idlelib", "lib2to3", "turtledemo", "tkinter", "ensurepip", "distutils")
)
# What a docstring worth having looks like: a summary, an empty line, a text.
CANDIDATE = re.compile(rb'"""\s*[^"\n]{10,}\n(?:[^"\n]+\n)?\s*\n\s*[A-Za-z]')
MIN_DENSITY = 3e-4  # candidates per byte


def embedded_pairs(
    cache: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> PairSet:
    """All pairs of the embedded corpus; the set's `report` gives counts and package versions.

    The folder `cache` keeps the pairs for the next run with the same packages.
    """
    import datasets

    packages = _packages()
    path = Path(cache) / f"docstrings-{_key(packages)}.parquet" if cache else None
    if path is not None and is_whole(path):  # a damaged file is only a lost minute
        table = pq.read_table(path)
    else:
        rows = extract(packages, progress)
        columns = ("anchor", "positive", "package")
        table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)})
        if path is not None:
            with atomic_file(path) as temporary:
                pq.write_table(table, temporary)
            write_digest(path)
    counts = Counter(table.column("package").to_pylist())
    dataset = datasets.Dataset(table.select(["anchor", "positive"]))
    sources = [Column("anchor", "anchor"), Column("positive", "positive")]
    report = _report(counts, packages)
    listed = report[1].split(", ")
    rest = f" and {len(listed) - 6} more (all in metrics.json)" if len(listed) > 6 else ""
    say(f"{report[0]}: {', '.join(listed[:6])}{rest}")
    return make_pair_set("docstrings", dataset, sources, report)


def extract(packages: dict[str, Package], progress: bool) -> list[tuple[str, str, str]]:
    """(summary, body, package) of every clean pair, ordered by a hash of the text."""
    files = [(name, path) for name, package in packages.items() for path in package.paths]
    rows = []
    # Trees are many small objects without cycles: collecting them doubles the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        bar = tqdm(
            files,
            desc="reading docstrings",
            unit=" files",
            disable=None if progress else True,
            mininterval=1.0,
        )
        for package, path in bar:
            for summary, body in _pairs(path):
                rows.append((summary, body, package))
    finally:
        if collecting:
            gc.enable()
    rows.sort(key=lambda row: hashlib.sha256(f"{row[0]}\n{row[1]}\n{row[2]}".encode()).digest())
    return _distinct(rows)[:MAX_PAIRS]


class Package(NamedTuple):
    """A distribution's Python files, or the standard library's."""

    version: str
    content: str  # what changes when a file does
    paths: list[str]


def _packages() -> dict[str, Package]:
    """The standard library and all that this project requires, by name."""
    version = platform.python_version()
    packages = {"python": Package(version, version, _standard_library())}
    for name, distribution in _required(PROJECT).items():
        record = distribution.read_text("RECORD")
        if record and name != PROJECT:
            root = str(distribution.locate_file(""))
            packages[name] = Package(distribution.version, record, _recorded(record, root))
    return packages


def _required(project: str) -> dict[str, metadata.Distribution]:
    """The installed distributions in the transitive closure of what training requires."""
    distributions: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(project, ""), (project, "train")]  # the extra that every training run has
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distributions[name] = distributions.get(name) or metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # wanted on other systems only, or the project itself is not installed
        for text in distributions[name].requires or []:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, each) for each in ("", *requirement.extras)]
    return distributions


def _recorded(record: str, root: str) -> list[str]:
    """Paths of the Python files that a RECORD lists."""
    names = (line.partition(".py,")[0] + ".py" for line in record.splitlines() if ".py," in line)
    return [
        f"{root}/{name}" for name in names if not name.startswith(("..", "/")) and _wanted(name)
    ]


def _standard_library() -> list[str]:
    root = sysconfig.get_path("stdlib")
    paths = []
    for folder, folders, files in os.walk(root):
        inner = os.path.relpath(folder, root)
        folders[:] = [name for name in folders if name not in SKIPPED]
        if inner == ".":
            folders[:] = [name for name in folders if name in sys.stdlib_module_names]
        paths += [f"{folder}/{name}" for name in files if name.endswith(".py") and _wanted(name)]
    return paths


def _wanted(path: str) -> bool:
    *folders, file = path.replace("\\", "/").split("/")
    return SKIPPED.isdisjoint(folders) and not file.startswith(("test_", "conftest"))


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    """The clean pairs of one source file; none of a file that cannot be parsed."""
    try:
        source = Path(path).read_bytes()
    except OSError:
        return
    if len(CANDIDATE.findall(source)) < MIN_DENSITY * max(1, len(source)):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
        waiting += [child for child in getattr(node, "body", ()) if isinstance(child, kinds)]
        docstring = ast.get_docstring(node, clean=False)  # type: ignore[arg-type]
        pair = clean(docstring) if docstring and _is_unicode(docstring) else None
        if pair:
            yield pair


def _distinct(rows: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The rows whose summary and body no earlier row has, but for case, digits and marks."""
    seen: set[str] = set()
    kept = []
    for row in rows:
        keys = {f"summary {bare(row[0])}", f"body {bare(row[1])}"}
        if seen.isdisjoint(keys):
            kept.append(row)
            seen |= keys
    return kept


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(packages: dict[str, Package]) -> str:
    content = "\n".join(f"{name} {packages[name].content}" for name in sorted(packages))
    return hashlib.sha256(f"{FORMAT}\n{content}".encode()).hexdigest()[:16]


def _report(counts: Counter[str], packages: dict[str, Package]) -> list[str]:
    """Counts and versions, largest first."""
    used = sorted(counts, key=lambda name: (-counts[name], name))
    listed = (f"{name} {packages[name].version} ({counts[name]:,})" for name in used)
    return [
        f"docstrings: {counts.total():,} pairs of {len(used)} packages",
        ", ".join(listed),
    ]
