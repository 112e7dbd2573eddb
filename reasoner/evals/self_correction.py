"""How often a policy notices a wrong step and mends it: one planted in a right chain, and those that policies write.

A wrong step is *noticed* where a sign of doubt comes after it, and *mended* where the chain ends right all the same, with
or without such a sign. A *false alarm* is a sign of doubt after right steps alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import NamedTuple

import numpy as np

from reasoner.metrics.intervals import PairedDifference, bootstrap, paired_difference
from reasoner.report.rows import MetricRow, gain_row, mean_row, proportion_row, statistic_row
from reasoner.signals.consensus import StepJudge

_NUMBER = r"\d{1,12}(?:\.\d{1,6})?"
_CALCULATION = re.compile(
    rf"(?<![\d.])(-?{_NUMBER})\s*([-+*/%×])\s*({_NUMBER})\s*=\s*\$?(-?{_NUMBER})(?!\.?\d)"
)
_CHANGES = (1, -1, 2, -2, 10, -10)  # in units of the result's last place


@dataclass(frozen=True)
class Ending:
    """What came after a prefix, or of a whole chain: by problem, whether doubt was voiced and the answer right.

    `is_right` is None where our side failed to judge.
    """

    problem_id: str
    is_noticed: bool
    is_right: bool | None


class Cut(NamedTuple):
    """The steps of a chain up to a wrong one, and what came of them."""

    steps: list[str]
    is_noticed: bool


def planted(steps: Sequence[str], rng: Random) -> list[str] | None:
    """The steps up to a random one, whose true calculation "a op b = c" now has a wrong c; None where there is none.

    The last step is left as it is: after a wrong answer nothing follows. Later copies of c in the step go with it.
    """
    places = [i for i, step in enumerate(steps[:-1]) if _true_calculation(step) is not None]
    if not places:
        return None
    at = rng.choice(places)
    found = _true_calculation(steps[at])
    assert found is not None
    old = found[4]
    new = _other_number(old, rng)
    start = found.start(4)
    copies = re.compile(rf"(?<![\d.]){re.escape(old)}(?!\.?\d)")
    return [*steps[:at], steps[at][:start] + copies.sub(new, steps[at][start:])]


def _true_calculation(step: str) -> re.Match | None:
    """The last calculation of a step, where it is true."""
    found = list(_CALCULATION.finditer(step))
    return found[-1] if found and _result(found[-1]) == Fraction(found[-1][4]) else None


def _result(found: re.Match) -> Fraction | None:
    a, b = Fraction(found[1]), Fraction(found[3])
    match found[2]:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*" | "×":
            return a * b
        case "/":
            return a / b if b else None
    return a % b if b else None


def _other_number(text: str, rng: Random) -> str:
    """A number near by with as many decimals, and of the same sign."""
    places = len(text.partition(".")[2])
    units = int(text.replace(".", ""))
    fitting = [units + change for change in _CHANGES if (units + change < 0) == (units < 0)]
    other = rng.choice(fitting)
    digits = str(abs(other)).rjust(places + 1, "0")
    whole = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return ("-" if other < 0 else "") + whole


def first_error(prompt: str, steps: Sequence[str], link: str, judge: StepJudge) -> Cut | None:
    """The steps up to the first wrong one before any doubt, and whether doubt came after it; None where none is wrong.

    A wrong answer, as the last step, counts as well: it is never noticed.
    """
    doubt = first_doubt(steps, link)
    before = steps if doubt is None else steps[:doubt]
    (at,) = judge([prompt], [before])
    if at < 0:
        return None
    return Cut(list(steps[: at + 1]), doubt is not None)


def first_doubt(steps: Sequence[str], link: str) -> int | None:
    """The first step that holds the sign of doubt."""
    said = re.compile(rf"(?<!\w){re.escape(link.strip())}(?!\w)")
    return next((i for i, step in enumerate(steps) if said.search(step)), None)


def rows_of(stage: str, method: str, when: str, endings: Sequence[Ending]) -> list[MetricRow]:
    """Shares of wrong steps that are noticed and mended; of several in a problem the interval resamples problems."""
    known = [e for e in endings if e.is_right is not None]
    flags = {"noticed": [e.is_noticed for e in known], "mended": [bool(e.is_right) for e in known]}
    ids = [e.problem_id for e in known]
    if len(set(ids)) == len(ids):
        return [proportion_row(stage, name, method, when, "all", sum(f), len(f)) for name, f in flags.items()]
    return [
        statistic_row(stage, name, method, when, "all", _by_problem(ids, f), _share)
        for name, f in flags.items()
    ]


def gains(
    stage: str, method: str, when: str, over: str, endings: Sequence[Ending], first: Sequence[Ending]
) -> list[MetricRow]:
    """The paired differences in noticing and mending: endings of the same prefixes, in the same order."""
    pairs = [
        (a, b)
        for a, b in zip(endings, first, strict=True)
        if a.is_right is not None and b.is_right is not None
    ]
    if not pairs:
        return []
    found = {
        "noticed": paired_difference([a.is_noticed for a, _ in pairs], [b.is_noticed for _, b in pairs]),
        "mended": paired_difference(
            [bool(a.is_right) for a, _ in pairs], [bool(b.is_right) for _, b in pairs]
        ),
    }
    return [gain_row(stage, name, method, when, over, "all", paired) for name, paired in found.items()]


def gain_in_own(
    stage: str, method: str, when: str, over: str, endings: Sequence[Ending], first: Sequence[Ending]
) -> MetricRow | None:
    """The difference in the share of own errors that are mended; problems are resampled with the errors of both."""
    sides = [[e for e in side if e.is_right is not None] for side in (endings, first)]
    if not all(sides):
        return None
    ids = sorted({e.problem_id for side in sides for e in side})
    a, b = (_by_problem([e.problem_id for e in s], [bool(e.is_right) for e in s], ids) for s in sides)
    both = np.concatenate([a, b], axis=1)

    def difference(rows: np.ndarray) -> float:
        return _share(rows[:, :2]) - _share(rows[:, 2:])

    low, high = bootstrap(both, difference)
    paired = PairedDifference(difference(both), low, high, 0, 0, len(ids), 1.0)
    return gain_row(stage, "mended", method, when, over, "all", paired)


def mean_of(stage: str, metric: str, method: str, when: str, values: Sequence[float]) -> list[MetricRow]:
    """One row of the values that are known; none of none."""
    known = [v for v in values if not np.isnan(v)]
    return [mean_row(stage, metric, method, when, "all", known)] if known else []


def _by_problem(ids: Sequence[str], flags: Sequence[bool], order: Sequence[str] = ()) -> np.ndarray:
    """(P, 2): of each problem how many flags are set, and how many there are."""
    sums = {name: [0, 0] for name in order or dict.fromkeys(ids)}
    for name, flag in zip(ids, flags, strict=True):
        sums[name][0] += flag
        sums[name][1] += 1
    return np.array(list(sums.values()), dtype=float)


def _share(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else float("nan")
