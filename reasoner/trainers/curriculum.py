"""Which problems a round draws: those that the policy is expected to solve about half of the time, and some at random.

A problem's pass rate is predicted from what was seen of it and of problems like it. Whether that is worth anything is
checked on the problems drawn at random, and a predictor that is worth nothing is not followed.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import lookup
from reasoner.tree import Problem

FORGOTTEN = 0.01  # answers; what has faded below it is let go


class Curriculum(Config):
    """Choice of problems by their predicted pass rate."""

    candidates: int = Field(4, ge=2, description="problems looked at for each one that is drawn")
    uniform: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of a round's problems drawn at random, which the others are checked by",
    )
    target: float = Field(0.5, gt=0, lt=1, description="pass rate that is looked for")
    predictor: Annotated[str, Entry("predictor", "reasoner.trainers.curriculum:PREDICTORS")] = Field(
        "history",
        description="history (a draw from what earlier answers leave likely, Thompson sampling), or module:function",
    )
    prior: float = Field(
        4.0,
        gt=0,
        description="answers to the problem itself that weigh as much as all answers to those like it",
    )
    decay: float = Field(0.9, gt=0, le=1, description="what an answer counts after one more round")


@dataclass
class History:
    """Right and wrong answers so far, fading from round to round: the same on all processes."""

    counts: dict[str, list[float]] = field(default_factory=dict)  # right, wrong, the round they faded to
    # of problems drawn at random: mixed and all of those that the predictor liked, then of the others; the round
    checked: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0, 0])


class Choice(NamedTuple):
    """A problem by its place in the list; `liked`: its prediction is nearer to the target than most."""

    index: int
    at_random: bool
    liked: bool


class Answers(NamedTuple):
    """What came of a problem that was drawn: its answers from the prompt on that were judged."""

    problem: Problem
    right: int
    wrong: int
    at_random: bool
    liked: bool


def choose(
    problems: Sequence[Problem], cursor: int, num: int, history: History, config: Curriculum, round: int, place: str
) -> tuple[list[Choice], int]:  # fmt: skip
    """`num` of the next problems in the list, in its order, and how many of it were looked at.

    `place` fixes the predictor's noise: the same on all processes.
    """
    size = max(num, min(config.candidates * num, len(problems)))
    window = [(cursor + i) % len(problems) for i in range(size)]
    predict = lookup(PREDICTORS, config.predictor, "predictor")
    rates = predict([problems[i] for i in window], history, config, round, random.Random(place))
    far = [abs(p - config.target) for p in rates]
    middle = statistics.median(far)
    num_random = math.ceil(config.uniform * num) if is_trusted(history) else num
    best = sorted(range(num_random, size), key=lambda i: far[i])[: num - num_random]
    return [
        Choice(window[i], i < num_random, far[i] <= middle) for i in [*range(num_random), *sorted(best)]
    ], size


def observe(history: History, seen: Sequence[Answers], round: int, config: Curriculum) -> None:
    """Add a round's answers, of all processes and in one order, to the history."""
    for answers in seen:
        for key in keys_of(answers.problem):
            right, wrong = _faded(history, key, round, config)
            history.counts[key] = [right + answers.right, wrong + answers.wrong, round]
    history.counts = {
        key: counts for key, counts in history.counts.items() if sum(_faded(history, key, round, config)) > FORGOTTEN
    }  # fmt: skip
    *checked, since = history.checked
    checked = [x * config.decay ** (round - since) for x in checked]
    for answers in seen:
        if answers.at_random and answers.right + answers.wrong:
            at = 0 if answers.liked else 2
            checked[at] += bool(answers.right and answers.wrong)
            checked[at + 1] += 1
    history.checked = [*checked, round]


def is_trusted(history: History) -> bool:
    """Whether problems that the predictor likes have right and wrong answers side by side as often as others do.

    Of those drawn at random, within a standard error.
    """
    mixed, liked, others_mixed, others, _ = history.checked
    mean = (mixed + others_mixed + 1) / (
        liked + others + 2
    )  # of all: two such stand for what is not known yet
    error = math.sqrt(0.25 / (liked + 2) + 0.25 / (others + 2))
    return (mixed + 2 * mean) / (liked + 2) >= (others_mixed + 2 * mean) / (others + 2) - error


def keys_of(problem: Problem) -> list[str]:
    """What a prediction rests on, from the coarse to the fine: the kind, prompts of its kind as long, the problem itself."""
    kind = f"kind {problem.source} {problem.domain}"
    length = round(4 * math.log2(len(problem.prompt) + 1))  # steps of a fifth
    return [kind, f"{kind} {length}", f"problem {problem.id}"]


def expected(problem: Problem, history: History, config: Curriculum, round: int) -> tuple[float, float]:
    """The pass rate's Beta distribution (a, b): at each key the faded counts, with the key above as `prior` answers."""
    a = b = config.prior / 2
    for key in keys_of(problem):
        right, wrong = _faded(history, key, round, config)
        mean = a / (a + b)
        a, b = right + config.prior * mean, wrong + config.prior * (1 - mean)
    return a, b


def by_history(
    problems: Sequence[Problem], history: History, config: Curriculum, round: int, rng: random.Random
) -> list[float]:
    """A draw from each problem's distribution: what is not known well is tried (MoPPS, Qu et al. 2025)."""
    return [rng.betavariate(*expected(p, history, config, round)) for p in problems]


# problems, the history, the options, the round, noise → a pass rate each
PREDICTORS: dict[
    str, Callable[[Sequence[Problem], History, Curriculum, int, random.Random], list[float]]
] = {"history": by_history}  # fmt: skip


def _faded(history: History, key: str, round: int, config: Curriculum) -> tuple[float, float]:
    right, wrong, since = history.counts.get(key, (0.0, 0.0, round))
    share = config.decay ** (round - since)
    return right * share, wrong * share
