"""Which answers are the same: the final answer of a response, and answers grouped into equivalence classes.

Nothing here knows the right answer. Equality is decided in this process, cheaply and exactly; where that
would take computer algebra two answers count as different.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.tree import Problem
from verifiers.extract import fenced_code, final_answer
from verifiers.math_answer import math_quick


def read_answer(problem: Problem, text: str) -> str | None:
    """The final answer of a response, found by the rule that the problem's verifier uses; None without one."""
    rule = problem.reference.get("extract", "auto")
    if problem.verifier == "code" and rule == "auto":
        return fenced_code(text) or (text.strip() or None)
    return final_answer(text, rule) or None


def same_answer(problem: Problem, a: str, b: str) -> bool:
    """Equal as mathematics where the verifier is `math`, else as text without its spaces."""
    if "".join(a.split()) == "".join(b.split()):
        return True
    if problem.verifier != "math":
        return False
    verdict = math_quick(b, a, "whole")
    return verdict is not None and verdict.status == "correct"


def answer_classes(problem: Problem, answers: Sequence[str | None]) -> list[int | None]:
    """Per answer the number of its class, classes numbered in order of first appearance; None for no answer."""
    known: dict[str, int] = {}
    first: list[str] = []
    found: list[int | None] = []
    for answer in answers:
        if answer is None:
            found.append(None)
            continue
        if answer not in known:
            number = next((i for i, other in enumerate(first) if same_answer(problem, other, answer)), None)
            if number is None:
                number = len(first)
                first.append(answer)
            known[answer] = number
        found.append(known[answer])
    return found
