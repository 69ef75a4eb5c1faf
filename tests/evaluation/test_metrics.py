"""Metrics equal pytrec_eval's and torchmetrics' where those are TREC's; intervals are honest."""

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
)

from sse.evaluation.metrics import CUTOFFS, METRICS, bootstrap_means, interval, judge, score_run
from tests.helpers.tolerances import assert_within, rounding

TREC = {"ndcg@10": "ndcg_cut_10", "map@100": "map_cut_100"} | {
    f"{ours}@{k}": f"{theirs}_{k}"
    for ours, theirs in (("accuracy", "success"), ("precision", "P"), ("recall", "recall"))
    for k in CUTOFFS
}


def pytrec(qrels, run):
    """Per-query scores of runs given as ranked lists: as ranks, so that order is never a tie."""
    measures = {"ndcg_cut.10", "map_cut.100", "recip_rank"}
    measures |= {f"{m}.{k}" for m in ("success", "P", "recall") for k in CUTOFFS}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, measures)
    full = evaluator.evaluate({q: {d: -float(r) for r, d in enumerate(v)} for q, v in run.items()})
    top = evaluator.evaluate(
        {q: {d: -float(r) for r, d in enumerate(v[:10])} for q, v in run.items()}
    )
    return {
        name: np.array([(top if name == "mrr@10" else full)[q][theirs] for q in run])
        for name, theirs in (TREC | {"mrr@10": "recip_rank"}).items()
    }


@st.composite
def runs(draw):
    """Document ids, graded qrels (some naming documents the corpus lacks) and rankings."""
    n = draw(st.integers(1, 150))
    documents = [f"d{i:03d}" for i in range(n)]
    missing = [f"x{i}" for i in range(draw(st.integers(0, 3)))]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    most = min(100, n + len(missing))
    qrels, run = {}, {}
    for q in range(draw(st.integers(1, 4))):
        judged = rng.permutation(documents + missing)[: rng.integers(1, most + 1)]
        grades = rng.integers(0, 4, len(judged))
        grades[0] = max(1, grades[0])
        qrels[f"q{q}"] = dict(zip(judged.tolist(), grades.tolist(), strict=True))
        run[f"q{q}"] = rng.permutation(n)[: rng.integers(1, n + 1)]
    return documents, qrels, run


# a metric adds up to 100 gains and is at most 1; both sides round
DEPTH_100 = 2 * rounding(1.0, torch.float64, 100)


def padded(run):
    """Rankings as one array, -1 where a run is shorter."""
    width = max(map(len, run.values()))
    return np.stack([np.pad(r, (0, width - len(r)), constant_values=-1) for r in run.values()])


@settings(max_examples=150, deadline=None)
@given(runs())
def test_every_metric_equals_pytrec_eval_on_binary_relevance(case):
    documents, qrels, run = case
    binary = {q: {d: int(s > 0) for d, s in judged.items()} for q, judged in qrels.items()}
    ours = score_run(padded(run), judge(qrels, list(run), documents))
    theirs = pytrec(binary, {q: [documents[i] for i in r] for q, r in run.items()})
    assert list(ours) == METRICS and set(theirs) == set(METRICS)
    for name in METRICS:
        assert_within(f"metrics, {name}", ours[name], theirs[name], DEPTH_100)


@settings(max_examples=100, deadline=None)
@given(runs())
def test_graded_gains_equal_pytrec_evals_ndcg_and_change_nothing_else(case):
    documents, qrels, run = case
    ours = score_run(padded(run), judge(qrels, list(run), documents, graded=True))
    theirs = pytrec(qrels, {q: [documents[i] for i in r] for q, r in run.items()})
    for name in METRICS:
        assert_within(f"metrics, {name}", ours[name], theirs[name], DEPTH_100)


def test_ndcg_is_the_same_binary_or_graded_where_positive_grades_are_equal():
    qrels = {"q": {"a": 2, "b": 2, "c": 0}}
    ranking = np.array([[2, 0, 1]])
    binary, graded = (
        score_run(ranking, judge(qrels, ["q"], ["a", "b", "c"], graded=g))["ndcg@10"]
        for g in (False, True)
    )
    assert binary == pytest.approx(graded, abs=1e-12)
    uneven = judge({"q": {"a": 1, "b": 3}}, ["q"], ["a", "b", "c"], graded=True)
    assert score_run(ranking, uneven)["ndcg@10"] != pytest.approx(binary, abs=1e-3)


def test_map_divides_by_100_where_trec_eval_divides_by_more_relevant_documents():
    documents = [f"d{i:03d}" for i in range(250)]
    qrels = {"q": dict.fromkeys(documents[:160], 1)}
    ranking = np.random.default_rng(0).permutation(250)[None]
    ours = score_run(ranking, judge(qrels, ["q"], documents))["map@100"][0]
    theirs = pytrec(qrels, {"q": [documents[i] for i in ranking[0]]})["map@100"][0]
    assert_within("metrics, map", ours, theirs * 160 / 100, 2 * DEPTH_100)
    perfect = score_run(np.arange(250)[None], judge(qrels, ["q"], documents))
    assert perfect["map@100"][0] == 1 and perfect["recall@10"][0] == 10 / 160


def test_values_by_hand_with_a_relevant_document_missing_from_the_corpus():
    judgements = judge({"q": {"b": 1, "gone": 1, "c": 0}}, ["q"], ["a", "b", "c"])
    scores = {name: v[0] for name, v in score_run(np.array([[0, 1, 2]]), judgements).items()}
    assert scores["mrr@10"] == 1 / 2
    assert scores["recall@3"] == 1 / 2
    assert scores["precision@3"] == 1 / 3
    assert scores["precision@10"] == 1 / 10
    assert scores["accuracy@1"] == 0 and scores["accuracy@3"] == 1
    assert scores["map@100"] == pytest.approx((1 / 2) / 2)
    best = 1 / np.log2(2) + 1 / np.log2(3)
    assert scores["ndcg@10"] == pytest.approx((1 / np.log2(3)) / best)


def test_a_run_that_retrieves_nothing_scores_zero():
    scores = score_run(np.full((1, 5), -1), judge({"q": {"a": 1}}, ["q"], ["a", "b"]))
    assert all(v.tolist() == [0.0] for v in scores.values())


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("ndcg@10", RetrievalNormalizedDCG(top_k=10)),
        ("mrr@10", RetrievalMRR(top_k=10)),
        ("accuracy@5", RetrievalHitRate(top_k=5)),
        ("precision@5", RetrievalPrecision(top_k=5)),
        ("recall@5", RetrievalRecall(top_k=5)),
    ],
)
def test_torchmetrics_agrees(metric, theirs):
    ours, value = beside_torchmetrics(metric, theirs)
    assert_within("metrics, torchmetrics", value, ours, rounding(1.0, torch.float32, 100))


def test_torchmetrics_map_is_not_trecs():
    ours, value = beside_torchmetrics("map@100", RetrievalMAP(top_k=100))
    assert value > ours + 0.01


def beside_torchmetrics(metric, theirs):
    rng = np.random.default_rng(0)
    n, documents = 20, [f"d{i:03d}" for i in range(300)]
    scores = rng.random((n, 300)) + 0.5
    relevant = rng.random((n, 300)) < 0.05
    qrels = {f"q{i}": {documents[d]: 1 for d in np.flatnonzero(r)} for i, r in enumerate(relevant)}
    ours = score_run(np.argsort(-scores, axis=1), judge(qrels, list(qrels), documents))
    indexes = torch.arange(n)[:, None].expand(n, 300)
    value = theirs(torch.tensor(scores), torch.tensor(relevant), indexes=indexes)
    return ours[metric].mean(), float(value)


def test_bootstrap_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(0).exponential(size=(3000, 2))
    low, high = interval(bootstrap_means(values, seed=1, resamples=2000))
    width = 2 * 1.96 * values.std(axis=0) / np.sqrt(3000)
    np.testing.assert_allclose(high - low, width, rtol=0.08)
    assert (low < values.mean(axis=0)).all() and (values.mean(axis=0) < high).all()


def test_bootstrap_repeats_by_seed_and_pairs_systems():
    values = np.random.default_rng(0).random((50, 1))
    once = bootstrap_means(values, seed=3)
    assert (once == bootstrap_means(values, seed=3)).all()
    assert (once != bootstrap_means(values, seed=4)).any()
    better = bootstrap_means(values + 0.01, seed=3)
    np.testing.assert_allclose(better - once, 0.01, atol=1e-12)


def test_bootstrap_blocks_give_the_means_of_whole_draws():
    values = np.arange(3_000_000, dtype=np.float64)[:, None]  # one resample a block
    means = bootstrap_means(values, seed=0, resamples=3)
    rng = np.random.default_rng(0)
    expected = [values[rng.integers(0, len(values), len(values)), 0].mean() for _ in range(3)]
    np.testing.assert_allclose(means[:, 0], expected, rtol=1e-12)
