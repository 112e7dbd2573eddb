"""The exact truth of written working: is each line the next calculation of what is still to be done?

A line can be right as arithmetic and wrong as a step: `9+5=14` for 9+8+5 leaves the 8 out. So the expression is
kept beside, as the terms of a sum or the factors of a product in any order, or else as the demonstrator's own
next line; a step is right where it takes what is there and puts the right result in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from math import prod

from reasoner.data.demonstrator import (
    Expression,
    Number,
    Operation,
    Uneven,
    next_line,
    parse_expression,
)
from verifiers.arithmetic_steps import WrittenStep, check_steps

_NUMBER = r"-?\d{1,12}(?:\.\d{1,6})?"
_LINE = re.compile(rf"({_NUMBER})([-+*])({_NUMBER})=({_NUMBER})")
_RESULT = re.compile(rf"#### ({_NUMBER})")


def check_working(response: str, expression: str) -> list[WrittenStep]:
    """Every non-empty line of the response; nothing after the first wrong line is right.

    The line `#### x` is right where x is the value of what was left. Text that is no expression of + - * / ( )
    gcd lcm is a ValueError.
    """
    step = _follow(parse_expression(expression))
    steps: list[WrittenStep] = []
    fine, offset = True, 0
    for raw in response.split("\n"):
        text = raw.strip()
        if text:
            start = offset + raw.index(text[0])
            fine = fine and step(text)
            steps.append(WrittenStep(text, start, start + len(text), fine, "" if fine else "wrong"))
        offset += len(raw) + 1
    return steps


def written_steps(response: str, problem: str) -> list[WrittenStep]:
    """The exact truth of each line: as the next calculation where the problem is an expression, else by itself."""
    try:
        return check_working(response, problem)
    except ValueError:
        return check_steps(response, problem)


def _follow(e: Expression) -> Callable[[str], bool]:
    """A function that takes the lines one by one and tells of each whether it is right."""
    if (terms := _flat(e, "+-")) is not None:
        return _Pool(terms, sum)
    if (factors := _flat(e, "*")) is not None:
        return _Pool(factors, prod)
    return _Route(e)


def _flat(e: Expression, operators: str) -> list[Decimal] | None:
    """The signed terms of a sum or the factors of a product of plain numbers; None for anything else."""
    match e:
        case Number(value):
            return [value]
        case Operation(operator, left, Number(right)) if operator in operators:
            rest = _flat(left, operators)
            return None if rest is None else [*rest, -right if operator == "-" else right]
    return None


class _Pool:
    """What is left of a sum or a product: numbers in any order."""

    def __init__(self, numbers: list[Decimal], join: Callable):
        self.numbers, self.join = numbers, join

    def __call__(self, line: str) -> bool:
        if result := _RESULT.fullmatch(line):
            return Decimal(result[1]) == self.join(self.numbers)
        if not (found := _LINE.fullmatch(line)):
            return False
        operator, written = found[2], Decimal(found[4])
        if (operator == "*") != (self.join is prod):
            return False
        a, b = Decimal(found[1]), Decimal(found[3])
        taken = [a, -b if operator == "-" else b]
        left = list(self.numbers)
        for number in taken:
            if number not in left:
                return False
            left.remove(number)
        self.numbers = [*left, written]
        return written == self.join(taken)


class _Route:
    """Anything else: the one next line that the demonstrator would write."""

    def __init__(self, e: Expression):
        self.rest: Expression = e

    def __call__(self, line: str) -> bool:
        try:
            due, self.rest = next_line(self.rest)
        except (Uneven, InvalidOperation):
            return False
        if due is None and isinstance(self.rest, Number):
            return line == f"#### {self.rest}"
        return line == due
