"""Intervals and tests for scores of several seeds on several collections of queries.

A difference between two ways of training has two kinds of noise: each seed trains another model,
and the queries are a sample. `t_interval` takes the queries as fixed, `crossed` counts both kinds,
`holm` corrects for the number of tests.

Differences come as one array (Q, S) per collection: queries by seeds, two systems' scores
subtracted at the same query and seed. All collections have the same seeds. A mean over collections
weighs each collection alike, however many queries it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Differences = Mapping[str, np.ndarray]  # collection -> (Q, S)


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its t-interval; NaN bounds where n is 1."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """The mean ± t_{n-1} sd / sqrt(n), sd with n - 1 below; one value has no interval.

    With 3 seeds the factor t is 4.30, where a normal distribution has 1.96.
    """
    x = np.asarray(values, dtype=np.float64)
    n, mean = len(x), float(np.mean(x))
    if n < 2:
        return Estimate(mean, np.nan, np.nan, np.nan, n)
    from scipy.stats import t

    sd = float(x.std(ddof=1))
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd / np.sqrt(n)
    return Estimate(mean, mean - half, mean + half, sd, n)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p-values, in the order of `p`.

    The k-th smallest of m is multiplied by m - k + 1, made monotone, and cut at 1. NaN, which is
    not tested, stays and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted


def crossed(differences: Differences) -> tuple[float, float]:
    """Clark's min F' over seeds and queries, as a t test of the mean over collections.

        t^2 = d^2 / (V_s + V_q),  df = (V_s + V_q)^2 / (V_s^2 / (S - 1) + sum_c V_c^2 / (Q_c - 1))

    with V_s the variance of the mean over seeds and V_q = sum_c V_c that over queries. Noise that
    belongs to neither alone is counted twice, so the test errs to the safe side. Source: Clark
    (1973), "The language-as-fixed-effect fallacy"; degrees of freedom by Satterthwaite.

    Returns:
        (p, degrees of freedom); NaN with one seed, whose noise cannot be known.
    """
    from scipy.stats import t

    parts = list(differences.values())
    n_seeds = parts[0].shape[1]
    if n_seeds < 2:
        return np.nan, np.nan
    by_seed = seed_means(differences)
    by_query = [part.mean(axis=1) for part in parts]
    of_seeds = by_seed.var(ddof=1) / n_seeds
    ns = np.array([len(x) for x in by_query])
    of_queries = np.array(
        [x.var(ddof=1) / len(x) / len(parts) ** 2 if len(x) > 1 else 0.0 for x in by_query]
    )
    variance = of_seeds + of_queries.sum()
    if variance == 0:  # one constant difference: certain, or none at all
        return (1.0 if by_seed.mean() == 0 else 0.0), np.inf
    below = of_seeds**2 / (n_seeds - 1) + (of_queries**2 / np.maximum(ns - 1, 1)).sum()
    df = variance**2 / below
    return float(2 * t.sf(abs(by_seed.mean()) / np.sqrt(variance), df)), float(df)


def seed_means(differences: Differences) -> np.ndarray:
    """(S,) mean over collections of the mean over queries, seed by seed."""
    return np.asarray(np.mean([part.mean(axis=0) for part in differences.values()], axis=0))


def effect_sizes(differences: Differences, tolerance: float = 1e-6) -> dict[str, float]:
    """Standardised effects and the share of queries that move.

    Returns:
        `dz_seeds` and `dz_queries`: Cohen's d_z, the mean difference over the standard deviation of
        the paired differences, over seeds, and over queries after the mean over seeds (variances
        within each collection, averaged); `better`, `worse`, `equal`: shares of the queries whose
        mean difference over seeds is above, below, within `tolerance`, averaged over collections.
    """
    by_seed = seed_means(differences)
    by_query = [part.mean(axis=1) for part in differences.values()]
    mean = float(by_seed.mean())
    of_seeds = by_seed.std(ddof=1) if len(by_seed) > 1 else np.nan
    of_queries = np.sqrt(np.mean([x.var(ddof=1) if len(x) > 1 else np.nan for x in by_query]))
    better = float(np.mean([(x > tolerance).mean() for x in by_query]))
    worse = float(np.mean([(x < -tolerance).mean() for x in by_query]))
    return {
        "dz_seeds": mean / of_seeds if of_seeds else np.nan,
        "dz_queries": float(mean / of_queries) if of_queries else np.nan,
        "better": better,
        "worse": worse,
        "equal": 1 - better - worse,
    }
