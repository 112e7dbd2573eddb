"""How sure a number is: intervals over problems, and paired comparisons on the same problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a - b over problems with a bootstrap interval; wins, losses, ties by problem; sign test."""

    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int
    p_value: float


def wilson(c: int, n: int, z: float = 1.96) -> Interval:
    """Score interval for a proportion of c successes in n trials (Wilson 1927); [0, 1] for n = 0.

    Honest near 0 and 1 and for small n, where p +- z * sqrt(p (1-p) / n) has no width or leaves [0, 1].
    """
    if not 0 <= c <= n:
        raise ValueError(f"c={c} successes of n={n}: c must lie in 0..n")
    if n == 0:
        return Interval(0.0, 1.0)
    p, shrink = c / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At c = 0 and c = n one end is the point itself, which rounding would miss by 1e-17.
    return Interval(0.0 if c == 0 else centre - half, 1.0 if c == n else centre + half)


@lru_cache(maxsize=4096)
def beta_interval(c: int, n: int, level: float = 0.95) -> Interval:
    """Central interval of Beta(1 + c, 1 + n - c), the posterior of a share under a uniform prior (Bayes 1763).

    With whole parameters its distribution function at x is the chance of more than c successes in n + 1 trials of
    chance x; the ends are found by halving.
    """
    if not 0 <= c <= n:
        raise ValueError(f"c={c} successes of n={n}: c must lie in 0..n")
    m = n + 1
    ways = [math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1) for k in range(c + 1, m + 1)]

    def below(x: float) -> float:
        win, lose = math.log(x), math.log1p(-x)
        return sum(math.exp(w + k * win + (m - k) * lose) for k, w in enumerate(ways, start=c + 1))

    def quantile(share: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < share else (low, middle)
        return (low + high) / 2

    return Interval(quantile((1 - level) / 2), quantile((1 + level) / 2))


def bootstrap(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic over problems (Efron 1979): whole rows of `values` are resampled.

    `values` is (P,) or (P, ...): everything of one problem in one row, so that what belongs together stays
    together. Resamples on which the statistic is NaN (an AUROC of one class) are left out. No width where all
    rows are equal: prefer `wilson` for plain proportions.
    """
    rows = np.asarray(values, dtype=float)
    if rows.ndim == 0 or not len(rows):
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    draws = [statistic(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(num_resamples)]
    if np.isnan(draws).all():
        return Interval(math.nan, math.nan)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value for wins and losses being equally likely, ties left out; 1 with neither.

    On right/wrong outcomes this is McNemar's test in its exact form: wins and losses are the problems on
    which exactly one of the two methods is right.
    """
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


def paired_difference(
    a: Sequence[float], b: Sequence[float], seed: int = 0, num_resamples: int = 2000
) -> PairedDifference:
    """Compares two methods on the same problems: `a[p]` and `b[p]` are their results on problem p.

    A problem on which one of them has none (NaN) is left out.

    The interval resamples problems, not methods, so that what makes a problem hard for both cancels.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} results: both must hold the same problems")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    differences = differences[~np.isnan(differences)]
    low, high = bootstrap(differences, seed=seed, num_resamples=num_resamples)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedDifference(
        difference=float(differences.mean()),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
        p_value=sign_test(wins, losses),
    )
