"""Local files without their bad rows, which are written aside.

CACHE/rows/KEY/NUMBER.jsonl     the good rows of each file
CACHE/rows/KEY/bad_rows.jsonl   a line for each bad row: its file, place, reason and beginning
CACHE/rows/KEY/counts.json      {"good": rows, "bad": rows}, written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sse.common.digests import is_whole, write_digest
from sse.common.errors import UserError
from sse.common.files import atomic_file, write_json
from sse.data.columns import SAMPLE, name_columns
from sse.data.set_spec import SetSpec
from sse.data.sources import Source
from sse.text.bad_rows import records, texts_in
from sse.text.record_files import Fault

FORMAT = 1  # raise it when the same files give other rows
ASIDE, COUNTS = "bad_rows.jsonl", "counts.json"


@dataclass(frozen=True)
class BadRows:
    """Leave bad rows out: those that cannot be read, or whose columns in use hold no text.

    Attributes:
        cache: the folder that keeps the good rows.
        aside: the file for the bad ones; None leaves them in the cache.
    """

    cache: Path
    aside: Path | None = None

    def leave_out(self, sources: Sequence[Source], say: Callable[[str], None]) -> list[Source]:
        """The sources with their good rows; `say` takes a line for each with bad ones.

        Sets of the hub stay as they are.

        Raises:
            UserError: no good row, or a file that cannot be read any further.
        """
        divided = [self._divide(each) if each.files else (each, None) for each in sources]
        files = [folder / ASIDE for _, folder in divided if folder]
        if self.aside and any(file.stat().st_size for file in files):
            with atomic_file(self.aside) as temporary, open(temporary, "wb") as joined:
                for file in files:
                    with open(file, "rb") as part:
                        shutil.copyfileobj(part, joined)
        for source, folder in divided:
            counts = json.loads((folder / COUNTS).read_text("utf-8")) if folder else {"bad": 0}
            if folder and counts["bad"]:
                say(
                    f"{source.name}: {counts['bad']:,} bad of {sum(counts.values()):,} rows are "
                    f"left out and written to {self.aside or folder / ASIDE}"
                )
        return [source for source, _ in divided]

    def _divide(self, source: Source) -> tuple[Source, Path]:
        """The source with its good rows alone, and the folder that holds both kinds."""
        folder = self.cache / "rows" / _key(source)
        files = tuple(folder / f"{number}.jsonl" for number in range(len(source.files)))
        if not is_whole(folder / COUNTS):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / COUNTS, _write(source, files, folder / ASIDE))
            write_digest(folder / COUNTS)
        return dataclasses.replace(source, files=files), folder


def _write(source: Source, files: Sequence[Path], aside: Path) -> dict[str, int]:
    """Divide the rows; the counts of both kinds."""
    columns = name_columns(source.label, source.spec, _sample(source)).columns
    check = texts_in(
        list(dict.fromkeys(column.name for column in columns)),
        list(dict.fromkeys(column.name for column in columns if column.place is not None)),
    )
    counts = {"good": 0, "bad": 0}
    with _writing(aside) as bad:
        for path, into in zip(source.files, files, strict=True):
            with _writing(into) as good:
                for item in records(path, check):
                    counts["bad" if isinstance(item, Fault) else "good"] += 1
                    if isinstance(item, Fault):
                        fact = {"file": str(path), "place": item.place, "reason": item.reason}
                        bad.write(json.dumps({**fact, "row": item.raw}) + "\n")
                    else:
                        good.write(json.dumps(item[1], ensure_ascii=False, default=str) + "\n")
    return counts


def _sample(source: Source) -> Any:
    """A `datasets.Dataset` of the first rows' columns of texts and of lists of texts."""
    import datasets

    rows = list(islice(_readable(source), SAMPLE))
    if not rows:
        raise UserError(f"{source.label}: no row can be read; mend the file or leave it out")
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        kind, _ = Counter(map(_kind, values)).most_common(1)[0]
        if kind in ("text", "texts"):
            columns[name] = [value if _kind(value) == kind else None for value in values]
            if kind == "texts":
                columns[name] = [value or [""] for value in columns[name]]
    return datasets.Dataset.from_dict(columns)


def _readable(source: Source) -> Iterator[dict[str, Any]]:
    """The rows that can be read, whatever their columns hold."""
    for path in source.files:
        for item in records(path, texts_in([])):
            if not isinstance(item, Fault):
                yield item[1]


def _kind(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return "texts"
    return "text" if isinstance(value, str) else "other"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    """A text file that is whole or absent."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def _key(source: Source) -> str:
    """Changes with the files' names, sizes and times of change, and with the columns named."""
    spec: SetSpec = source.spec
    content: list[object] = [FORMAT, spec.columns, spec.negatives]
    for path in source.files:
        status = path.stat()
        content.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
