"""What is wrong with a data file: the line and the value.

Readers of tables stop at the first broken block and name neither. So when one fails, the file is
read again here, slowly and line by line, to tell the user where to look.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sse.text.record_files import MAX_LINE, LongLine, kind_of, lines_of, open_bytes


class _Fault(Exception):
    """The first fault found."""


def fault(files: Sequence[Path], columns: Sequence[str] = ()) -> str | None:
    """The first fault of `files` as `line 7: 'positive' is 3`, or None when none is found.

    Args:
        files: data files of one kind each; with several, the file is named too.
        columns: what every row must have, as text (or a list of texts).
    """
    for path in files:
        try:
            _scan(path, columns)
        except _Fault as found:
            return f"{path.name}: {found}" if len(files) > 1 else str(found)
    return None


def _scan(path: Path, columns: Sequence[str]) -> None:
    kind = kind_of(path)
    line = 0
    try:
        if kind == "parquet":
            _scan_parquet(path)
            return
        with open_bytes(path) as file:
            lines = _counted(file)
            scan = _scan_json(lines, columns) if kind == "json" else _scan_csv(lines, kind)
            for line in scan:  # noqa: B007  the last line read is named below
                pass
    except EOFError:
        raise _Fault(f"the gzip is cut off after line {line}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        where = f"a broken gzip after line {line}" if line else "not a gzip file"
        raise _Fault(f"{where} ({error})") from None
    except LongLine as error:
        raise _Fault(f"line {line + 1}: {error}") from None
    except UnicodeDecodeError as error:
        raise _Fault(f"line {line + 1}: not UTF-8 (byte {error.object[error.start]:#x})") from None
    if not line:
        raise _Fault("the file is empty")


def _counted(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines_of(file), 1):
        yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")


def _scan_json(lines: Iterator[tuple[int, str]], columns: Sequence[str]) -> Iterator[int]:
    """Check JSON lines, or one JSON array of rows."""
    for number, line in lines:
        if number == 1 and line.lstrip().startswith("["):
            text = line + "".join(rest for _, rest in lines)
            for row, value in enumerate(_parsed(text, "line"), 1):
                _check_row(f"row {row}", value, columns)
                yield row
            return
        if line.strip():
            where = f"line {number}"
            _check_row(where, _parsed(line.strip(), where), columns)
            yield number


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}" if where == "line" else where
        raise _Fault(f"{place}: broken json at column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise _Fault(f"{where}: json nested too deep") from None


def _check_row(where: str, value: Any, columns: Sequence[str]) -> None:
    if not isinstance(value, dict):
        raise _Fault(f"{where}: {_shown(value)} is no object with named columns")
    for name, item in value.items():
        texts = item if isinstance(item, list) else [item]
        if any(isinstance(text, str) and not _is_unicode(text) for text in texts):
            raise _Fault(f"{where}: {name!r} has half a surrogate pair, which is no Unicode text")
    for name in columns:
        if name not in value:
            raise _Fault(f"{where}: no column {name!r}")
        texts = value[name] if isinstance(value[name], list) else [value[name]]
        for text in texts:
            if not isinstance(text, str):
                raise _Fault(f"{where}: {name!r} is {_shown(text)}")


def _scan_csv(lines: Iterator[tuple[int, str]], kind: str | None) -> Iterator[int]:
    before = csv.field_size_limit(MAX_LINE)  # a text may be longer than the module's 128 KiB
    try:
        reader = csv.reader((line for _, line in lines), delimiter="\t" if kind == "tsv" else ",")
        header: list[str] | None = None
        start = 1
        for row in reader:
            if header is None:
                header = row
            elif row and len(row) != len(header):
                raise _Fault(
                    f"line {start}: {len(row)} fields instead of {len(header)}; quote texts that "
                    "hold a separator"
                )
            start = reader.line_num + 1
            yield reader.line_num
        if header is not None and start <= 2:
            raise _Fault("no rows below the header")
    except csv.Error as error:
        raise _Fault(f"line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _scan_parquet(path: Path) -> None:
    try:
        with pq.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise _Fault("no rows")
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise _Fault(f"unreadable parquet ({reason})") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = "null" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
