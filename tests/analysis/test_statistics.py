"""Intervals and tests have the values a hand or scipy computes, and their error rates are kept."""

import numpy as np
import pytest
from scipy import stats

from sse.analysis.statistics import (
    crossed,
    effect_sizes,
    holm,
    seed_means,
    t_interval,
)

QUERIES = {"first": 40, "second": 90}


def test_t_interval_by_hand():
    # mean 3, sd 1, t_{.975, 2} = 4.302653: half = 4.302653 / sqrt(3)
    e = t_interval([2, 3, 4])
    assert (e.mean, e.sd, e.n) == (3, 1, 3)
    assert (e.low, e.high) == pytest.approx((3 - 2.484138, 3 + 2.484138), abs=1e-6)
    low, high = stats.t.interval(0.9, 4, loc=2, scale=stats.sem([1, 1, 2, 2, 4]))
    wide = t_interval([1, 1, 2, 2, 4], 0.9)
    assert (wide.low, wide.high) == pytest.approx((low, high))


def test_one_seed_has_a_mean_and_no_interval():
    e = t_interval([0.5])
    assert e.mean == 0.5 and e.n == 1 and np.isnan([e.low, e.high, e.sd]).all()


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 -> x4 .02, x3 .03, x2 .06, x1 .04 raised to .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])


def test_crossed_by_hand():
    # (Q 3, S 2): seed means .2 .4, V_s = .02 / 2; query means .1 .3 .5, V_q = .04 / 3
    d = np.array([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6]])
    v_s, v_q = 0.01, 0.04 / 3
    df = (v_s + v_q) ** 2 / (v_s**2 / 1 + v_q**2 / 2)
    p, df_found = crossed({"a": d})
    assert df_found == pytest.approx(df)
    assert p == pytest.approx(2 * stats.t.sf(0.3 / np.sqrt(v_s + v_q), df))


def test_crossed_is_the_t_test_where_only_one_kind_of_noise_is_there():
    seeds = np.array([0.1, 0.4, 0.3])
    p, df = crossed({"a": np.tile(seeds, (50, 1))})
    assert df == pytest.approx(2) and p == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)
    queries = np.random.default_rng(0).normal(0.1, 1, 60)
    p, df = crossed({"a": np.tile(queries[:, None], (1, 3))})
    assert df == pytest.approx(59) and p == pytest.approx(stats.ttest_1samp(queries, 0).pvalue)


def test_crossed_without_any_noise_or_with_one_seed():
    assert crossed({"a": np.zeros((5, 3))})[0] == 1
    assert crossed({"a": np.full((5, 3), 0.25)})[0] == 0
    assert np.isnan(crossed({"a": np.ones((5, 1))})[0])


def test_effect_sizes_by_hand():
    d = {"a": np.array([[1.0, 3.0], [0.0, 0.0]]), "b": np.array([[-1.0, 1.0], [-2.0, -2.0]])}
    sizes = effect_sizes(d)
    # by seed: a .5 1.5, b -1.5 -.5 -> -.5 .5; by query: a 2 0, b 0 -2
    np.testing.assert_allclose(seed_means(d), [-0.5, 0.5])
    assert sizes["dz_seeds"] == 0 and sizes["dz_queries"] == 0
    assert (sizes["better"], sizes["worse"], sizes["equal"]) == (0.25, 0.25, 0.5)
    up = effect_sizes({"a": np.array([[1.0, 3.0], [0.0, 2.0]])})
    assert up["dz_seeds"] == pytest.approx(1.5 / np.sqrt(2))  # seeds .5 2.5
    assert up["dz_queries"] == pytest.approx(1.5 / np.sqrt(0.5))  # queries 2 1


def noise(rng, seeds, queries, rest, shift=0.0, n=3):
    """Differences with these standard deviations: of a seed, a query, and of neither alone."""
    of_seeds = rng.normal(0, seeds, (1, n))
    return {
        name: shift + of_seeds + rng.normal(0, queries, (q, 1)) + rng.normal(0, rest, (q, n))
        for name, q in QUERIES.items()
    }


def rejected(count, *args, **kwargs):
    """How often `crossed` rejects, and how often what `compare` asks for."""
    rng = np.random.default_rng(0)
    times = np.zeros(2)
    for _ in range(count):
        d = noise(rng, *args, **kwargs)
        p, e = crossed(d)[0], t_interval(seed_means(d))
        times += p < 0.05, p < 0.05 and not e.low <= 0 <= e.high
    return times / count


@pytest.mark.parametrize(
    "noises", [(0, 1, 0.3), (0, 0, 1), (0.05, 1, 1), (0.2, 1, 1), (1, 0.5, 0.5)], ids=str
)
def test_null_differences_are_called_significant_in_at_most_five_percent(noises):
    alone, both = rejected(1000, *noises)
    assert both <= 0.07  # .05 and 3 standard errors
    assert alone <= 0.095


def test_a_real_shift_is_found():
    assert rejected(200, 0.02, 0.5, 1, shift=0.5)[1] > 0.9
