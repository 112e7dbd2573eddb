"""Estimators over repeated samples of one problem: pass@k, votes, best-of-k, coverage curves (numpy only).

Each function takes the n independent samples of **one** problem; average over problems outside. Samples that
share a prefix (leaves of a tree) are not independent and don't belong here. Votes are over canonical answer
strings, one string per equivalence class; None means that no answer was found.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

# The counts behind maj_at_k are binomials in float64, which end near 1.8e308 > C(1020, 510).
MAX_VOTES = 1000


class CoverageFit(NamedTuple):
    """coverage(k) = exp(a * k ** -b), with a <= 0."""

    a: float
    b: float

    def at(self, k: float) -> float:
        """The fitted coverage at k samples."""
        return math.exp(self.a * k**-self.b)


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of n={n} samples: k must lie in 1..n; draw more samples or lower k")


def _check_counts(n: int, c: int, k: int) -> None:
    _check_k(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c={c} correct of n={n} samples: c must lie in 0..n")


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is correct, drawn without replacement from n with c correct.

    1 - C(n-c, k) / C(n, k), unbiased for 1 - (1-p)^k (Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", section 2.1), computed in exact integers.
    """
    _check_counts(n, c, k)
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Probability that all of k samples are correct: C(c, k) / C(n, k), unbiased for p^k.

    "pass^k" of tau-bench (Yao et al. 2024): reliability, where pass@k is reach.
    """
    _check_counts(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Expected accuracy of `majority` over all k-subsets of the n samples, each kept in sample order. Exact.

    Enumerates no subsets. Let sample p be the first of the winning answer in the subset, and j its number of
    votes. Then j-1 more votes come from that answer's samples after p, and every other answer has fewer than
    j votes, or exactly j if all of them come after p (ties: first seen wins). The number of such subsets
    is a product of binomials, one polynomial per answer in x = number of samples taken; samples without an
    answer take part with (1+x)^m. Subsets without any answer count as incorrect.

    Correctness of a vote is that of sample p, which matters only where equal answers were judged unequally.
    """
    n = len(answers)
    _check_k(n, k)
    if len(correct) != n:
        raise ValueError(f"{n} answers but {len(correct)} verdicts: give one per sample")
    if n > MAX_VOTES:
        raise ValueError(f"{n} samples: maj_at_k counts subsets in float64, up to {MAX_VOTES} samples")
    positions: dict[Hashable, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            positions.setdefault(answer, []).append(i)
    num_silent = n - sum(map(len, positions.values()))
    silent = np.array([float(math.comb(num_silent, i)) for i in range(min(num_silent, k) + 1)])
    won = 0.0
    for answer, own in positions.items():
        rivals = [places for other, places in positions.items() if other != answer]
        for place, p in enumerate(own):
            if correct[p]:
                won += _subsets_won(p, len(own) - place - 1, rivals, silent, k)
    return won / float(math.comb(n, k))


def _subsets_won(p: int, own_after: int, rivals: list[list[int]], silent: np.ndarray, k: int) -> float:
    """Number of k-subsets whose majority is sample p's answer with p as its first vote."""
    after_p = [sum(1 for place in places if place > p) for places in rivals]
    total = 0.0
    for votes in range(1, min(own_after + 1, k) + 1):
        rest = k - votes
        ways = silent[: rest + 1]
        for places, num_after in zip(rivals, after_p, strict=True):
            taken = [float(math.comb(len(places), i)) for i in range(votes)]
            taken.append(float(math.comb(num_after, votes)))
            ways = np.convolve(ways, taken)[: rest + 1]
        if len(ways) > rest:
            total += math.comb(own_after, votes - 1) * float(ways[rest])
    return total


def best_of_k(scores: Sequence[float], correct: Sequence[float], k: int) -> float:
    """Expected correctness of the best-scored of k samples, over all k-subsets of the n scored ones. Exact.

    Sum over score ranks r of correct_(r) * C(n-1-r, k-1) / C(n, k). For a group of g tied scores with r
    samples above it the best lies in the group with probability (C(n-r, k) - C(n-r-g, k)) / C(n, k), and
    each member is then equally likely, so that the group counts with its mean correctness.
    """
    scores_N, correct_N = np.asarray(scores, dtype=float), np.asarray(correct, dtype=float)
    if scores_N.shape != correct_N.shape or scores_N.ndim != 1:
        raise ValueError(f"scores {scores_N.shape} and correct {correct_N.shape}: need one per sample")
    if np.isnan(scores_N).any():
        raise ValueError("a score is NaN; drop that sample or give it -inf")
    n = len(scores_N)
    _check_k(n, k)
    total, num_above = 0.0, 0
    for score in np.unique(scores_N)[::-1]:
        group = scores_N == score
        num_tied = int(group.sum())
        ways = math.comb(n - num_above, k) - math.comb(n - num_above - num_tied, k)
        total += ways / math.comb(n, k) * float(correct_N[group].mean())
        num_above += num_tied
    return total


def best_of_n(scores: Sequence[float], correct: Sequence[float]) -> float:
    """Correctness of the sample with the highest score; several with the highest score are averaged."""
    return best_of_k(scores, correct, len(scores))


def fit_coverage(ks: Sequence[float], coverage: Sequence[float]) -> CoverageFit:
    """Fits coverage = exp(a * k ** -b) (Brown et al. 2024, "Large Language Monkeys", section 3.1).

    log(-log coverage) is linear in log k, and is fitted by least squares with weights
    (coverage * log coverage)^2, which carry an error in coverage over to that scale: without them points near
    0 and 1 would rule the fit. Points at exactly 0 or 1 have no place on it and are left out; fewer than two
    others are a ValueError.
    """
    ks_K, coverage_K = np.asarray(ks, dtype=float), np.asarray(coverage, dtype=float)
    if ks_K.shape != coverage_K.shape or ks_K.ndim != 1:
        raise ValueError(f"ks {ks_K.shape} and coverage {coverage_K.shape} must be two lists of one length")
    usable = (coverage_K > 0) & (coverage_K < 1) & (ks_K > 0)
    if len(np.unique(ks_K[usable])) < 2:
        raise ValueError("need coverage strictly between 0 and 1 at two values of k or more")
    log_k, log_coverage = np.log(ks_K[usable]), np.log(coverage_K[usable])
    weight = np.abs(coverage_K[usable] * log_coverage)
    design = np.stack([np.ones_like(log_k), -log_k], axis=1)
    target = np.log(-log_coverage)
    (log_minus_a, b), *_ = np.linalg.lstsq(design * weight[:, None], target * weight, rcond=None)
    return CoverageFit(a=-math.exp(log_minus_a), b=float(b))
