"""Labels by people: which solutions to show first, and what is rated of them, as PRM800K records.

Let's Verify Step by Step (Lightman et al. 2023, section 2.4 and appendix B): most is learned from convincing wrong
answers, those that the present reward model scores high; four in five shown are such, the fifth is the most
convincing of the others. A solution is rated up to its first bad step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

RATINGS = {"g": 1, "n": 0, "b": -1}  # good, neutral, bad
BAD = -1
WRONG_IN_A_ROW = 4  # of five


@dataclass(frozen=True)
class Candidate:
    """A solution that may be shown; `score` says how convincing it is, `version` which policy wrote it."""

    problem: str
    reference: str
    steps: tuple[str, ...]
    answer: str
    is_correct: bool
    score: float
    version: int = 0

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        return self.problem, self.steps


def queue(
    candidates: Iterable[Candidate], done: Iterable[tuple[str, tuple[str, ...]]] = ()
) -> Iterator[Candidate]:
    """The distinct solutions that are not done, in the order in which they are shown."""
    seen = set(done)
    wrong: list[Candidate] = []
    others: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (-c.score, c.problem, c.steps)):
        if c.key not in seen:
            seen.add(c.key)
            (others if c.is_correct else wrong).append(c)
    shown = 0
    while wrong or others:
        is_turn_of_others = shown % (WRONG_IN_A_ROW + 1) == WRONG_IN_A_ROW
        yield (others if others and (is_turn_of_others or not wrong) else wrong).pop(0)
        shown += 1


def record(
    candidate: Candidate, ratings: Sequence[int], labeler: str, timestamp: str, milliseconds: int
) -> dict[str, Any]:
    """What a person said of a solution in PRM800K's format; fewer ratings than steps without a bad one: gave up."""
    rated = list(zip(candidate.steps, ratings, strict=False))
    if BAD in ratings:
        finish = "found_error"
    else:
        finish = "solution" if len(rated) == len(candidate.steps) else "give_up"
    steps = [
        {
            "completions": [{"text": text, "rating": rating, "flagged": False}],
            "human_completion": None,
            "chosen_completion": None if rating == BAD else 0,
        }
        for text, rating in rated
    ]
    return {
        "labeler": labeler,
        "timestamp": timestamp,
        "generation": candidate.version,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": candidate.problem,
            "ground_truth_answer": candidate.reference,
            "pre_generated_steps": list(candidate.steps),
            "pre_generated_answer": candidate.answer,
            "pre_generated_verifier_score": candidate.score,
        },
        "label": {"steps": steps, "total_time": milliseconds, "finish_reason": finish},
    }


def key_of(row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The key of the candidate that a record is of."""
    question = row["question"]
    return question["problem"], tuple(question["pre_generated_steps"])


def printable(text: str) -> str:
    """A model's text for a terminal: control characters are shown, so that none can move the cursor or worse."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
