"""Critiques in words, made from labelled steps: what a critique model is tuned on, and what it is asked to write.

2+3-4                    the problem
[1] 2+3=5                the steps, numbered
[2] 5-4=2
Critique:
[1] right                one verdict a step, up to the first error
[2] wrong
First error: 2           or "none"
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from reasoner.data.sources import own_id
from reasoner.records import CritiqueTask, PreferencePair, SFTExample, StepLabels
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED, first_error
from reasoner.signals.step_pairs import in_balance
from reasoner.tree import Problem

RIGHT, WRONG = " right", " wrong"  # what is written behind a step's number
_VERDICTS = re.compile(rf"^(\[[0-9]{{1,4}}\]({RIGHT}|{WRONG})|First error:)", re.MULTILINE)


def critique_prompt(problem: str, steps: Sequence[str]) -> str:
    numbered = "".join(f"[{i}] {step.strip()}\n" for i, step in enumerate(steps, start=1))
    return f"{problem.strip()}\n{numbered}Critique:\n"


def critique(first_wrong: int, num_steps: int) -> str:
    """The critique that puts the first error at step `first_wrong` (from 0; NO_ERROR: nowhere)."""
    last = num_steps if first_wrong == NO_ERROR else first_wrong
    lines = [f"[{i}]{RIGHT}" for i in range(1, last + 1)]
    if first_wrong != NO_ERROR:
        lines.append(f"[{first_wrong + 1}]{WRONG}")
    return "\n".join([*lines, f"First error: {'none' if first_wrong == NO_ERROR else first_wrong + 1}"])


def reasoning(text: str) -> str:
    """What a critique says before its first verdict, as whole lines."""
    found = _VERDICTS.search(text)
    before = text[: found.start()] if found else text
    return before if not before or before.endswith("\n") else f"{before}\n"


def verdict_prompts(problem: str, steps: Sequence[str], reasoned: str) -> list[str]:
    """Where a critique says of each step whether it is right: behind its reasoning, all steps before being right."""
    begun = critique_prompt(problem, steps) + reasoned
    return [
        begun + "".join(f"[{k}]{RIGHT}\n" for k in range(1, i)) + f"[{i}]" for i in range(1, len(steps) + 1)
    ]


def to_criticise(records: Iterable[StepLabels], balance: bool) -> tuple[list[StepLabels], Counter[str]]:
    """The solutions whose first error is known, each text once, and how many were left out, by why.

    With `balance` as many with an error as without, the surplus left out at equal distances: a critic that always says
    the same is right about half of them.
    """
    found: dict[str, StepLabels] = {}
    places: dict[str, int] = {}
    left_out = Counter(undecided=0, repeated=0, disputed=0, surplus=0)
    for record in records:
        at = _truth(record)
        if at == UNDECIDED:
            left_out["undecided"] += 1
            continue
        text = critique_prompt(record.prompt, record.completions)
        left_out["repeated"] += text in found
        found.setdefault(text, record)
        # the same solution with its first error elsewhere: of noisy labels, none of which is known to be right
        places[text] = at if places.get(text, at) == at else UNDECIDED
    left_out["disputed"] = sum(at == UNDECIDED for at in places.values())
    kept = [record for text, record in found.items() if places[text] != UNDECIDED]
    if balance:
        stays = in_balance([1 if _truth(record) == NO_ERROR else -1 for record in kept])
        left_out["surplus"] = len(kept) - len(stays)
        kept = [record for i, record in enumerate(kept) if i in stays]
    return kept, left_out


def critique_tasks(records: Iterable[StepLabels]) -> Iterator[CritiqueTask]:
    """The solutions whose first error is known, as what a critic writes about and is judged by."""
    for record in records:
        at = _truth(record)
        if at != UNDECIDED:
            prompt = critique_prompt(record.prompt, record.completions)
            yield CritiqueTask(
                record.problem_id, prompt, at, len(record.completions), record.source, record.licence
            )


def as_problem(task: CritiqueTask) -> Problem:
    """The task as a problem, whose id is that of the problem that was solved, with a hash of the solution behind it."""
    reference = {"first_error": task.first_error, "num_steps": task.num_steps}
    domain = "right" if task.first_error == NO_ERROR else "wrong"
    return own_id(
        Problem(task.problem_id, task.prompt, "critique", reference, domain, task.source, task.licence)
    )


def critique_examples(
    records: Iterable[StepLabels], encode: Callable[[str], list[int]], complete: Callable[[str], list[int]]
) -> Iterator[SFTExample]:
    """The right critique of each solution whose first error is known; `complete` closes it with the end of text."""
    for record in records:
        at = _truth(record)
        if at != UNDECIDED:
            prompt = critique_prompt(record.prompt, record.completions)
            text = critique(at, len(record.completions))
            yield SFTExample(
                record.problem_id, prompt, text, encode(prompt), complete(text), record.source, record.licence
            )


def critique_pairs(
    records: Iterable[StepLabels],
    encode: Callable[[str], list[int]],
    complete: Callable[[str], list[int]],
    seed: int = 0,
) -> Iterator[PreferencePair]:
    """The right critique over one that puts the first error elsewhere, drawn evenly from all other places."""
    rng = random.Random(seed)
    for record in records:
        at, num_steps = _truth(record), len(record.completions)
        if at == UNDECIDED:
            continue
        elsewhere = rng.choice([i for i in (NO_ERROR, *range(num_steps)) if i != at])
        prompt = critique_prompt(record.prompt, record.completions)
        right, wrong = critique(at, num_steps), critique(elsewhere, num_steps)
        yield PreferencePair(record.problem_id, prompt, right, wrong, encode(prompt), complete(right), complete(wrong),
                             source=record.source, licence=record.licence)  # fmt: skip


def _truth(record: StepLabels) -> int:
    """What the labellers agree on; by the labels where no votes were kept."""
    votes = set(record.first_errors) or {first_error(record.labels)}
    return votes.pop() if len(votes) == 1 else UNDECIDED
