"""Fused scores are the weighted mean of the scaled ones, for the documents of either search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse.common.errors import UserError
from sse.common.fusion import FEEDBACK, fuse, moved

NOTHING = np.zeros(0, np.int64), np.zeros(0, np.float32)


def hits(**scores):
    return np.array([int(d[1:]) for d in scores]), np.array([*scores.values()], np.float32)


def fused(*args, **options):
    documents, scores = fuse(*args, **options)
    return dict(zip(documents.tolist(), scores.tolist(), strict=True))


def test_a_document_of_both_lists_has_the_weighted_mean_of_its_scaled_scores():
    result = fused(hits(d1=0.8, d2=0.4, d3=0.2), hits(d3=10.0, d2=5.0), weight=0.4)
    assert result == pytest.approx({3: 0.4 * 0.25 + 0.6, 2: 0.4 * 0.5 + 0.6 * 0.5, 1: 0.4})
    assert [*result] == [3, 2, 1], "best first"


def test_a_document_that_a_cut_list_lacks_has_its_last_score():
    result = fused(hits(d1=0.8, d2=0.4), hits(d3=10.0, d2=5.0), weight=0.5)
    assert result == pytest.approx({3: 0.25 + 0.5, 1: 0.5 + 0.25, 2: 0.25 + 0.25})


def test_a_document_without_a_shared_term_has_no_keyword_score():
    result = fused(hits(d1=0.8, d2=0.4), hits(d2=5.0), weight=0.5)
    assert result == pytest.approx({2: 0.25 + 0.5, 1: 0.5})


@given(
    st.dictionaries(st.integers(0, 30), st.floats(-1, 1, width=32), max_size=12),
    st.dictionaries(st.integers(0, 30), st.floats(0, 50, width=32), max_size=12),
    st.floats(0, 1),
)
def test_each_document_comes_once_and_in_the_order_of_its_score(dense, keyword, weight):
    lists = [(np.array([*s], np.int64), np.array([*s.values()])) for s in (dense, keyword)]
    documents, scores = fuse(*lists, weight)
    assert sorted(documents.tolist()) == sorted({*dense, *keyword})
    assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()
    keys = [(-score, document) for document, score in zip(documents, scores, strict=True)]
    assert keys == sorted(keys), "equal scores stand in the order of their numbers"


def test_a_search_that_found_nothing_leaves_the_order_to_the_other():
    dense = hits(d5=0.9, d1=0.3, d4=0.1)
    assert [*fused(dense, NOTHING)] == [5, 1, 4]
    assert [*fused(NOTHING, dense)] == [5, 1, 4]
    assert fused(NOTHING, NOTHING) == {}


def test_new_dense_scores_replace_the_old_ones_and_words_stay():
    asked = []

    def again(documents, best):
        asked.append((documents.tolist(), best.tolist()))
        return np.array([0.1, 0.2, 0.4, 0.3])

    dense, keyword = hits(d1=0.9, d2=0.5, d3=0.1, d4=0.1), hits(d3=8.0, d2=4.0)
    result = fused(dense, keyword, weight=0.5, again=again)
    assert asked == [([1, 2, 3, 4], [3, 2, 1])], "all, and the best by the first scores"
    assert result == pytest.approx({1: 0.125, 2: 0.25 + 0.25, 3: 0.5 + 0.5, 4: 0.375})
    assert fused(NOTHING, NOTHING, again=again) == {} and len(asked) == 1


def test_a_moved_query_is_nearer_to_the_mean_of_the_best():
    vectors = np.eye(4, dtype=np.float32)
    expected = [1, FEEDBACK / 2, FEEDBACK / 2, 0]
    np.testing.assert_allclose(moved(vectors[0], vectors, np.array([1, 2])), expected)


def test_the_weight_moves_from_the_keyword_order_to_the_dense_one():
    dense, keyword = hits(d1=0.9, d2=0.5, d3=0.1), hits(d3=8.0, d2=7.0, d1=1.0)
    assert [*fused(dense, keyword, weight=1)] == [1, 2, 3]
    assert [*fused(dense, keyword, weight=0)] == [3, 2, 1]


def test_a_weight_that_is_no_share_is_refused():
    with pytest.raises(UserError, match=r"weight 1\.5: give a share"):
        fuse(NOTHING, NOTHING, 1.5)
