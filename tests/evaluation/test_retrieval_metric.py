"""`RetrievalMetric` is `score_run`, whatever the number of processes."""

import doctest
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sse.evaluation import retrieval_metric
from sse.evaluation.metrics import METRICS, judge, score_run
from sse.evaluation.ranking import rank, vector_scorer
from sse.evaluation.retrieval_metric import RetrievalMetric, rank_own


def vectors(count=37):
    """Queries near to their own documents, so that ranks from 1 to beyond 10 occur."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.randn(count, 4, generator=generator)
    return documents + 1.5 * torch.randn(count, 4, generator=generator), documents


def value(name, *parts):
    metric = RetrievalMetric(name)
    for part in parts:
        metric.update(*part)
    return float(metric.compute())


@pytest.mark.parametrize("name", METRICS)
def test_the_value_is_that_of_the_exact_evaluation(name):
    queries, documents = vectors()
    ids = [f"{i:03}" for i in range(len(queries))]
    ranking = rank(vector_scorer(queries, documents, "cosine"), len(ids), ids)
    judgements = judge({i: {i: 1} for i in ids}, ids, ids)
    expected = score_run(ranking, judgements)[name]
    assert len(np.unique(expected)) > 1
    assert value(name, rank_own(queries, documents)) == pytest.approx(expected.mean(), rel=1e-6)


def test_ndcg_of_own_documents_has_known_values():
    eye = torch.eye(12)
    assert value("ndcg@10", rank_own(eye, eye)) == pytest.approx(1.0)
    second = eye + 2 * eye.roll(1, 0)  # each query prefers another's document
    assert value("ndcg@10", rank_own(second, eye)) == pytest.approx(1 / math.log2(3))
    assert value("ndcg@10", rank_own(torch.ones(12, 4), torch.ones(12, 4))) == 0, "ties rank last"


def test_queries_may_come_in_parts_and_none_is_zero():
    queries, documents = vectors()
    parts = [rank_own(queries[i : i + 10], documents, i) for i in range(0, 37, 10)]
    whole = value("mrr@10", rank_own(queries, documents))
    assert value("mrr@10", *parts) == pytest.approx(whole, rel=1e-6)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert value("mrr@10") == 0
    with pytest.raises(ValueError, match="'ndcg@7' is none of ndcg@10"):
        RetrievalMetric("ndcg@7")


def one_process(rank, world, meeting, results):
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
    queries, documents = vectors()
    own = slice(37 * rank // world, 37 * (rank + 1) // world)  # unequal parts
    part = rank_own(queries[own], documents, own.start)
    torch.save([value(name, part) for name in METRICS], f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_a_part_each_have_the_value_of_one(tmp_path):
    mp.spawn(one_process, (2, tmp_path / "meeting", tmp_path), nprocs=2)
    expected = [value(name, rank_own(*vectors())) for name in METRICS]
    for rank_ in range(2):
        assert torch.load(tmp_path / f"{rank_}.pt") == pytest.approx(expected, rel=1e-6)


def test_the_documentations_example_holds():
    assert doctest.testmod(retrieval_metric).failed == 0
