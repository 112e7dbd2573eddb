"""How the learning benchmark chooses, without the problems that it reports on, and its intervals over seeds.

Each method climbs from the middle of one grid for all: the neighbours of its best trial are tried next, one setting
changed by one place, on development problems and with a seed that is not reported. The best trials are then repeated
with a second such seed, and the mean decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TRIAL_SEED, SECOND_SEED = 1, 2
REPORTED_SEEDS = range(11, 31)
FINALISTS = 2  # trials that are repeated with the second seed
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the method's middle rate
EPOCHS, MINIBATCHES = (1, 3), (2, 4)
# two-sided, by degrees of freedom from 1; with more of them the last
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


class Choice(NamedTuple):
    """What each method, the peer too, is given the same grid of."""

    factor: float
    epochs: int
    minibatches: int


class Cell(NamedTuple):
    """A run: on the development problems where the seed is one of trials, else on the test problems."""

    method: str
    choice: Choice
    seed: int


MIDDLE = Choice(1.0, 1, 2)


def is_trial(seed: int) -> bool:
    return seed not in REPORTED_SEEDS


def choice_of(row: dict) -> Choice:
    return Choice(row["factor"], row["epochs"], row["minibatches"])


def neighbours(choice: Choice, climbs_passes: bool) -> list[Choice]:
    """Choices with one setting changed by one place: passes first, then a higher rate, smaller batches, a lower rate."""

    def beside(values: Sequence, value: float) -> list:
        at = values.index(value)
        return [values[i] for i in (at + 1, at - 1) if 0 <= i < len(values)]

    rates = [choice._replace(factor=f) for f in beside(FACTORS, choice.factor)]
    if not climbs_passes:
        return rates
    epochs = [choice._replace(epochs=e) for e in beside(EPOCHS, choice.epochs)]
    minibatches = [choice._replace(minibatches=m) for m in beside(MINIBATCHES, choice.minibatches)]
    return [*epochs, *rates[:1], *minibatches, *rates[1:]]


def scores(rows: Sequence[dict], method: str, seed: int, measure: str) -> dict[Choice, float]:
    """The accuracy of each of a method's choices with one seed; a run that failed has none, and less than any."""
    return {
        choice_of(r): -math.inf if "failed" in r else r[measure]
        for r in rows
        if (r["method"], r["seed"]) == (method, seed)
    }


def next_trial(rows: Sequence[dict], method: str, measure: str, climbs_passes: bool) -> Choice | None:
    """What to try next; None where all neighbours of the best were tried."""
    tried = scores(rows, method, TRIAL_SEED, measure)
    if not tried:
        return MIDDLE
    around = neighbours(max(tried, key=lambda c: tried[c]), climbs_passes)
    return next((c for c in around if c not in tried), None)


def chosen(rows: Sequence[dict], method: str, measure: str) -> Choice | None:
    """The choice that is reported: what was reported before, else the best by trials alone."""
    reported = [choice_of(r) for r in rows if r["method"] == method and not is_trial(r["seed"])]
    if reported:
        return reported[0]
    first, second = (scores(rows, method, seed, measure) for seed in (TRIAL_SEED, SECOND_SEED))
    both = {c: first[c] + second[c] for c in first if c in second}
    found = both or first
    return max(found, key=lambda c: found[c]) if found else None


def missing(
    rows: Sequence[dict], methods: Sequence[str], num_trials: int, num_seeds: int, measure: str,
    climbers: Sequence[str],
) -> Iterator[Cell]:  # fmt: skip
    """The next runs, while `rows` grows: trials of each method in turn, those repeated, then the reported seeds.

    A method of which a test run is there is not tried any more: nothing is chosen once that is known. Without any trials
    all methods go with the middle of the grid.
    """
    for number in range(1, num_trials + 1):
        for method in methods:
            tried = scores(rows, method, TRIAL_SEED, measure)
            is_open = all(is_trial(r["seed"]) for r in rows if r["method"] == method)
            choice = next_trial(rows, method, measure, method in climbers)
            if is_open and len(tried) < number and choice is not None:
                yield Cell(method, choice, TRIAL_SEED)
    for method in methods if num_seeds else ():
        first = scores(rows, method, TRIAL_SEED, measure)
        is_open = all(is_trial(r["seed"]) for r in rows if r["method"] == method)
        for choice in sorted(first, key=lambda c: -first[c])[:FINALISTS]:
            if is_open and len(first) > 1 and choice not in scores(rows, method, SECOND_SEED, measure):
                yield Cell(method, choice, SECOND_SEED)
    for seed in REPORTED_SEEDS[:num_seeds]:
        for method in methods:
            choice = chosen(rows, method, measure) or (None if num_trials else MIDDLE)
            if choice is not None and (method, seed) not in {(r["method"], r["seed"]) for r in rows}:
                yield Cell(method, choice, seed)


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean, by Student's t; nan of one value."""
    if len(values) < 2:
        return math.nan
    return _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The difference of two means, and half of its 95 % interval (Welch 1947, its degrees of freedom rounded down)."""
    found = statistics.mean(ours) - statistics.mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return found, math.nan
    a, b = (statistics.variance(x) / len(x) for x in (ours, theirs))
    if not a + b:
        return found, 0.0
    freedom = (a + b) ** 2 / (a * a / (len(ours) - 1) + b * b / (len(theirs) - 1))
    return found, _t(int(freedom)) * math.sqrt(a + b)


def _t(freedom: int) -> float:
    return T_95[min(freedom, len(T_95)) - 1]
