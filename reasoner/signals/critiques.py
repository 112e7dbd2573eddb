"""Critiques in words, made from labelled steps: what a critique model is tuned on.

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
from collections.abc import Callable, Iterable, Iterator, Sequence

from reasoner.records import PreferencePair, SFTExample, StepLabels
from reasoner.signals.step_labels import NO_ERROR, UNDECIDED, first_error

RIGHT, WRONG = " right", " wrong"  # what is written behind a step's number
_VERDICT = re.compile(r"^First error: (none|[0-9]{1,4})\s*$", re.MULTILINE)
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


def read_critique(text: str, num_steps: int) -> int:
    """Where a critique puts the first error: its last verdict line; UNDECIDED without one, or one out of range."""
    found = _VERDICT.findall(text)
    if not found:
        return UNDECIDED
    if found[-1] == "none":
        return NO_ERROR
    return int(found[-1]) - 1 if 1 <= int(found[-1]) <= num_steps else UNDECIDED


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
