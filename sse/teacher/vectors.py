"""A teacher's vectors of many texts, computed once and kept in a memory-mapped file.

CACHE/teacher/KEY/vectors    float32 rows, only appended to
CACHE/teacher/KEY/record.json   how many rows are whole, and their width

KEY is a hash of the teacher's files and of the texts. A killed run goes on from the last record.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sse.common.digests import digest_file
from sse.common.errors import UserError, first_line
from sse.common.files import write_json
from sse.teacher.folder import files_of

CHUNK = 1_024  # texts between two records


def teacher_vectors(folder: Path, texts: Sequence[str], cache: Path) -> NDArray[np.float32]:
    """The vectors (n, W) of `texts` by the sentence-transformers folder `folder`.

    Raises:
        UserError: a teacher that does not load, or gives NaN or infinite values.
    """
    path = cache / "teacher" / _key(folder, texts)
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        record = _record(path)
        if record["rows"] < len(texts):
            _append(path, record, folder, texts)
    return np.memmap(path / "vectors", np.float32, "r", shape=(len(texts), record["width"]))


def _append(path: Path, record: dict[str, int], folder: Path, texts: Sequence[str]) -> None:
    """Compute the vectors that the record lacks."""
    model = _load(folder)
    bar = tqdm(
        total=len(texts), initial=record["rows"], desc="teacher", unit=" texts", disable=None
    )
    with bar, open(path / "vectors", "ab") as file:
        file.truncate(4 * record["rows"] * record["width"])  # what a killed run wrote besides
        while record["rows"] < len(texts):
            part = list(texts[record["rows"] : record["rows"] + CHUNK])
            vectors = np.asarray(model.encode(part, show_progress_bar=False), np.float32)
            if not np.isfinite(vectors).all():
                raise UserError(
                    f"the teacher {folder} gives NaN or infinite vectors: give another one"
                )
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())
            record |= {"rows": record["rows"] + len(part), "width": vectors.shape[1]}
            write_json(path / "record.json", record)
            bar.update(len(part))


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder))
    except Exception as error:
        raise UserError(
            f"the teacher {folder} does not load ({first_line(error)}): give a folder of "
            "sentence-transformers"
        ) from error


def _record(path: Path) -> dict[str, int]:
    """What is whole; nothing where the record or the rows that it counts are missing."""
    try:
        record = json.loads((path / "record.json").read_text("utf-8"))
        rows, width = int(record["rows"]), int(record["width"])
        if (path / "vectors").stat().st_size >= 4 * rows * width:
            return {"rows": rows, "width": width}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"rows": 0, "width": 0}


def _key(folder: Path, texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in files_of(folder):
        digest.update(f"{path.relative_to(folder)} {digest_file(path)}\n".encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:32]
