"""Keep the labels on which two labellers agree where a solution first goes wrong (Zhang et al. 2025, section 3.2).

Monte-Carlo labels call a wrong step good where the model recovers; a judge that reads the steps errs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from reasoner.data.working import written_steps
from reasoner.records import StepLabels
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED
from verifiers.arithmetic_steps import WrittenStep, check_steps

# (prompts, steps of each solution) -> where each solution first goes wrong; NO_ERROR, or UNDECIDED
StepJudge = Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]


def arithmetic(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[int]:
    """The first written calculation that is false, or uses a number that neither the problem nor a step gives."""
    return [_first_wrong(s, check_steps("".join(s), p)) for p, s in zip(prompts, solutions, strict=True)]


def working(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[int]:
    """The first line that is not the next calculation of a prompt that is an expression; of others as `arithmetic`."""
    return [_first_wrong(s, written_steps("".join(s), p)) for p, s in zip(prompts, solutions, strict=True)]


def _first_wrong(steps: Sequence[str], lines: Sequence[WrittenStep]) -> int:
    """The step in which the first wrong line begins."""
    ends = list(accumulate(map(len, steps)))
    wrong = [line.start for line in lines if line.right is False]
    return next(i for i, end in enumerate(ends) if wrong[0] < end) if wrong else NO_ERROR


JUDGES: dict[str, StepJudge] = {"arithmetic": arithmetic, "working": working}


def with_votes(records: Iterable[StepLabels], judge: StepJudge) -> Iterator[StepLabels]:
    """The records with the judge's vote after their own in `first_errors`; labels stay as they are."""
    kept = list(records)
    votes = judge([r.prompt for r in kept], [r.completions for r in kept])
    for record, vote in zip(kept, votes, strict=True):
        yield replace(record, first_errors=[*record.first_errors, vote])


def agrees(record: StepLabels) -> bool:
    """Whether all labellers put the first error at the same step, none undecided."""
    return len(set(record.first_errors)) == 1 and record.first_errors[0] != UNDECIDED
