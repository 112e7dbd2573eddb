"""Choose one of several answers to a problem: votes, best by score, ranks, confidence filters (pure functions).

Each rule takes the answers' classes (None: no answer) and one score per answer, and tells which answer it
takes and how sure it is. Ties go to what was drawn first, so that a choice never depends on arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from pydantic import Field

from reasoner.config import Config


class Pick(NamedTuple):
    """The index of the chosen answer (None where there is no answer at all), and the share of votes behind it."""

    index: int | None
    confidence: float


class PickConfig(Config):
    """How a choice among answers is made."""

    power: float = Field(1.0, ge=0, description="borda: votes are (n - rank + 1) ** power; 0 is majority")
    keep: float = Field(
        0.9, gt=0, le=1, description="deepconf: share of the most confident answers that vote"
    )


PLAIN = PickConfig.model_validate({})


def weighted_majority(answers: Sequence[Hashable | None], weights: Sequence[float]) -> Hashable | None:
    """The answer with the largest sum of weights; None and ties as in `majority`.

    With reward-model scores as weights this is verifier-weighted voting (Li et al. 2022, "Making Language
    Models Better Reasoners"). Weights must not be negative: a vote with raw logits would punish
    an answer for each further supporter.
    """
    totals = tally(answers, weights)
    # max() keeps the first of equals, and a dict keeps the order in which answers were first seen.
    return max(totals, key=lambda answer: totals[answer]) if totals else None


def majority(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer (self-consistency, Wang et al. 2022, section 2).

    None never wins against an answer, however frequent; all None (or nothing at all) gives None. Of equally
    frequent answers the one seen first wins.
    """
    return weighted_majority(answers, [1.0] * len(answers))


def tally(answers: Sequence[Hashable | None], weights: Sequence[float]) -> dict[Hashable, float]:
    """The sum of weights of each answer, in order of first appearance; ValueError for a negative weight."""
    if len(answers) != len(weights):
        raise ValueError(f"{len(answers)} answers but {len(weights)} weights: give one weight per answer")
    if not all(w >= 0 for w in weights):
        raise ValueError("weights must be numbers >= 0; pass logits through a sigmoid first")
    totals: dict[Hashable, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + float(weight)
    return totals


def by_votes(classes: Sequence[int | None], scores: Sequence[float], config: PickConfig) -> Pick:
    """Self-consistency: one answer, one vote."""
    return _voted(classes, [1.0] * len(classes))


def by_weighted_votes(classes: Sequence[int | None], scores: Sequence[float], config: PickConfig) -> Pick:
    """Each vote counts as much as its score."""
    return _voted(classes, scores)


def by_score(classes: Sequence[int | None], scores: Sequence[float], config: PickConfig) -> Pick:
    """Best of n: the answer with the highest score; one without an answer only where none has one."""
    order = sorted(range(len(scores)), key=lambda i: (classes[i] is None, -scores[i]))
    if not order:
        return Pick(None, 0.0)
    total = sum(s for s in scores if s > 0)
    best = order[0]
    return Pick(best, scores[best] / total if total > 0 and scores[best] > 0 else 0.0)


def by_ranks(classes: Sequence[int | None], scores: Sequence[float], config: PickConfig) -> Pick:
    """Borda votes: the answer of rank r of n by score has (n - r + 1) ** power votes.

    Kang et al. 2025, "Scalable Best-of-N Selection via Self-Certainty", section 4.
    """
    answered = [i for i, c in enumerate(classes) if c is not None]
    ranked = sorted(answered, key=lambda i: -scores[i])
    weights = [0.0] * len(classes)
    for rank, i in enumerate(ranked):
        weights[i] = float(len(ranked) - rank) ** config.power
    return _voted(classes, weights)


def by_confident_votes(classes: Sequence[int | None], scores: Sequence[float], config: PickConfig) -> Pick:
    """DeepConf offline: the `keep` share with the highest confidence votes, weighted by it.

    Fu et al. 2025, "Deep Think with Confidence", section 3.2. Confidences may be of any sign, so they are
    taken relative to the least one.
    """
    answered = [i for i, c in enumerate(classes) if c is not None]
    num = max(1, math.ceil(config.keep * len(answered)))
    kept = sorted(answered, key=lambda i: -scores[i])[:num]
    lowest = min((scores[i] for i in answered), default=0.0)
    spread = max((scores[i] - lowest for i in answered), default=0.0) or 1.0
    weights = [0.0] * len(classes)
    for i in kept:
        # the least confident still counts half of the most confident: a vote, not a veto
        weights[i] = 0.5 + 0.5 * (scores[i] - lowest) / spread
    return _voted(classes, weights)


def _voted(classes: Sequence[int | None], weights: Sequence[float]) -> Pick:
    totals = tally(classes, weights)
    winner = max(totals, key=lambda answer: totals[answer]) if totals else None
    if winner is None:
        return Pick(0 if classes else None, 0.0)
    votes = sum(totals.values())
    # the supporter with the largest weight speaks for the answer
    supporters = [i for i, c in enumerate(classes) if c == winner]
    index = max(supporters, key=lambda i: (weights[i], -i))
    return Pick(index, totals[winner] / votes if votes else 0.0)


PICKS: dict[str, Callable[[Sequence[int | None], Sequence[float], PickConfig], Pick]] = {
    "majority": by_votes,
    "weighted_majority": by_weighted_votes,
    "best_of": by_score,
    "borda": by_ranks,
    "deepconf": by_confident_votes,
}
