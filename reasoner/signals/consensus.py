"""Keep the labels on which two labellers agree where a solution first goes wrong (Zhang et al. 2025, section 3.2).

Monte-Carlo labels call a wrong step good where the model recovers; a judge that reads the steps errs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from reasoner.records import StepLabels
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED
from verifiers.arithmetic_steps import check_steps

# (prompts, steps of each solution) -> where each solution first goes wrong; NO_ERROR, or UNDECIDED
StepJudge = Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]


def arithmetic(prompts: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[int]:
    """The first written calculation that is false, or uses a number that neither the problem nor a step gives."""
    found = []
    for prompt, steps in zip(prompts, solutions, strict=True):
        ends, length = [], 0
        for step in steps:
            length += len(step)
            ends.append(length)
        wrong = [line.start for line in check_steps("".join(steps), prompt) if line.right is False]
        found.append(next(i for i, end in enumerate(ends) if wrong[0] < end) if wrong else NO_ERROR)
    return found


JUDGES: dict[str, StepJudge] = {"arithmetic": arithmetic}


def with_votes(records: Iterable[StepLabels], judge: StepJudge) -> Iterator[StepLabels]:
    """The records with the judge's vote after their own in `first_errors`; labels stay as they are."""
    kept = list(records)
    votes = judge([r.prompt for r in kept], [r.completions for r in kept])
    for record, vote in zip(kept, votes, strict=True):
        yield replace(record, first_errors=[*record.first_errors, vote])


def agrees(record: StepLabels) -> bool:
    """Whether all labellers put the first error at the same step, none undecided."""
    return len(set(record.first_errors)) == 1 and record.first_errors[0] != UNDECIDED
