"""The files of a folder, and a file's bytes and text."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator

from sse.common.errors import UserError
from sse.documents.left_out import LeftOut, Unreadable, shown

MAX_BYTES = 32 << 20  # of a file, unpacked; a larger one is left out
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DECLARED = re.compile(rb"<(?:\?xml[^>]*encoding|meta[^>]*charset)=[\"']?([\w-]+)", re.IGNORECASE)


def find_files(path: str | os.PathLike[str], left_out: LeftOut) -> Iterator[str]:
    """The files of a folder in the order of their names, or the one file; nothing is read.

    Hidden files and folders, whose names begin with a dot, are not looked at. Links are followed,
    each folder once. Folders that cannot be opened, links that lead nowhere or to a folder that was
    read, and names that are not UTF-8 are counted in `left_out`.

    Raises:
        UserError: no such path.
    """
    name = os.fspath(path)
    if not os.path.exists(name):
        raise UserError(f"{shown(name)}: no such file or folder: check the path")
    if os.path.isdir(name):
        yield from _walk(name, left_out, set())
    else:
        yield name


def _walk(folder: str, left_out: LeftOut, seen: set[tuple[int, int]]) -> Iterator[str]:
    """The files below a folder; `seen` holds the device and inode of each folder so far."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            left_out.add(folder, "a link to a folder that was read")
            return
        seen.add((status.st_dev, status.st_ino))
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        left_out.add(folder, reason_of(error))
        return
    for name in names:
        path = os.path.join(folder, name)
        if shown(name) != name:
            left_out.add(path, "a name that is not UTF-8")
        elif os.path.isdir(path):
            yield from _walk(path, left_out, seen)
        else:
            yield path


def file_bytes(path: str, max_bytes: int) -> bytes:
    """The bytes of a file, unpacked where its name ends in `.gz`.

    Raises:
        Unreadable: no plain file, empty, more than `max_bytes`, a broken gzip, or a file that
            another program wrote to meanwhile.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Unreadable("no plain file")
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > max_bytes:
            raise Unreadable(f"above {max_bytes >> 20} MiB")
        unpack = path.lower().endswith(".gz")
        try:
            data = (gzip.GzipFile(fileobj=file) if unpack else file).read(max_bytes + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise Unreadable("a broken gzip") from None
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Unreadable("changed while it was read")
    if len(data) > max_bytes:
        raise Unreadable(f"above {max_bytes >> 20} MiB")
    if not data.strip():
        raise Unreadable("empty")
    return data


def decoded(data: bytes) -> str:
    """Bytes as text: UTF-8, what a byte order mark says, or what an HTML or XML head declares.

    Raises:
        Unreadable: zero bytes, or none of these encodings.
    """
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:
        raise Unreadable("binary")
    for name in (encoding, *(m.decode() for m in _DECLARED.findall(data[:2048]))):
        try:
            return data.decode(name).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            continue
    raise Unreadable("not UTF-8")


def reason_of(error: OSError) -> str:
    """The system's message in a few words."""
    return (error.strerror or str(error)).lower()
