"""Files of pairs for the tests that read them, and what reading them says."""

import gzip
import json

import pytest

from sse.common.errors import UserError
from sse.data.pair_set import load_sets


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Keep what `datasets` caches out of the user's folder."""
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder))
    return folder


ROWS = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(6)]


def write(path, rows=ROWS):
    """Rows as a file of the kind that the name says."""
    import datasets  # not at the top: tests on a GPU machine without it import this file

    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        data.to_parquet(path)
    else:
        data.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def load(*specs, cap=None):
    return load_sets(list(specs), cap, say=lambda line: None)


def error_of(*specs):
    with pytest.raises(UserError) as raised:
        load(*specs)
    message = str(raised.value)
    assert "\n" not in message
    return message
