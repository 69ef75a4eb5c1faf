"""Texts out of files, as a stream: plain lines, JSON lines, CSV, parquet, folders, standard input.

Nothing is held but the row at hand, so a file may be larger than memory. A fault names its line.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sse.common.errors import UserError
from sse.text.record_files import MAX_LINE, LongLine, kind_of, lines_of, open_bytes

FORMATS = ("lines", "jsonl", "csv", "tsv", "parquet")
TEXT_COLUMNS = ("text", "document", "passage", "sentence", "query", "content", "body", "title")
TEXT_FILES = {".txt", ".md", ".rst", ".text", ".org", ".adoc", ".tex", ".log"}
PASSAGE = 1_000  # characters of a file's passage in an index, unless a paragraph is longer
csv.field_size_limit(MAX_LINE)  # its own limit of 128 KB is short for a text


@dataclass(frozen=True)
class Row:
    """One text and where it came from.

    Attributes:
        text: the text.
        where: `file:line`, or `file#row` of a parquet file.
        kept: the columns asked for, by name.
    """

    text: str
    where: str
    kept: dict[str, Any] = field(default_factory=dict)


def read_rows(
    source: str, form: str | None = None, column: str | None = None, keep: Sequence[str] = ()
) -> Iterator[Row]:
    """The texts of a file, or of standard input for `-`.

    Args:
        source: a path; `.gz` is unpacked.
        form: lines, jsonl, csv, tsv or parquet; by default what the name says, else lines.
        column: which column holds the text; by default `text` or another usual name, or the only
            one. Plain lines have none.
        keep: further columns to pass on.

    Raises:
        UserError: no such file, a missing column, a broken line, bytes that are no text.
    """
    path = Path(source)
    if source != "-" and (path.is_dir() or not path.exists()):
        what = "is a folder, expected a file" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}")
    known = {"json": "jsonl", None: "lines"}
    kind = None if source == "-" else kind_of(path)
    form = form or known.get(kind, kind or "lines")
    if form not in FORMATS:
        raise UserError(f"format '{form}': choose one of {', '.join(FORMATS)}")
    if form == "lines" and (column or keep):
        raise UserError(f"{source}: plain lines have no column {column or keep[0]!r}")
    if form == "parquet":
        return _parquet(source, column, keep)
    return _text_rows(source, form, column, keep)


def _text_rows(source: str, form: str, column: str | None, keep: Sequence[str]) -> Iterator[Row]:
    name = "standard input" if source == "-" else source
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = (
            sys.stdin.buffer if source == "-" else stack.enter_context(open_bytes(Path(source)))
        )
        lines = _lines(file, name)
        if form == "lines":
            for number, line in lines:
                yield Row(line.rstrip("\r\n"), f"{name}:{number}")
            return
        records = _json_records(lines, name) if form == "jsonl" else _csv_records(lines, name, form)
        for number, record in records:
            column = column or pick_column(list(record), record, name)
            where = f"{name}, line {number}"
            text = _value(record, column, where)
            if not isinstance(text, str):
                raise UserError(f"{where}: '{column}' is {str(text)[:40]!r}, expected a text")
            yield Row(text, f"{name}:{number}", {k: _value(record, k, where) for k in keep})


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines, decoded; refuses what is no text."""
    number = 0
    try:
        for number, line in enumerate(lines_of(file), 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if "\0" in text:
                raise UserError(f"{name}, line {number}: holds a zero byte: not a text file")
            yield number, text
    except LongLine as error:
        raise UserError(f"{name}, line {number + 1}: {error}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{name}, line {number}: not UTF-8 (byte {byte:#x}): not a text file, or convert it "
            "with iconv"
        ) from None
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{name}: a broken gzip after line {number} ({error})") from None


def _json_records(
    lines: Iterator[tuple[int, str]], name: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}, line {number}: no JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{name}, line {number}: a {type(record).__name__}, expected an object")
        yield number, record


def _csv_records(
    lines: Iterator[tuple[int, str]], name: str, form: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader((line for _, line in lines), delimiter="\t" if form == "tsv" else ",")
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{name}: empty, expected a header line")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells, "
                    f"the header has {len(header)}"
                )
            if cells:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from None


def _parquet(source: str, column: str | None, keep: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source}: no parquet file ({str(error).splitlines()[0]})") from None
    schema = file.schema_arrow
    texts = [
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    column = column or pick_column(texts, {}, source)
    for name in (column, *keep):
        if name not in schema.names:
            raise UserError(f"{source}: no column '{name}': it has {', '.join(schema.names)}")
    if column not in texts:
        raise UserError(f"{source}: '{column}' holds {schema.field(column).type}, expected a text")
    row = 0
    batches = file.iter_batches(4096, columns=list(dict.fromkeys([column, *keep])))
    while (records := _next_records(batches, source, row)) is not None:
        for record in records:
            if record[column] is None:
                raise UserError(f"{source}, row {row}: '{column}' is null, expected a text")
            yield Row(record[column], f"{source}#{row}", {k: record[k] for k in keep})
            row += 1


def _next_records(batches: Iterator[Any], source: str, row: int) -> list[dict[str, Any]] | None:
    """The next rows of a parquet file, None at its end."""
    import pyarrow as pa

    try:
        batch = next(batches, None)
        return None if batch is None else batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: damaged after row {row} ({reason})") from None


def _value(record: dict[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise UserError(f"{where}: no column '{column}': it has {', '.join(record) or 'none'}")
    return record[column]


def pick_column(
    columns: list[str], record: dict[str, Any], name: str, option: str = "--column"
) -> str:
    """The text's column where none is named.

    Raises:
        UserError: none or several that it could be; says to name one with `option`.
    """
    columns = [c for c in columns if isinstance(record.get(c, ""), str)]
    lower = {c.lower(): c for c in reversed(columns)}
    if found := next((lower[c] for c in TEXT_COLUMNS if c in lower), None):
        return found
    if len(columns) == 1:
        return columns[0]
    raise UserError(
        f"{name}: which column holds the text? It has {', '.join(columns) or 'none'}: "
        f"name one with {option}"
    )


def read_folder_texts(folder: str) -> Iterator[Row]:
    """Passages of the text files under a folder, in the order of their names.

    A passage is one paragraph, or several short ones up to `PASSAGE` characters together. Hidden
    files are left out, and so are files that are no UTF-8 text.

    Raises:
        UserError: no text file there.
    """
    root, found = Path(folder), False
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or path.suffix.lower() not in TEXT_FILES or not path.is_file():
            continue
        found = True
        if path.stat().st_size > MAX_LINE:
            sys.stderr.write(f"warning: {path}: more than {MAX_LINE:,} bytes, left out\n")
            continue
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            sys.stderr.write(f"warning: {path}: not UTF-8, left out\n")
            continue
        yield from _passages(text, str(path))
    if not found:
        kinds = ", ".join(sorted(TEXT_FILES))
        raise UserError(f"{folder}: no text file in it (looked for {kinds})")


def _passages(text: str, name: str) -> Iterator[Row]:
    start, size, number = 1, 0, 1
    parts: list[str] = []
    for paragraph in text.split("\n\n"):
        if parts and size + len(paragraph) > PASSAGE:
            yield Row("\n\n".join(parts), f"{name}:{start}")
            start, size, parts = number, 0, []
        if paragraph.strip():
            start = start if parts else number + paragraph[: -len(paragraph.lstrip())].count("\n")
            parts.append(paragraph.strip())
            size += len(paragraph)
        number += paragraph.count("\n") + 2
    if parts:
        yield Row("\n\n".join(parts), f"{name}:{start}")


def snippet(text: str, query: str, size: int = 200) -> str:
    """One line of `text` around the first word that it shares with `query`."""
    flat = " ".join(text.split())
    if len(flat) <= size:
        return flat
    low, at = flat.lower(), 0
    words = sorted({w for w in query.lower().split() if len(w) > 2}, key=len, reverse=True)
    with contextlib.suppress(StopIteration):
        at = next(found for w in words if (found := low.find(w)) >= 0)
    start = max(0, min(at - size // 3, len(flat) - size))
    if start:  # begin with a whole word
        start = flat.find(" ", start) + 1
    end = flat.rfind(" ", start, start + size)
    end = end if end > start and start + size < len(flat) else start + size
    return ("… " if start else "") + flat[start:end] + (" …" if end < len(flat) else "")
