"""How good a reward model is: ranking (AUROC), calibration (Brier, ECE) and finding the first wrong step.

Labels are 0 or 1. For AUROC and Brier scores they may also be soft: a Monte-Carlo label c / n stands for n outcomes of
which c are good. Shapes: N scored items, S steps of one solution, P solutions. Step index -1: no step is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from reasoner.metrics.intervals import wilson

BinsFn = Callable[[np.ndarray, int], np.ndarray]


class CalibrationPoint(NamedTuple):
    """One bin: mean predicted probability, share of positives with its 95 % interval, number of items."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


class FirstErrorF1(NamedTuple):
    """f1 is the harmonic mean of the accuracy on solutions with a wrong step and on those without."""

    f1: float
    error_accuracy: float
    correct_accuracy: float
    num_error: int
    num_correct: int


class Threshold(NamedTuple):
    """A step with a score below `threshold` is called wrong; f1 is the calibration split's."""

    threshold: float
    f1: float


def _scored(
    scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray, is_soft: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    scores_N, labels_N = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if scores_N.shape != labels_N.shape or scores_N.ndim != 1 or not len(scores_N):
        raise ValueError(
            f"scores {scores_N.shape} and labels {labels_N.shape}: need one per item, at least one"
        )
    if is_soft and not ((labels_N >= 0) & (labels_N <= 1)).all():
        raise ValueError("labels must lie in 0..1")
    if not is_soft and not np.isin(labels_N, (0.0, 1.0)).all():
        raise ValueError("labels must be 0 or 1; threshold soft labels first")
    if np.isnan(scores_N).any():
        raise ValueError("a score is NaN; drop that item")
    return scores_N, labels_N


def _probabilities(
    probabilities: Sequence[float], labels: Sequence[float], is_soft: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    probabilities_N, labels_N = _scored(probabilities, labels, is_soft)
    if probabilities_N.min() < 0 or probabilities_N.max() > 1:
        span = f"{probabilities_N.min():g}..{probabilities_N.max():g}"
        raise ValueError(f"probabilities span {span}, not 0..1; apply a sigmoid first")
    return probabilities_N, labels_N


def _midranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def auroc(scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray) -> float:
    """Probability that a random positive outscores a random negative, a tie counting one half.

    (sum of the positives' midranks - n1 (n1 + 1) / 2) / (n1 n0): the Mann-Whitney statistic (Hanley and McNeil 1982),
    with an item of soft label y as y of a positive and 1 - y of a negative. NaN where one of the classes is empty.
    """
    scores_N, labels_N = _scored(scores, labels, is_soft=True)
    positive, negative = float(labels_N.sum()), float((1 - labels_N).sum())
    if not positive or not negative:
        return float("nan")
    _, inverse = np.unique(scores_N, return_inverse=True)
    good_K = np.bincount(inverse, weights=labels_N)  # by distinct score
    bad_K = np.bincount(inverse, weights=1 - labels_N)
    below_K = np.cumsum(bad_K) - bad_K
    return float((good_K * (below_K + bad_K / 2)).sum() / (positive * negative))


def average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Sum over distinct thresholds of (gain in recall) * precision; tied scores enter together.

    The step-wise area under the precision-recall curve, without interpolation (Davis and Goadrich 2006 show
    why linear interpolation flatters). NaN where nothing is positive.
    """
    scores_N, labels_N = _scored(scores, labels)
    if not labels_N.any():
        return float("nan")
    order = np.argsort(-scores_N, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores_N[order]) != 0, True))
    found = np.cumsum(labels_N[order])[ends]
    gained = np.diff(found, prepend=0.0)
    return float((gained * found / (ends + 1)).sum() / labels_N.sum())


def brier(probabilities: Sequence[float], labels: Sequence[float]) -> float:
    """Mean squared error of the probabilities (Brier 1950); 0 is perfect, 0.25 is always saying one half."""
    probabilities_N, labels_N = _probabilities(probabilities, labels, is_soft=True)
    return float(((probabilities_N - labels_N) ** 2).mean())


def brier_skill(probabilities: Sequence[float], labels: Sequence[float]) -> float:
    """1 - brier / brier of always predicting the base rate: 1 perfect, 0 no better, negative worse.

    Soft labels are compared as the values that they are: a prediction equal to all of them is perfect. NaN where all
    labels are equal, since the base rate is then perfect.
    """
    probabilities_N, labels_N = _probabilities(probabilities, labels, is_soft=True)
    reference = ((labels_N - labels_N.mean()) ** 2).mean()
    return float(1 - ((probabilities_N - labels_N) ** 2).mean() / reference) if reference else float("nan")


def equal_width_bins(probabilities_N: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin of each item when [0, 1] is cut in `num_bins` equal widths; 1.0 falls in the last."""
    return np.minimum((probabilities_N * num_bins).astype(int), num_bins - 1)


def equal_mass_bins(probabilities_N: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin of each item when the sorted items are cut in `num_bins` of about equal number.

    By midrank, so equal probabilities share a bin and the order of the items does not matter.
    """
    return ((_midranks(probabilities_N) - 0.5) / len(probabilities_N) * num_bins).astype(int)


def calibration_curve(
    probabilities: Sequence[float],
    labels: Sequence[bool],
    num_bins: int = 10,
    bins_fn: BinsFn = equal_mass_bins,
) -> list[CalibrationPoint]:
    """Reliability diagram: one point per non-empty bin, in order of confidence, with Wilson intervals."""
    probabilities_N, labels_N = _probabilities(probabilities, labels)
    bins_N = bins_fn(probabilities_N, num_bins)
    points = []
    for index in np.unique(bins_N):
        inside = bins_N == index
        num_positive, n = int(labels_N[inside].sum()), int(inside.sum())
        low, high = wilson(num_positive, n)
        points.append(CalibrationPoint(float(probabilities_N[inside].mean()), num_positive / n, low, high, n))
    return points


def ece(
    probabilities: Sequence[float],
    labels: Sequence[bool],
    num_bins: int = 10,
    bins_fn: BinsFn = equal_mass_bins,
) -> float:
    """Expected calibration error: mean over items of |confidence - accuracy| of their bin.

    Naeini et al. 2015 with equal widths (`bins_fn=equal_width_bins`); equal mass, the default, is less biased
    (Nixon et al. 2019, "Measuring Calibration in Deep Learning"). Biased upwards for few items per bin.
    """
    points = calibration_curve(probabilities, labels, num_bins, bins_fn)
    total = sum(point.n * abs(point.confidence - point.accuracy) for point in points)
    return total / len(labels)


def first_below(scores: Sequence[float], threshold: float) -> int:
    """Index of the first step whose score is below the threshold, -1 if none is."""
    return next((i for i, score in enumerate(scores) if score < threshold), -1)


def first_error_f1(predicted: Sequence[int] | np.ndarray, truth: Sequence[int] | np.ndarray) -> FirstErrorF1:
    """ProcessBench's score (Zheng et al. 2024) from the indices of the first wrong steps, -1 for none.

    Only the exact index counts. An accuracy over no solutions is NaN, and so is then f1; two accuracies of 0
    give f1 = 0.
    """
    predicted_P, truth_P = np.asarray(predicted, dtype=int), np.asarray(truth, dtype=int)
    if predicted_P.shape != truth_P.shape or predicted_P.ndim != 1:
        raise ValueError(f"predicted {predicted_P.shape} and truth {truth_P.shape}: need one per solution")
    hit_P, wrong_P = predicted_P == truth_P, truth_P >= 0
    num_error, num_correct = int(wrong_P.sum()), int((~wrong_P).sum())
    error_accuracy = float(hit_P[wrong_P].mean()) if num_error else float("nan")
    correct_accuracy = float(hit_P[~wrong_P].mean()) if num_correct else float("nan")
    f1 = float(_harmonic_mean(np.array([error_accuracy]), np.array([correct_accuracy]))[0])
    return FirstErrorF1(f1, error_accuracy, correct_accuracy, num_error, num_correct)


def _harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a + b
    return 2 * a * b / np.where(total == 0, 1.0, total)


def best_threshold(scores: Sequence[Sequence[float]], truth: Sequence[int]) -> Threshold:
    """The threshold on step scores with the highest first-error F1; give it a split kept apart from the test.

    `scores[p]` has one number per step of solution p, `truth[p]` the index of its first wrong step or -1.
    The prediction of solution p is right exactly for thresholds in (low, high]: above the wrong step's score
    and at most the smallest score before it; for a right solution at most its smallest score. So
    the accuracies change at those ends only, and all thresholds are tried in one sort. Of equals the lowest
    is taken, in the middle of its gap. ValueError unless both kinds of solution are there.
    """
    wrong_low, wrong_high, right_high = [], [], []
    for steps, first_wrong in zip(scores, truth, strict=True):
        if first_wrong >= len(steps):
            raise ValueError(f"first wrong step {first_wrong} of a solution with {len(steps)} scored steps")
        if first_wrong < 0:
            right_high.append(min(steps, default=np.inf))
        else:
            wrong_low.append(steps[first_wrong])
            wrong_high.append(min(steps[:first_wrong], default=np.inf))
    if not wrong_low or not right_high:
        raise ValueError("a threshold needs solutions with a wrong step and solutions without")
    ends = np.unique([end for end in (*wrong_low, *wrong_high, *right_high) if np.isfinite(end)])
    candidates = np.concatenate([[ends[0] - 1], (ends[:-1] + ends[1:]) / 2, [ends[-1] + 1]])
    low_P, high_P, right_P = np.array(wrong_low), np.array(wrong_high), np.array(right_high)
    # (low, high] is empty where an earlier step already scores lower: no threshold finds that error.
    findable = low_P < high_P
    above_low = np.searchsorted(np.sort(low_P[findable]), candidates, side="left")
    above_high = np.searchsorted(np.sort(high_P[findable]), candidates, side="left")
    error_accuracy = (above_low - above_high) / len(low_P)
    correct_accuracy = 1 - np.searchsorted(np.sort(right_P), candidates, side="left") / len(right_P)
    f1 = _harmonic_mean(error_accuracy, correct_accuracy)
    best = int(np.argmax(f1))
    return Threshold(float(candidates[best]), float(f1[best]))
