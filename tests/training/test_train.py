"""`sse.train` is `sse train` in Python: pairs in memory or in files, one-line errors."""

import json

import pytest

import sse
from sse.common.errors import UserError
from tests.helpers.samples import sentences

FEW = {
    "data": {"batch_size": 16, "tokenizer": "train", "holdout": 20},
    "model": {"dim": 8, "matryoshka_dims": [8]},
    "trainer": {"max_epochs": 1},
    "eval": {"baselines": False},
}


@pytest.fixture
def pairs():
    texts = sentences(400, seed=3)
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_pairs_in_memory_and_in_a_file_train_the_same_model(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = sse.train(
        pairs, data={**FEW["data"], "cache": "one"}, **{k: v for k, v in FEW.items() if k != "data"}
    )
    assert str(model) == "runs/1/model"
    rows = [{"query": anchor, "answer": positive} for anchor, positive in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_file = sse.train("pairs.jsonl", out="other", **FEW)
    ours, theirs = (sse.Encoder(folder).encode(pairs[0][0]) for folder in (model, from_file))
    assert ours.tolist() == theirs.tolist()
    assert json.loads((tmp_path / "other/metrics.json").read_text())["epochs"] == 1


def test_documents_train_a_model(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(30):
        text = "\n\n".join(
            f"{a}. {b}. {a}." for a, b in zip(*[iter(sentences(8, number))] * 2, strict=True)
        )
        (folder / f"{number}.md").write_text(f"# Note of {number} things\n\n{text}\n")
    model = sse.train(documents=folder, out=tmp_path / "run", **FEW)
    assert sse.Encoder(model).dim == 8


BAD = [
    ([], "`pairs` is empty"),
    ([("a", "b"), ("a",)], r"number 1 is \('a',\): give \(anchor, positive\)"),
    ([("a", 3)], "number 0 is"),
    (["ab", ("a", "b")], "number 0 is 'ab'"),
    ("nowhere.jsonl", "nowhere.jsonl"),
]


@pytest.mark.parametrize(("pairs", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_pairs_are_one_line(tmp_path, pairs, message):
    with pytest.raises(UserError, match=message):
        sse.train(pairs, out=tmp_path / "run", **FEW)
    assert not (tmp_path / "run/pairs.jsonl").exists()


def test_a_bad_option_and_a_used_folder_are_one_line(pairs, tmp_path):
    with pytest.raises(UserError, match="batch_size"):
        sse.train(pairs, out=tmp_path / "run", data={"batch_size": 0})
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a run"):
        sse.train(pairs, out=tmp_path)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_the_name_is_offered_before_first_use():
    assert "train" in dir(sse) and "pairs" in (sse.train.__doc__ or "")
