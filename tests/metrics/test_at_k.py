"""Estimators over samples against hand-typed numbers and brute-force enumeration of every subset."""

import math
import time
from itertools import combinations

import numpy as np
import pytest

from reasoner.metrics.at_k import (
    best_of_k,
    best_of_n,
    fit_coverage,
    maj_at_k,
    pass_at_k,
    pass_hat_k,
)
from reasoner.search.choose import majority, weighted_majority


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(4, 2, 2, 5 / 6), (10, 3, 5, 11 / 12), (200, 3, 10, 0.1433074), (10, 9, 2, 1.0), (5, 0, 5, 0.0)],
)
def test_pass_at_k_goldens(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-7)


def test_pass_at_k_and_pass_hat_k_equal_enumeration():
    for n in range(1, 8):
        for c in range(n + 1):
            outcomes = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = list(combinations(outcomes, k))
                assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]))
                assert pass_hat_k(n, c, k) == pytest.approx(np.mean([all(s) for s in subsets]))


def test_pass_at_k_is_exact_where_floats_would_overflow():
    assert pass_at_k(10_000, 1, 5_000) == 0.5


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["7", "3", "3"], "3"),
        (["7", "3"], "7"),
        ([None, None, None, "3"], "3"),
        ([None, None], None),
        ([], None),
        (["3", "7", "7", "3"], "3"),
    ],
)
def test_majority(answers, expected):
    assert majority(answers) == expected


def test_weighted_majority():
    assert weighted_majority(["3", "3", "7"], [0.2, 0.2, 0.9]) == "7"
    assert weighted_majority(["3", None, "7"], [0.5, 9.0, 0.5]) == "3"
    with pytest.raises(ValueError, match="sigmoid"):
        weighted_majority(["3", "7"], [-1.0, 0.5])
    with pytest.raises(ValueError, match="one weight per answer"):
        weighted_majority(["3"], [1.0, 2.0])


def enumerate_maj_at_k(answers, correct, k):
    hits = []
    for subset in combinations(range(len(answers)), k):
        winner = majority([answers[i] for i in subset])
        hits.append(winner is not None and correct[next(i for i in subset if answers[i] == winner)])
    return np.mean(hits)


def test_maj_at_k_by_hand():
    # Pairs in sample order: (a, b) a seen first; (a, None) a; (b, None) b. "a" is right: 2 of 3.
    assert maj_at_k(["a", "b", None], [True, False, False], 2) == pytest.approx(2 / 3)
    assert maj_at_k([None, None], [False, False], 2) == 0.0


def test_maj_at_k_equals_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(150):
        n = int(rng.integers(1, 10))
        answers = [None if a == 0 else str(a) for a in rng.integers(0, 5, n)]
        # Verdicts per sample, not per answer: equal answers may have been judged unequally.
        correct = [bool(x) for x in rng.integers(0, 2, n)]
        for k in range(1, n + 1):
            assert maj_at_k(answers, correct, k) == pytest.approx(enumerate_maj_at_k(answers, correct, k))


def test_maj_at_k_of_all_samples_is_the_vote():
    answers = ["4", "9", "9", "4", None]
    assert maj_at_k(answers, [True, False, False, True, False], 5) == 1.0


def test_maj_at_k_of_many_samples_agrees_with_sampled_subsets_and_is_quick():
    rng = np.random.default_rng(1)
    answers = [str(a) for a in rng.choice(6, 64, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])]
    correct = [answer == "0" for answer in answers]
    start = time.perf_counter()
    exact = maj_at_k(answers, correct, 32)
    assert time.perf_counter() - start < 5
    subsets = [np.sort(rng.permutation(64)[:32]) for _ in range(2000)]
    drawn = np.mean([majority([answers[i] for i in subset]) == "0" for subset in subsets])
    assert exact == pytest.approx(drawn, abs=4 * math.sqrt(0.25 / 2000))


def test_maj_at_k_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="up to 1000"):
        maj_at_k(["1"] * 1001, [True] * 1001, 2)
    with pytest.raises(ValueError, match="one per sample"):
        maj_at_k(["1"], [True, False], 1)


def enumerate_best_of_k(scores, correct, k):
    values = []
    for subset in combinations(range(len(scores)), k):
        top = max(scores[i] for i in subset)
        values.append(np.mean([correct[i] for i in subset if scores[i] == top]))
    return np.mean(values)


def test_best_of_k_by_hand():
    # Pairs of scores 3, 2, 2 with verdicts 0, 1, 0: (3, 2) wrong, (3, 2) wrong, (2, 2) half.
    assert best_of_k([3.0, 2.0, 2.0], [0, 1, 0], 2) == pytest.approx(1 / 6)


def test_best_of_k_equals_enumeration():
    rng = np.random.default_rng(2)
    for _ in range(100):
        n = int(rng.integers(1, 9))
        scores, correct = rng.integers(0, 4, n).astype(float), rng.integers(0, 2, n)
        for k in range(1, n + 1):
            assert best_of_k(scores, correct, k) == pytest.approx(enumerate_best_of_k(scores, correct, k))


def test_best_of_k_with_the_verdict_as_score_is_pass_at_k():
    correct = [1, 0, 0, 1, 0, 0]
    for k in range(1, 7):
        assert best_of_k(correct, correct, k) == pytest.approx(pass_at_k(6, 2, k))


def test_best_of_n_averages_ties():
    assert best_of_n([0.9, 0.9, 0.1], [1, 0, 0]) == 0.5
    assert best_of_n([-math.inf, 0.1], [1, 0]) == 0.0
    with pytest.raises(ValueError, match="NaN"):
        best_of_n([math.nan, 0.1], [1, 0])


def test_fit_coverage_recovers_its_own_law():
    ks = np.array([1, 2, 4, 8, 16, 32, 64])
    fit = fit_coverage(ks, np.exp(-1.7 * ks**-0.6))
    assert fit == pytest.approx((-1.7, 0.6))
    assert fit.at(8) == pytest.approx(math.exp(-1.7 * 8**-0.6))


def test_fit_coverage_describes_problems_of_beta_difficulty():
    # E[1 - (1-p)^k] for p ~ Beta(a, b) is 1 - B(a, b+k) / B(a, b).
    a, b = 0.4, 3.0
    ks = [1, 2, 4, 8, 16, 32, 64, 128]
    log_beta = [math.lgamma(b + k) - math.lgamma(a + b + k) - math.lgamma(b) + math.lgamma(a + b) for k in ks]
    coverage = [1 - math.exp(x) for x in log_beta]
    fit = fit_coverage(ks, coverage)
    assert max(abs(fit.at(k) - c) for k, c in zip(ks, coverage, strict=True)) < 0.02
    assert fit.b > 0


def test_fit_coverage_leaves_out_ends_and_needs_two_points():
    assert fit_coverage([1, 2, 4], [math.exp(-2), math.exp(-1), 1.0]).b == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two values of k"):
        fit_coverage([1, 2], [0.0, 1.0])
