"""One more step: a question about the answer of an old problem, in words that suit what was counted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from reasoner.data.formula import MAX_VALUE, agreed, read_working, told, without_answer
from reasoner.data.ways import Dropped, Old, Variant

# "How many apples did", "How many boys are": one word before a verb is what is counted
_COUNTED = re.compile(
    r"how many ([a-z]+) (?:did|does|do|is|are|was|were|will|would|can|could|has|have|had|should|must|remain|in)\b"
)
_MONEY = re.compile(
    r"how much (?:money|did|does|do|will|would|is|are|was|were|has|have|had)\b|how many dollars\b"
)
_SCALED = re.compile(r"\b(?:thousands?|millions?|billions?)\b")  # where an answer of 4 is no four dollars
# of which "3 fewer of them" or "equal groups of them" says little: amounts, and words that count no things
_NO_THINGS = frozenset({
    "more", "less", "fewer", "total", "extra", "additional", "times", "percent", "percentage", "degrees", "calories", "dollars",
    "cents", "seconds", "minutes", "hours", "days", "weeks", "months", "years", "inches", "feet", "yards", "miles", "meters",
    "kilometers", "ounces", "pounds", "grams", "kilograms", "liters", "gallons",
})  # fmt: skip
# what is asked, by kind of answer and operation; {k} the new number, {of} what is counted
_ASKED: dict[str, dict[str, tuple[str, ...]]] = {
    "things": {
        "+": ("If there were {k} more {of} than that, how many {of} would there be?",
              "And if {k} more {of} were added to these, how many {of} would that be in all?"),
        "-": ("If there were {k} fewer {of} than that, how many {of} would there be?",
              "And if {k} of these {of} were left out, how many {of} would remain?"),
        "*": ("If there were {k} times as many {of} as that, how many {of} would there be?",
              "How many {of} would {k} times that number be?"),
        "/": ("If these {of} were put into {k} equal groups, how many {of} would be in each group?",
              "And if these {of} were shared equally by {k} people, how many {of} would each of them get?"),
    },
    "money": {
        "+": ("If the amount were ${k} larger, how many dollars would it be?",
              "And how many dollars would it be with ${k} more?"),
        "-": ("If the amount were ${k} smaller, how many dollars would it be?",
              "And how many dollars would be left if ${k} were taken off this amount?"),
        "*": ("How many dollars would {k} times that amount be?",
              "If the amount were {k} times as large, how many dollars would it be?"),
        "/": ("If this amount were shared equally by {k} people, how many dollars would be each one's part?",
              "And if this amount were split into {k} equal parts, how many dollars would each part be?"),
    },
    "number": {
        "+": ("Then add {k} to your answer. What number do you get?", "What is the sum of that number and {k}?"),
        "-": ("Then subtract {k} from your answer. What number do you get?", "What is that number less {k}?"),
        "*": ("Then multiply your answer by {k}. What number do you get?", "What is {k} times that number?"),
        "/": ("Then divide your answer by {k}. What number do you get?", "What is that number divided by {k}?"),
    },
}  # fmt: skip
_SHOWN: dict[str, tuple[str, ...]] = {
    "+": ("With {k} more that is", "Adding {k} gives"),
    "-": ("With {k} less that is", "Taking {k} away leaves"),
    "*": ("{k} times that is", "Multiplied by {k} it is"),
    "/": ("In {k} equal parts, each is", "Divided by {k} it is"),
}
_DONE: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda a, k: a + k,
    "-": lambda a, k: a - k,
    "*": lambda a, k: a * k,
    "/": lambda a, k: a / k,
}


class Step(NamedTuple):
    """What is done with the answer, and the second number of it."""

    operator: str
    k: Fraction


def longer(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """The old problem and a further calculation on its answer; Dropped where that answer is not plain."""
    answer = read_working(old.solution).results[-1]
    kind, of = kind_of(old)
    if not 0 < answer < MAX_VALUE or (kind == "things" and answer.denominator > 1):
        raise Dropped("have an answer that nothing more is asked of")
    step = _step(answer, rng)
    result = _DONE[step.operator](answer, step.k)
    asked = rng.choice(_ASKED[kind][step.operator]).format(k=told(step.k), of=of)
    shown = rng.choice(_SHOWN[step.operator]).format(k=told(step.k))
    a, k, r = told(answer), told(step.k), told(result)
    line = f"{shown} {a}{step.operator}{k} = <<{a}{step.operator}{k}={r}>>{r}."
    solution = f"{without_answer(old.solution)}\n{line}\n#### {r}"
    if not agreed(solution, result):
        raise Dropped("are read otherwise by the verifiers")
    return Variant(f"{old.question.strip()} {asked}", solution, r, len(read_working(solution).results))


def kind_of(old: Old) -> tuple[str, str]:
    """(things, money or number; the word for the things) of what the last question asks for."""
    asked = re.split(r"(?<=[.?!])\s+", old.question.strip())[-1].lower()
    if "how many" in asked and (counted := _COUNTED.search(asked)):
        of = counted[1]
        if _SCALED.search(old.question.lower()):
            return "number", ""
        if of not in _NO_THINGS and (of.endswith("s") or of in ("people", "children")):
            return "things", of
    before = without_answer(old.solution).rpartition("<<")[0].rstrip()
    if _MONEY.search(asked) and before.endswith("$") and not _SCALED.search(old.question.lower()):
        return "money", "dollars"
    return "number", ""


def _step(answer: Fraction, rng: random.Random) -> Step:
    """A step whose result is positive, and whole where the answer is."""
    if answer.denominator > 1:
        return Step("*", Fraction(rng.choice((2, 4, 5, 10))))
    whole = answer.numerator
    steps: dict[str, Sequence[int]] = {
        "+": range(max(2, whole // 10), max(10, whole // 2) + 1),
        "*": range(2, 13),
    }
    if whole > 4:
        steps["-"] = range(max(2, whole // 10), whole // 2 + 1)
    if parts := [k for k in range(2, 13) if whole % k == 0 and whole > k]:
        steps["/"] = parts
    operator = rng.choice(sorted(steps))
    return Step(operator, Fraction(rng.choice(steps[operator])))
