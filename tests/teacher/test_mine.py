"""Mined negatives look right and are wrong: never a positive, never equal, within the filters."""

import gzip
import json

import numpy as np
import pytest

from sse.cli.teacher.mine import run
from sse.common.errors import UserError
from sse.model.export import export
from sse.model.load import SSEModel
from sse.teacher.mine import Filters, Texts, bm25_scorer, cosine_scorer, mine
from sse.training.run import main
from tests.helpers.training_runs import make_options

ANCHORS = ["red circle", "Red  Circle", "blue square", "green line", "a dot", "the end"]
POSITIVES = [
    "a red circle rolls", "red circles are round", "blue squares stand", "GREEN line",
    "green  line", "all ends well with a red dot",
]  # fmt: skip


def unit(rows, seed=0, dim=6):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def texts():
    return Texts(ANCHORS, POSITIVES)


@pytest.fixture
def vectors(texts):
    return unit(len(texts.anchors)), unit(len(texts.documents), 1)


@pytest.mark.parametrize("ways", ["bm25", "cosine", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_no_negative_is_a_positive_or_an_equal_text(texts, ways, seed):
    cosine = cosine_scorer(unit(len(texts.anchors), seed), unit(len(texts.documents), seed + 9))
    scorers = {"bm25": [bm25_scorer(texts)], "cosine": [cosine]}
    scorers["both"] = scorers["bm25"] + scorers["cosine"]
    mined = mine(texts, scorers[ways], 2, Filters(margin=9.0), seed=seed)
    assert mined.documents.shape == (6, 2)
    for row, (anchor, positive) in enumerate(zip(ANCHORS, POSITIVES, strict=True)):
        negatives = [texts.documents[document].casefold() for document in mined.documents[row]]
        assert len(set(negatives)) == 2
        same = [p for a, p in zip(ANCHORS, POSITIVES, strict=True)
                if a.split() and a.casefold().split() == anchor.casefold().split()]  # fmt: skip
        barred = {" ".join(text.split()).casefold() for text in [*same, positive, anchor]}
        assert not barred & {" ".join(text.split()) for text in negatives}


def test_negatives_are_the_best_that_pass_rank_and_margin(texts, vectors):
    anchors, documents = vectors
    filters = Filters(skip=1, depth=3, margin=0.8)
    mined = mine(texts, [cosine_scorer(*vectors)], 1, filters)
    drawn = 0
    for row in range(len(ANCHORS)):
        anchor, own = texts.anchor_of[row], texts.document_of[row]
        scores = documents @ anchors[anchor]
        passing = [
            document
            for document in np.argsort(-scores)[1:4]
            if 0 < scores[document] <= 0.8 * scores[own] and document not in texts.forbidden[anchor]
        ]
        if passing:
            assert mined.documents[row, 0] == passing[0]
        drawn += not passing
    assert mined.random == drawn


@pytest.mark.parametrize("seed", range(4))
def test_a_teacher_takes_out_what_it_scores_too_high_and_gives_scores(texts, seed):
    anchors, documents = unit(len(texts.anchors), seed), unit(len(texts.documents), seed + 9)

    def indifferent(rows):  # so documents come by number, and only the teacher keeps any out
        return np.ones((len(rows), len(texts.documents)), np.float32)

    mined = mine(texts, [indifferent], 1, Filters(margin=1.0), teacher=(anchors, documents))
    for row in range(len(ANCHORS)):
        anchor, own = texts.anchor_of[row], texts.document_of[row]
        cosines = documents @ anchors[anchor]
        passing = np.flatnonzero(cosines <= cosines[own])
        passing = passing[~np.isin(passing, texts.forbidden[anchor])]
        if len(passing):
            assert mined.documents[row, 0] == passing[0]
        expected = cosines[[own, mined.documents[row, 0]]]
        np.testing.assert_allclose(mined.scores[row], expected, rtol=1e-5, atol=1e-6)


def test_bad_input_is_one_line(texts):
    with pytest.raises(UserError, match="all positives are one text"):
        Texts(["a", "b"], ["same", " SAME "])
    with pytest.raises(UserError, match="leaves fewer than 5 negatives: ask for less"):
        mine(texts, [bm25_scorer(texts)], 5, Filters())


@pytest.fixture
def model(tmp_path, make_model):
    export(SSEModel(modules=[make_model("none")], device="cpu"), tmp_path / "model")
    return str(tmp_path / "model")


def test_the_command_writes_a_file_that_trains_with_every_loss(tmp_path, model, capsys):
    options = make_options(tmp_path)
    out = tmp_path / "mined"
    command = [str(tmp_path / "pairs.jsonl"), f"--out={out}", "--bm25", f"--model={model}",
               f"--teacher={model}", "--count=2", "--cap=300"]  # fmt: skip
    assert run(command) == 0
    with gzip.open(out / "pairs.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    names = ["negative", "negative_2"]
    scores = ["score", *(f"score_{name}" for name in names)]
    assert list(rows[0]) == ["anchor", "positive", *names, *scores]
    assert len(rows) == 300
    written = (out / "pairs.jsonl.gz").stat().st_mtime_ns
    assert run(command) == 0, "what is done stays"
    assert (out / "pairs.jsonl.gz").stat().st_mtime_ns == written
    assert run([*command, "--depth=9"]) == 2
    assert "was mined with other options" in capsys.readouterr().err
    data = [*options, f"--data.paths={out}", "--trainer.max_epochs=1"]
    losses = {}
    for kind in ("null", "kl", "margin_mse"):
        folder = tmp_path / kind
        main([*data, f"--model.distil={kind}", "--model.distil_weight=9", f"--out={folder}"])
        lines = (folder / "logs" / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("train/loss")
        losses[kind] = next(float(line.split(",")[column]) for line in lines[1:]
                            if line.split(",")[column])  # fmt: skip
    assert losses["kl"] > losses["null"] < losses["margin_mse"]
    with gzip.open(out / "pairs.jsonl.gz", "wt") as file:  # other scores of the same texts
        file.writelines(json.dumps(row | {"score": 0.5}) + "\n" for row in rows)
    with pytest.raises(UserError, match="with other data than .*scores"):
        main([f"--resume={tmp_path / 'kl'}"])


def test_distil_without_scores_or_with_bad_ones_is_one_line(tmp_path):
    options = make_options(tmp_path, negatives=True)
    with pytest.raises(
        UserError, match="^--model.distil needs the column score, score_negative, and the set"
    ):
        main([*options, "--model.distil=kl"])
    row = {"anchor": "a", "positive": "b", "negative": "c", "score": 1.0, "score_negative": None}
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row | {"anchor": f"{i}"}) + "\n" for i in range(9)))
    with pytest.raises(
        UserError, match="score_negative of the set bad holds a value that is no finite"
    ):
        main([*options, f"--data.paths={path}", "--model.distil=kl"])


def test_nothing_to_mine_by_is_one_line(tmp_path, capsys):
    assert run(["pairs.jsonl", f"--out={tmp_path / 'x'}"]) == 2
    assert "give --bm25, --model DIR, or both" in capsys.readouterr().err
