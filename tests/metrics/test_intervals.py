"""Intervals against published and closed-form values, and against their promised coverage."""

import numpy as np
import pytest

from reasoner.metrics.intervals import beta_interval, bootstrap, paired_difference, sign_test, wilson


def test_wilson_goldens():
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    # At c = 0 the upper end is z^2 / (n + z^2).
    assert wilson(0, 10) == pytest.approx((0.0, 3.8416 / 13.8416), abs=1e-9)
    assert wilson(10, 10) == pytest.approx((10 / 13.8416, 1.0), abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="must lie in"):
        wilson(3, 2)


def test_wilson_covers_about_95_percent():
    rng = np.random.default_rng(0)
    for p in (0.05, 0.3, 0.9):
        hits = [low <= p <= high for low, high in (wilson(int(c), 50) for c in rng.binomial(50, p, 4000))]
        assert 0.93 < np.mean(hits) < 0.985


@pytest.mark.parametrize(
    ("c", "n", "low", "high"),
    [
        (0, 0, 0.025, 0.975),  # the uniform prior itself
        (1, 1, 0.025**0.5, 0.975**0.5),  # x^2
        (0, 4, 1 - 0.975**0.2, 1 - 0.025**0.2),  # 1 - (1 - x)^5
        (7, 10, 0.39026, 0.89074),  # Beta(8, 4), from a table
        (1500, 3000, 0.48212, 0.51788),  # no overflow: nearly normal, 0.5 +- 1.96 / (2 sqrt(3003))
    ],
)
def test_beta_intervals(c, n, low, high):
    assert beta_interval(c, n) == pytest.approx((low, high), abs=2e-5)


def test_more_successes_than_trials_have_no_posterior():
    with pytest.raises(ValueError, match="must lie in"):
        beta_interval(3, 2)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5) != bootstrap(values, seed=6)


def test_bootstrap_keeps_rows_together():
    # Both columns are equal in each row, so their difference is 0 in every resample.
    rows = np.repeat(np.arange(20.0)[:, None], 2, axis=1)
    assert bootstrap(rows, lambda r: float((r[:, 0] - r[:, 1]).mean()), num_resamples=50) == (0.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_sign_test_by_hand():
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert sign_test(3, 3) == 1.0
    assert sign_test(2, 8) == sign_test(8, 2)


def test_paired_difference():
    a, b = [1, 1, 1, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 1, 0, 1]
    result = paired_difference(a, b)
    assert result.difference == 0.5
    assert (result.wins, result.losses, result.ties) == (4, 0, 4)
    assert result.p_value == pytest.approx(2 / 16)
    assert 0 < result.low < 0.5 < result.high <= 1
    with pytest.raises(ValueError, match="the same problems"):
        paired_difference([1], [1, 0])


def test_paired_interval_is_narrower_than_unpaired():
    rng = np.random.default_rng(2)
    difficulty = rng.uniform(size=300)
    a, b = difficulty + 0.02 + 0.01 * rng.normal(size=300), difficulty
    paired = paired_difference(a, b)
    assert paired.low > 0
    assert bootstrap(a).low < np.mean(b)
