"""Ranking, calibration and first-error scores against hand-typed numbers and naive definitions."""

import math
from itertools import product

import numpy as np
import pytest

from reasoner.metrics.reward_quality import (
    auroc,
    average_precision,
    best_threshold,
    brier,
    brier_skill,
    calibration_curve,
    ece,
    equal_mass_bins,
    equal_width_bins,
    first_below,
    first_error_f1,
)


def test_auroc_by_hand():
    assert auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auroc([0.5, 0.5], [0, 1]) == 0.5
    assert math.isnan(auroc([0.1, 0.2], [1, 1]))


def test_auroc_equals_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, labels = rng.integers(0, 5, 12).astype(float), rng.integers(0, 2, 12)
        pairs = list(product(scores[labels == 1], scores[labels == 0]))
        if pairs:
            expected = np.mean([(p > q) + 0.5 * (p == q) for p, q in pairs])
            assert auroc(scores, labels) == pytest.approx(expected)


def test_average_precision_by_hand():
    # Thresholds 0.8 (1 of 1), 0.4 (1 of 2), 0.35 (2 of 3): 0.5 * 1 + 0.5 * 2/3.
    assert average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(5 / 6)
    assert average_precision([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0]) == 0.25
    assert average_precision([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == 0.25
    assert math.isnan(average_precision([0.5], [0]))


def test_brier_and_skill():
    assert brier([1.0, 0.0, 0.5], [1, 0, 1]) == pytest.approx(0.25 / 3)
    assert brier_skill([0.5, 0.5], [0, 1]) == 0.0
    assert brier_skill([0.0, 1.0], [0, 1]) == 1.0
    assert brier_skill([1.0, 0.0], [0, 1]) == -3.0
    assert math.isnan(brier_skill([0.3, 0.3], [1, 1]))


def test_soft_labels_are_as_many_outcomes():
    """A label of 3/4 is three right outcomes and a wrong one of the same score."""
    scores, labels = [0.9, 0.2, 0.2, 0.6], [0.75, 0.25, 0.5, 0.0]
    outcomes = [(s, float(i < 4 * y)) for s, y in zip(scores, labels, strict=True) for i in range(4)]
    assert auroc(scores, labels) == pytest.approx(auroc(*zip(*outcomes, strict=True)))
    with pytest.raises(ValueError, match="labels must lie in"):
        auroc(scores, [0.75, 0.25, 0.5, 1.5])


def test_brier_of_soft_labels_compares_values():
    assert brier([0.7, 0.2], [0.7, 0.4]) == pytest.approx(0.02)
    assert brier_skill([0.75, 0.25, 0.5], [0.75, 0.25, 0.5]) == 1.0  # saying the values themselves is perfect
    assert brier_skill([0.5, 0.5, 0.5], [0.75, 0.25, 0.5]) == 0.0
    assert brier_skill([1.0, 0.0, 0.5], [0.75, 0.25, 0.5]) == pytest.approx(
        0.0
    )  # rounded to hard: nothing gained
    with pytest.raises(ValueError, match="threshold soft labels first"):
        calibration_curve([0.5], [0.5])


def test_calibration_of_two_bins_by_hand():
    probabilities, labels = [0.1, 0.3, 0.6, 1.0], [0, 1, 1, 1]
    points = calibration_curve(probabilities, labels, num_bins=2, bins_fn=equal_width_bins)
    assert [(p.confidence, p.accuracy, p.n) for p in points] == [(0.2, 0.5, 2), (0.8, 1.0, 2)]
    assert points[0].low < 0.5 < points[0].high
    assert ece(probabilities, labels, num_bins=2, bins_fn=equal_width_bins) == pytest.approx(
        0.5 * 0.3 + 0.5 * 0.2
    )


def test_bins():
    assert equal_width_bins(np.array([0.0, 0.49, 0.5, 1.0]), 2).tolist() == [0, 0, 1, 1]
    assert equal_mass_bins(np.array([0.9, 0.8, 0.99, 0.7]), 2).tolist() == [1, 0, 1, 0]
    # Equal probabilities stay together, wherever they stand.
    assert len(set(equal_mass_bins(np.array([0.2, 0.5, 0.5, 0.5, 0.9]), 5)[1:4])) == 1


def test_a_calibrated_forecast_has_a_small_ece():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=20_000)
    labels = rng.uniform(size=20_000) < probabilities
    for bins_fn in (equal_mass_bins, equal_width_bins):
        assert ece(probabilities, labels, bins_fn=bins_fn) < 0.02
        assert ece(probabilities**3, labels, bins_fn=bins_fn) > 0.1


def test_probabilities_and_labels_are_checked():
    with pytest.raises(ValueError, match="sigmoid"):
        brier([2.0], [1])
    with pytest.raises(ValueError, match="0 or 1"):
        average_precision([0.5], [0.5])
    with pytest.raises(ValueError, match="at least one"):
        auroc([], [])


def test_first_below():
    assert first_below([0.9, 0.4, 0.1], 0.5) == 1
    assert first_below([0.9, 0.5], 0.5) == -1
    assert first_below([], 0.5) == -1


def test_first_error_f1_by_hand():
    result = first_error_f1([1, 2, 0, -1, -1, 3], [1, 0, 0, -1, 2, -1])
    assert result.error_accuracy == 0.5
    assert result.correct_accuracy == 0.5
    assert result.f1 == 0.5
    assert (result.num_error, result.num_correct) == (4, 2)


def test_first_error_f1_of_constant_predictions():
    assert first_error_f1([-1, -1], [0, -1]).f1 == 0.0
    assert first_error_f1([1, 1], [0, -1]) == (0.0, 0.0, 0.0, 1, 1)
    assert math.isnan(first_error_f1([0], [0]).f1)


def test_best_threshold_by_hand():
    found = best_threshold([[0.9, 0.2], [0.8, 0.7], [0.6, 0.9]], [1, -1, -1])
    assert found.f1 == 1.0
    assert found.threshold == pytest.approx(0.4)


def test_best_threshold_equals_trying_every_threshold():
    rng = np.random.default_rng(3)
    for _ in range(60):
        lengths = rng.integers(1, 6, 12)
        scores = [rng.integers(0, 10, n) / 10 for n in lengths]
        truth = [-1, 0] + [int(rng.integers(-1, n)) for n in lengths[2:]]
        found = best_threshold(scores, truth)
        grid = np.arange(-0.05, 1.1, 0.1)
        tried = [first_error_f1([first_below(s, t) for s in scores], truth).f1 for t in grid]
        assert found.f1 == pytest.approx(max(tried))
        used = first_error_f1([first_below(s, found.threshold) for s in scores], truth).f1
        assert used == pytest.approx(found.f1)


def test_best_threshold_needs_both_kinds():
    with pytest.raises(ValueError, match="without"):
        best_threshold([[0.5]], [-1])
    with pytest.raises(ValueError, match="scored steps"):
        best_threshold([[0.5], [0.2]], [1, -1])
