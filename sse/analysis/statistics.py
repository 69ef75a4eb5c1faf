"""Intervals and tests for scores of several seeds on several collections of queries.

A difference between two ways of training is measured with two kinds of noise: each seed trains
another model, and the queries are a sample. Which is larger is not known beforehand, so:

- `t_interval`: Student's t over seeds. Honest with 3 of them (the factor is 4.30, not 1.96), but it
  takes these queries as all there are.
- `sign_flip`: the paired randomisation test over queries. It takes these trained models as all
  there are: where seeds differ, it calls most null differences significant. Over
  seeds alone it is useless: with 3, the smallest p there can be is 2 / 2^3 = .25.
- `crossed`: one p over both, Clark's min F' (1973, "The language-as-fixed-effect fallacy"). It adds
  the variances of the mean over seeds and over queries, with Satterthwaite's degrees of freedom.
  The part of the noise that is neither's own is counted twice, so it errs to the safe side.
- `bootstrap`: percentile interval with queries and seeds both resampled (crossed, as in Owen 2007,
  "The pigeonhole bootstrap"). Where seeds make the noise it is a fifth too narrow with 3 of them,
  resampled variances being (n - 1) / n of the true, and normal where t has long tails. So it is
  shown, and nothing is decided by it.
- `holm`: Holm's step-down correction (1979), for any dependence among the tests.

Simulated with 3 seeds and no effect, at a level of 5% (2,000 cases each; from queries' noise alone
to twice as much of the seeds'): `sign_flip` rejects in 5 to 86% of cases, the t-interval misses 0
in 5 to 53%, `crossed` rejects in 1 to 7% (2 degrees of freedom are few for Satterthwaite), and both
together, which is what `sse.analysis.comparison` asks for, in 1 to 6%
(tests/analysis/test_statistics.py).

Differences come as one array (Q, S) per collection: queries by seeds, two systems' scores
subtracted at the same query and seed. Seeds are the same in all collections. Every mean over
collections weighs each collection alike, however many queries it has.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sse.evaluation.metrics import bootstrap_means, interval

Differences = Mapping[str, np.ndarray]  # collection -> (Q, S)

EXACT = 16  # values of which all 2^n sign patterns are tried


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its t-interval; NaN bounds where n is 1."""

    mean: float
    low: float
    high: float
    sd: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """The mean -+ t_{n-1} sd / sqrt(n), sd with n - 1 below; one value has no interval."""
    x = np.asarray(values, dtype=np.float64)
    n, mean = len(x), float(np.mean(x))
    if n < 2:
        return Estimate(mean, np.nan, np.nan, np.nan, n)
    from scipy.stats import t

    sd = float(x.std(ddof=1))
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd / np.sqrt(n)
    return Estimate(mean, mean - half, mean + half, sd, n)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-adjusted p-values in the order given; NaN (not tested) stays and counts for nothing.

    The k-th smallest of m is multiplied by m - k + 1, made monotone, and cut at 1.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted


def sign_flip(
    values: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0, flips: int = 10_000
) -> np.ndarray:
    """Two-sided paired randomisation test: is the weighted sum as large with random signs?

    Args:
        values: (N, K) paired differences, a column a test; all columns share the signs.
        weights: (N,) of the sum; equal by default.
        seed: of the random signs.
        flips: random sign patterns; up to 16 values all 2^N are tried instead.

    Returns:
        (K,) p-values: exact, or (1 + extreme) / (1 + flips), which counts the observed pattern.
    """
    n = len(values)
    weighted = np.asarray(values, dtype=np.float64)
    weighted = weighted / n if weights is None else weighted * weights[:, None]
    total = weighted.sum(axis=0)
    # Rounding must not make the observed pattern less extreme than itself.
    bound = np.abs(total) - 1e-12 * np.abs(weighted).sum(axis=0)
    if n <= EXACT:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # (2^n, n)
        return (np.abs(2 * bits @ weighted - total) >= bound).mean(axis=0)
    rng = np.random.default_rng(seed)
    extreme = np.zeros(weighted.shape[1], dtype=np.int64)
    block = max(1, 4_000_000 // n)  # patterns at a time: 32 MB of signs
    for start in range(0, flips, block):
        rows = min(block, flips - start)
        packed = np.frombuffer(rng.bytes(rows * -(-n // 8)), dtype=np.uint8).reshape(rows, -1)
        bits = np.unpackbits(packed, axis=1, count=n).astype(np.float64)
        extreme += (np.abs(2 * (bits @ weighted) - total) >= bound).sum(axis=0)
    return (1 + extreme) / (1 + flips)


def crossed(differences: Differences) -> tuple[float, float]:
    """Clark's min F' over seeds and queries, as a t test of the mean over collections.

        t^2 = d^2 / (V_s + V_q),  df = (V_s + V_q)^2 / (V_s^2 / (S - 1) + sum_c V_c^2 / (Q_c - 1))

    with V_s the variance of the mean over seeds and V_q = sum_c V_c that over queries.

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


def bootstrap(
    differences: Sequence[Differences], *, seed: int = 0, resamples: int = 10_000
) -> list[tuple[float, float]]:
    """95% percentile intervals of the mean over collections, queries and seeds resampled.

    Queries are drawn within their collection and a draw holds for all seeds; seeds are drawn once
    for all collections. All comparisons see the same draws.

    Args:
        differences: comparisons with the same collections, queries and number of seeds.
        seed: of the draws.
        resamples: how many.
    """
    n_seeds = next(iter(differences[0].values())).shape[1]
    means = np.zeros((resamples, len(differences), n_seeds))
    for name in differences[0]:
        columns = np.concatenate([parts[name] for parts in differences], axis=1)  # (Q, K S)
        key = [seed, zlib.crc32(name.encode())]  # a collection's draws, whatever stands beside it
        drawn = bootstrap_means(columns.astype(np.float64), seed=key, resamples=resamples)
        means += drawn.reshape(means.shape) / len(differences[0])
    rng = np.random.default_rng([seed, n_seeds])
    drawn_seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    low, high = interval(np.einsum("rks,rs->rk", means, drawn_seeds))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def seed_means(differences: Differences) -> np.ndarray:
    """(S,) mean over collections of the mean over queries, seed by seed."""
    return np.mean([part.mean(axis=0) for part in differences.values()], axis=0)


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
