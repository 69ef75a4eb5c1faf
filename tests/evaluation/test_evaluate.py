"""Evaluation equals sentence-transformers' own, ties included; reports and command line hold."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from sse.common.errors import UserError
from sse.common.fusion import BEST, FEEDBACK, fuse
from sse.evaluation import ranking, report
from sse.evaluation.bm25 import BM25
from sse.evaluation.collection import Collection, pairs_collection
from sse.evaluation.evaluate import (
    default_dims,
    evaluate,
    evaluate_bm25,
    evaluate_hybrid,
)
from sse.evaluation.metrics import METRICS
from sse.evaluation.ranking import top_documents
from sse.evaluation.report import format_table, write_report
from sse.evaluation.results import NO_DIM, difference
from sse.evaluation.systems import evaluate_beside, evaluate_model, untrained_like

WORDS = ["query", "document", "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]


def static_model(dim=6, whole=False, **kwargs):
    """A table of nine words; with `whole` of small whole numbers, so that scores tie."""
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(vocabulary), dim, generator=torch.Generator().manual_seed(9))
    weights = weights.round() if whole else weights
    modules = [StaticEmbedding(tokenizer, embedding_weights=weights)]
    return SentenceTransformer(modules=modules, device="cpu", **kwargs)


def collection_of(queries, documents, qrels, name="tiny"):
    return Collection(name, [*documents], [*documents.values()], [*queries], [*queries.values()],
                      qrels)  # fmt: skip


def random_collection(seed, n_documents, n_queries, name="tiny"):
    """Few different texts, so many duplicates; ids out of order; some judged documents missing."""
    rng = np.random.default_rng(seed)

    def texts(n):
        return [" ".join(rng.choice(WORDS, rng.integers(0, 3))) for _ in range(n)]

    ids = [f"d{i}" for i in rng.permutation(n_documents)]
    judged = [*ids, "missing"]
    qrels = {
        f"q{i}": {d: int(rng.integers(-1, 4)) for d in rng.permutation(judged)[:8]}
        for i in range(n_queries)
    }
    qrels["q0"] |= {"missing": 2}  # at least one query has something to find
    queries = {f"q{i}": text for i, text in enumerate(texts(n_queries))}
    return collection_of(queries, dict(zip(ids, texts(n_documents), strict=True)), qrels, name)


def sentence_transformers_values(model, collection, dim):
    relevant = {q: {d for d, s in j.items() if s > 0} for q, j in collection.qrels.items()}
    evaluator = InformationRetrievalEvaluator(
        dict(zip(collection.query_ids, collection.queries, strict=True)),
        dict(zip(collection.corpus_ids, collection.corpus, strict=True)),
        relevant,
        truncate_dim=dim,
        write_csv=False,
    )
    values = evaluator(model)
    return {name: values[f"{model.similarity_fn_name}_{name}"] for name in METRICS}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 130), st.integers(1, 5), st.booleans())
def test_every_metric_equals_sentence_transformers_with_ties(seed, n_documents, n_queries, whole):
    model = static_model(whole=whole)
    collection = random_collection(seed, n_documents, n_queries)
    result = evaluate_model(model, [collection], [6, 3, 1])
    for dim in (6, 3, 1):
        theirs = sentence_transformers_values(model, collection, dim)
        assert result.scores["tiny"][dim].values == pytest.approx(theirs, abs=1e-9), dim


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_models_similarity_and_prompts_are_respected(similarity):
    prompts = {"query": "query query alpha ", "document": "document beta "}
    plain = static_model(similarity_fn_name=similarity)
    model = static_model(similarity_fn_name=similarity, prompts=prompts)
    collection = random_collection(1, 60, 20)
    values = evaluate_model(model, [collection], [6]).scores["tiny"][6].values
    theirs = sentence_transformers_values(model, collection, None)
    assert values == pytest.approx(theirs, abs=1e-9)
    assert values != evaluate_model(plain, [collection], [6]).scores["tiny"][6].values


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_top_documents_is_a_stable_sort(seed, n, depth, values):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, values, (4, n))).float()
    ids = rng.permutation(n).tolist()
    expected = [sorted(range(n), key=lambda i: (-r[i], ids[i]))[:depth] for r in scores.tolist()]
    assert top_documents(scores, depth, torch.tensor(ids).argsort()).tolist() == expected


def test_blocks_of_queries_change_nothing(monkeypatch):
    # Dot products of halves are exact: no last bit depends on the block.
    model = static_model(whole=True, similarity_fn_name="dot")
    collection = random_collection(2, 120, 30)
    whole = evaluate_model(model, [collection]).values()
    monkeypatch.setattr(ranking, "BLOCK", 500)  # about four queries a block
    assert evaluate_model(model, [collection]).values() == whole


def test_batches_of_texts_change_nothing():
    model, collection = static_model(), random_collection(2, 120, 30)
    few, many = (evaluate_model(model, [collection], batch_size=n).values() for n in (7, 1000))
    assert few == many


def test_the_mean_weighs_collections_alike_and_lies_in_its_interval():
    model = static_model()
    collections = [random_collection(3, 50, 40, "a"), random_collection(4, 20, 4, "b")]
    result = evaluate_model(model, collections, [6])
    for metric in METRICS:
        a, b = (result.scores[name][6].values[metric] for name in "ab")
        assert result.mean[6].values[metric] == pytest.approx((a + b) / 2)
        low, high = result.mean[6].intervals[metric]
        assert low <= result.mean[6].values[metric] <= high


def test_per_query_scores_average_to_the_values_and_name_their_queries():
    collection = random_collection(5, 50, 40)
    result = evaluate_model(static_model(), [collection], [6])
    row = result.scores["tiny"][6]
    assert result.query_ids["tiny"] == collection.judged().query_ids
    for metric in METRICS:
        assert len(row.per_query[metric]) == len(result.query_ids["tiny"])
        assert row.per_query[metric].mean() == pytest.approx(row.values[metric])


def test_the_difference_is_paired():
    collections = [random_collection(6, 50, 60, name) for name in "ab"]
    a, b = (evaluate_model(static_model(dim=d), collections) for d in (6, 3))
    assert difference(a, a, "ndcg@10") == dict.fromkeys(["a", "b", "mean"], (0.0, 0.0, 0.0))
    gain, low, high = difference(a, b, "ndcg@10")["mean"]
    assert gain == pytest.approx(a.mean[6].values["ndcg@10"] - b.mean[3].values["ndcg@10"])
    assert low <= gain <= high and low < high


def test_default_dims_are_the_standard_ones_below_the_models():
    assert default_dims(512) == [512, 256, 128, 64, 32]
    assert default_dims(384) == [384, 256, 128, 64, 32]
    assert default_dims(1024) == [1024, 512, 256, 128, 64, 32]
    assert default_dims(20) == [20]


@pytest.mark.parametrize("dim", [7, 0, -1])
def test_a_dimension_that_is_no_prefix_is_one_line(dim):
    with pytest.raises(UserError, match=f"dimension {dim} is no prefix of the model's 6"):
        evaluate_model(static_model(), [random_collection(0, 5, 2)], [6, dim])


def test_what_cannot_be_evaluated_is_one_line():
    collection = random_collection(0, 5, 2)
    broken = {
        "is not finite": lambda texts: np.full((len(texts), 4), np.nan),
        "made shape": lambda texts: np.zeros(4),
    }
    for message, encode in broken.items():
        with pytest.raises(UserError, match=message):
            evaluate(encode, [collection])
    with pytest.raises(UserError, match="two collections are named 'tiny'"):
        evaluate(lambda texts: np.zeros((len(texts), 4)), [collection, collection])
    with pytest.raises(UserError, match="no collection"):
        evaluate_bm25([])
    with pytest.raises(UserError, match="must share one space"):
        evaluate(
            lambda texts: np.zeros((len(texts), 4)),
            [collection],
            encode_documents=lambda texts: np.zeros((len(texts), 5)),
        )


def test_bm25_finds_by_stems_and_retrieves_only_what_shares_a_term():
    documents = {"d1": "the cats are sleeping", "d2": "dogs bark", "d0": "nothing at all"}
    queries = {"q1": "a sleepy cat sleeps", "q2": "zebra", "q3": "the of and"}
    qrels = {"q1": {"d1": 1}, "q2": {"d0": 1}, "q3": {"d1": 1}}
    result = evaluate_bm25([collection_of(queries, documents, qrels)])
    assert result.dims == [NO_DIM]
    row = result.scores["tiny"][NO_DIM]
    assert row.per_query["ndcg@10"].tolist() == [1, 0, 0]
    # d0 comes first by id, but q2 shares no term with it; q3 has only stopwords.
    assert row.per_query["recall@10"].tolist() == [1, 0, 0]


def test_bm25_takes_a_corpus_without_words():
    qrels = {"q": {"d": 1}}
    result = evaluate_bm25([collection_of({"q": "cat"}, {"d": "", "e": "the of"}, qrels)])
    assert set(result.scores["tiny"][NO_DIM].values.values()) == {0.0}


def test_held_out_pairs_are_found_by_an_encoder_that_knows_them():
    anchors, positives = ["alpha", "beta", "alpha"], ["gamma", "delta", "gamma"]
    code = {"alpha": 0, "gamma": 0, "beta": 1, "delta": 1}
    result = evaluate(
        lambda texts: np.eye(2)[[code[t] for t in texts]],
        [pairs_collection("pairs", anchors, positives)],
    )
    assert result.scores["pairs"][2].values["accuracy@1"] == 1


def test_the_untrained_twin_has_the_tokenizer_and_an_unlike_table():
    model = static_model(prompts={"query": "query "})
    twin, again, other = untrained_like(model), untrained_like(model), untrained_like(model, 1)
    assert twin.get_embedding_dimension() == 6 and twin.prompts["query"] == "query "
    texts = ["alpha beta", "gamma"]
    assert (twin.encode(texts) == again.encode(texts)).all()
    assert (twin.encode(texts) != other.encode(texts)).any()
    assert (twin.encode(texts) != model.encode(texts)).any()
    assert untrained_like([torch.nn.Linear(2, 2)]) is None


@pytest.fixture(scope="module")
def results():
    collections = [random_collection(seed, 40, 30, name) for seed, name in enumerate("abcd")]
    return evaluate_beside(static_model(dim=40), collections, [40, 8, 2])


def test_the_table_shows_every_system_dimension_and_collection(results):
    table = format_table(results)
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    for name in "abcd":
        value = results["model"].scores[name][40].values["ndcg@10"]
        assert f"{value:.4f}" in lines[name]
    for result in results.values():
        for row in result.mean.values():
            assert f"{row.values['ndcg@10']:.4f} [" in table
    assert {"model", "untrained", "BM25", "mean", "nDCG@10"} <= set(table.split())
    assert len({len(line) for line in table.splitlines()[2:8]}) == 1  # columns align


def test_a_report_holds_what_was_measured(results, tmp_path):
    paths = write_report(results, tmp_path / "report")
    assert sorted(tmp_path.joinpath("report").iterdir()) == sorted(paths)
    text, parquet, png = paths
    assert text.read_text() == format_table(results) + "\n"
    frame = pq.read_table(parquet).to_pandas()
    means = frame.groupby(["system", "collection", "dim"])[METRICS].mean()
    for system, result in results.items():
        for name, by_dim in result.scores.items():
            for dim, row in by_dim.items():
                assert means.loc[system, name, dim].to_dict() == pytest.approx(row.values)
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 20_000


def test_a_report_that_fails_leaves_the_older_one(results, tmp_path, monkeypatch):
    write_report({"BM25": results["BM25"]}, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "plot", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(results, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_collection_alone_reports_too(tmp_path):
    results = {"trained": evaluate_model(static_model(), [random_collection(0, 9, 3)])}
    assert "mean" not in format_table(results)
    assert all(path.stat().st_size for path in write_report(results, tmp_path))


def by_hand(collection, queries, documents, keyword, weight):
    """nDCG@10 of the fused lists, query by query, each fused once more with a moved query."""
    values = []
    for query, vector, b in zip(collection.query_ids, queries, keyword, strict=True):
        found, every = np.flatnonzero(b > 0), np.arange(len(documents))
        words = (found, b[found])
        first, _ = fuse((every, documents @ vector), words, weight)
        vector = vector + FEEDBACK * documents[first[:BEST]].mean(axis=0)
        order, _ = fuse((every, documents @ vector), words, weight)
        relevant = {collection.corpus_ids.index(d) for d in collection.qrels[query]}
        hits = np.isin(order[:10], [*relevant])
        gains = 1 / np.log2(np.arange(2, 12))
        values.append((hits * gains[: len(hits)]).sum() / gains[: min(10, len(relevant))].sum())
    return values


def test_hybrid_ranks_by_the_fused_scores_and_leaves_both_sides_as_they_are():
    rng = np.random.default_rng(4)
    corpus = [" ".join(rng.choice(WORDS[2:], 3)) for _ in range(30)]
    queries = [" ".join(rng.choice(WORDS[2:], 2)) for _ in range(12)]
    qrels = {f"q{i}": {f"d{j:02}": 1 for j in rng.choice(30, 3, False)} for i in range(12)}
    ids = [f"d{i:02}" for i in range(30)], [f"q{i}" for i in range(12)]
    collection = Collection("tiny", ids[0], corpus, ids[1], queries, qrels)
    table = {text: rng.normal(size=6).astype(np.float32) for text in {*corpus, *queries}}

    def encode(texts):
        return np.stack([table[text] for text in texts])

    dense, bm25, hybrid = evaluate_hybrid(encode, [collection], [6, 2], weight=0.4)
    assert dense.values() == evaluate(encode, [collection], [6, 2]).values()
    assert bm25.values() == evaluate_bm25([collection]).values()
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(encode, (queries, corpus))]
    expected = by_hand(collection, *unit, BM25(corpus).scores(queries), 0.4)
    assert hybrid.scores["tiny"][6].per_query["ndcg@10"] == pytest.approx(expected)
    low, high = hybrid.scores["tiny"][6].intervals["ndcg@10"]
    assert low < hybrid.scores["tiny"][6].values["ndcg@10"] < high
    assert hybrid.dims == [6, 2]


def test_a_distance_cannot_be_fused():
    with pytest.raises(UserError, match="'euclidean' cannot be fused"):
        evaluate_hybrid(lambda texts: texts, [], similarity="euclidean")
