"""An unreachable hub is an error within the deadline; the recipes' columns fit the hub's sets."""

import socket
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.pair_files import ROWS, error_of, load, own_cache, write  # noqa: F401  own_cache is autouse

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


@pytest.fixture(params=["refuses", "never answers", "forbidden"])
def dead_hub(request, monkeypatch):
    """A hub that refuses, one that accepts and stays silent, and HF_HUB_OFFLINE=1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if request.param == "never answers" else 9
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if request.param == "forbidden" else "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        yield request.param


def test_an_unreachable_hub_is_an_error_within_five_seconds(dead_hub):
    began = time.monotonic()
    message = error_of("hf:sentence-transformers/squad?config=pair", "hf:other/set")
    assert time.monotonic() - began < 5  # the promise itself, not a measure of speed
    assert "hf:sentence-transformers/squad" in message and "`paths`" in message


def repository(folder, config, columns, rows=12):
    """A local copy of a hub set: its card's header, and two parquet shards of a configuration."""
    place = config or "data"
    values = [{name: f"{name} {n}" for name in columns} for n in range(rows)]
    write(folder / place / "train-00000-of-00002.parquet", values[: rows // 2])
    write(folder / place / "train-00001-of-00002.parquet", values[rows // 2 :])
    files = [{"split": "train", "path": f"{place}/train-*"}]
    header = {"configs": [{"config_name": config or "default", "data_files": files}]}
    write(folder / "other" / "train-00000-of-00001.parquet", [{"wrong": "configuration"}] * 3)
    other = [{"split": "train", "path": "other/train-*"}]
    header["configs"].append({"config_name": "other", "data_files": other})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}---\n# Set\n")


TRIPLET = ["anchor", "positive", "negative"]
MSMARCO = "hf:sentence-transformers/msmarco-co-condenser-margin-mse-sym-mnrl-mean-v1"
# The columns of each set on the hub, and those that the recipe must take.
SCHEMAS = {
    ("hf:sentence-transformers/squad", "pair"): (["question", "answer"], ["question", "answer"]),
    ("hf:sentence-transformers/trivia-qa-triplet", "triplet"): (TRIPLET, TRIPLET),
    ("hf:sentence-transformers/hotpotqa", "triplet"): (TRIPLET, TRIPLET),
    ("hf:tomaarsen/natural-questions-hard-negatives", "triplet-5"): (
        ["query", "answer", *(f"negative_{k}" for k in range(1, 6))],
        ["query", "answer", *(f"negative_{k}" for k in range(1, 6))],
    ),
    ("hf:sentence-transformers/paq", "pair"): (["query", "answer"], ["query", "answer"]),
    ("hf:nthakur/swim-ir-monolingual", "en"): (
        ["_id", "lang", "code", "query", "title", "text"],
        ["query", "text"],
    ),
    ("hf:sentence-transformers/miracl", "en-triplet-all"): (TRIPLET, TRIPLET),
    ("hf:sentence-transformers/mr-tydi", "en-triplet-all"): (TRIPLET, TRIPLET),
    ("hf:sentence-transformers/mldr", "en-triplet-all"): (TRIPLET, TRIPLET),
    (MSMARCO, "triplet"): (["query", *TRIPLET[1:]], ["query", *TRIPLET[1:]]),
    (MSMARCO, "triplet-hard"): (["query", *TRIPLET[1:]], ["query", *TRIPLET[1:]]),
    ("hf:bclavie/msmarco-10m-triplets", None): (["query", *TRIPLET[1:]], ["query", *TRIPLET[1:]]),
    ("hf:sentence-transformers/all-nli", "triplet"): (TRIPLET, TRIPLET),
    ("hf:sentence-transformers/pubmedqa", "triplet-20"): (
        ["anchor", "positive", *(f"negative_{k}" for k in range(1, 21))],
        ["anchor", "positive", *(f"negative_{k}" for k in range(1, 21))],
    ),
    ("hf:sentence-transformers/s2orc", "title-abstract-pair"): (
        ["title", "abstract"],
        ["title", "abstract"],
    ),
    ("hf:BeIR/scidocs-generated-queries", None): (
        ["_id", "title", "text", "query"],
        ["query", "text"],
    ),
}


def recipe(version):
    return yaml.safe_load((CONFIGS / f"sse_v{version}.yaml").read_text())["data"]["sets"]


def test_both_recipes_name_the_cards_sets_once_with_a_cap_and_columns():
    keys = [(entry["path"], entry.get("config")) for entry in recipe(1)]
    assert sorted(keys, key=str) == sorted(SCHEMAS, key=str)
    assert recipe(1) == recipe(2)
    assert all(entry["cap"] and entry["columns"] and entry["split"] for entry in recipe(1))


@pytest.mark.parametrize("entry", recipe(1), ids=lambda entry: entry.get("name", entry["path"][3:]))
def test_the_recipes_mapping_fits_the_hubs_schema(tmp_path, entry):
    columns, selection = SCHEMAS[entry["path"], entry.get("config")]
    repository(tmp_path / "copy", entry.get("config"), columns)
    (pairs,) = load({**entry, "path": str(tmp_path / "copy"), "cap": 8})
    assert len(pairs) == 8
    assert [pairs.texts(role)[1] for role in pairs.columns] == [f"{name} 1" for name in selection]


def test_a_wrong_configuration_or_split_names_those_there_are(tmp_path):
    repository(tmp_path / "copy", "pair", ["question", "answer"])
    path = tmp_path / "copy"
    assert "pair" in error_of(f"{path}?config=triplet&split=train")
    assert "train" in error_of(f"{path}?config=pair&split=validation")
