"""How good step scores are on labelled solutions: first-error F1, PRM score, AUROC, calibration, exact best-of-k.

Shapes: P solutions, S steps of one solution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasoner.data.importers.step_tree import StepTree
from reasoner.metrics.at_k import best_of_k
from reasoner.metrics.intervals import bootstrap
from reasoner.metrics.reward_quality import (
    CalibrationPoint,
    Threshold,
    auroc,
    best_threshold,
    brier_skill,
    calibration_curve,
    first_below,
    first_error_f1,
)
from reasoner.registry import lookup
from reasoner.report.rows import MetricRow, mean_row
from reasoner.scoring.aggregate import AGGREGATES

UNSCORED = -2  # a prediction that is never right: of a solution that could not be scored
NUM_RESAMPLES = 400  # of solutions with thousands of steps


@dataclass(frozen=True)
class Scored:
    """One labelled solution with its step scores, None where it could not be scored; labels of 0.5 are left alone.

    `prediction` is the index of the first wrong step where the judge named it itself instead of scoring.
    """

    problem_id: str
    labels: list[float]
    scores: list[float] | None
    outcome: float = math.nan
    prediction: int | None = None

    @property
    def first_error(self) -> int:
        return next((i for i, label in enumerate(self.labels) if label < 0.5), -1)

    def predicted(self, threshold: float) -> int:
        if self.prediction is not None:
            return self.prediction
        return UNSCORED if self.scores is None else first_below(self.scores, threshold)

    def known(self) -> list[tuple[float, bool]]:
        """(score, is right) of the steps that are labelled right or wrong."""
        if self.scores is None:
            return []
        return [
            (s, y > 0.5)
            for s, y in zip(self.scores, self.labels, strict=True)
            if y != 0.5 and not math.isnan(y)
        ]


def solutions(tree: StepTree) -> list[tuple[list[int], list[float]]]:
    """The path of each labelled solution of a tree, and the labels along it."""
    paths = [tree.path(leaf) for leaf in tree.leaves()]
    return [(path, [tree.labels[i] for i in path]) for path in paths]


def is_about_first_errors(scored: Sequence[Scored]) -> bool:
    """Whether nothing after a first wrong step is labelled, as in ProcessBench."""
    return all(math.isnan(y) for s in scored if s.first_error >= 0 for y in s.labels[s.first_error + 1 :])


def measure_steps(
    scored: Sequence[Scored],
    threshold: float,
    aggregate: str,
    stage: str,
    method: str,
    when: str,
    subset: str,
) -> list[MetricRow]:
    """All rows of one benchmark; each metric only where the solutions allow it."""
    rows: list[MetricRow] = []
    known = [s for s in scored if not all(map(math.isnan, s.labels))]
    if known:
        both = np.array([[s.predicted(threshold) for s in known], [s.first_error for s in known]]).T

        def add(metric: str, values: np.ndarray, statistic) -> None:
            low, high = bootstrap(values, statistic, num_resamples=NUM_RESAMPLES)
            value = float(statistic(values))
            rows.append(MetricRow(stage, metric, method, when, subset, value, low, high, len(values)))

        add("first_error_f1", both, lambda r: first_error_f1(r[:, 0], r[:, 1]).f1)
        for metric, rows_P in (
            ("error_accuracy", both[both[:, 1] >= 0]),
            ("correct_accuracy", both[both[:, 1] < 0]),
        ):
            if len(rows_P):
                rows.append(mean_row(stage, metric, method, when, subset, rows_P[:, 0] == rows_P[:, 1]))
        pairs = [np.array(pair, dtype=float) for pair in (s.known() for s in known) if pair]
        steps = np.concatenate([np.zeros((0, 2)), *pairs])
        if 0 < steps[:, 1].sum() < len(steps):
            numbers_P = np.arange(len(pairs))
            is_probability = bool((steps[:, 0] >= 0).all() and (steps[:, 0] <= 1).all())

            def of(statistic):
                def resampled(numbers: np.ndarray) -> float:
                    chosen = np.concatenate([pairs[int(i)] for i in numbers])
                    return statistic(chosen[:, 0], chosen[:, 1])

                return resampled

            add("auroc", numbers_P, of(auroc))
            if is_probability:
                add("brier_skill", numbers_P, of(brier_skill))
            if not is_about_first_errors(known):
                add("prm_score", numbers_P, of(lambda s, y: prm_score(s, y, threshold)))
    return rows + best_of_rows(scored, aggregate, stage, method, when, subset)


def prm_score(scores: np.ndarray, right: np.ndarray, threshold: float) -> float:
    """Mean of the F1 of finding right steps and of finding wrong ones (Song et al. 2025, "PRMBench", section 4.1)."""
    said = scores >= threshold
    both = []
    for positive in (True, False):
        hit = float(((said == positive) & (right == positive)).sum())
        total = float((said == positive).sum() + (right == positive).sum())
        both.append(2 * hit / total if total else math.nan)
    return sum(both) / 2


def best_of_rows(
    scored: Sequence[Scored], aggregate: str, stage: str, method: str, when: str, subset: str
) -> list[MetricRow]:
    """Exact best-of-k for k = 1, 2, 4, …, over the problems with as many judged and scored solutions as the fewest."""
    of_problem: dict[str, list[tuple[float, float]]] = {}
    rank = lookup(AGGREGATES, aggregate, "aggregate")
    for s in scored:
        if s.scores is not None and not math.isnan(s.outcome):
            of_problem.setdefault(s.problem_id, []).append((rank(s.scores), s.outcome))
    groups = [list(zip(*g, strict=True)) for g in of_problem.values() if len(g) > 1]
    fewest = min((len(g[0]) for g in groups), default=0)
    rows = []
    for k in (2**i for i in range(fewest.bit_length())):
        values = [best_of_k(scores, outcomes, k) for scores, outcomes in groups]
        rows.append(mean_row(stage, f"best_of_{k}", method, when, subset, values))
    return rows


def average_row(rows: Sequence[MetricRow], stage: str, method: str, when: str) -> MetricRow:
    """ProcessBench's headline: the mean F1 over its subsets, each counting the same."""
    values = [row.value for row in rows if row.metric == "first_error_f1"]
    n = sum(row.n for row in rows if row.metric == "first_error_f1")
    return MetricRow(
        stage, "first_error_f1", method, when, "average", float(np.mean(values)), math.nan, math.nan, n
    )


def threshold_of(scored: Sequence[Scored]) -> Threshold:
    """The threshold with the best first-error F1 on solutions that are not the benchmark's."""
    known = [s for s in scored if s.scores is not None and not all(map(math.isnan, s.labels))]
    return best_threshold([s.scores or [] for s in known], [s.first_error for s in known])


def calibration(scored: Sequence[Scored]) -> list[CalibrationPoint]:
    """The reliability diagram over all labelled steps; empty where scores are no probabilities."""
    pairs = [pair for s in scored for pair in s.known()]
    if not pairs or not all(0 <= score <= 1 for score, _ in pairs):
        return []
    scores, right = zip(*pairs, strict=True)
    return calibration_curve(scores, right)
