"""A small model, and the same texts in every format."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sse
from tests.helpers.commands import TEXTS


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    return str(sse.export(sse.SSE(tokenizer, 16, seed=0), tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def inputs(tmp_path):
    """The same texts in every format."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "t.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    lines = "".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(TEXTS))
    (folder / "t.jsonl").write_text(lines, "utf-8")
    (folder / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    quoted = ['"' + t.replace('"', '""') + '"' for t in TEXTS]
    rows = "".join(f"{n},{t}\n" for n, t in enumerate(quoted))
    (folder / "t.csv").write_text("id,text\n" + rows, "utf-8-sig")
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), folder / "t.parquet")
    return folder
