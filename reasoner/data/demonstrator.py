"""Write the working of an arithmetic expression, one calculation a line, as a patient pupil would.

    (3 + 4) * 2        3+4=7
                       7*2=14
                       #### 14
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import gcd

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()])")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


def work_expression(expression: str) -> list[str]:
    """The calculations of an expression of + - * / and parentheses, each on values already known, and `#### result`."""
    lines: list[str] = []
    value = _evaluate(_tokens(expression), lines)
    return [*lines, f"#### {value}"]


def work_gcd(numbers: list[int]) -> list[str]:
    """Euclid's remainders, number by number."""
    lines: list[str] = []
    result = numbers[0]
    for number in numbers[1:]:
        result = _euclid(result, number, lines)
    return [*lines, f"#### {result}"]


def work_lcm(numbers: list[int]) -> list[str]:
    """lcm(a, b) = a / gcd(a, b) * b, number by number."""
    lines: list[str] = []
    result = numbers[0]
    for number in numbers[1:]:
        divisor = _euclid(result, number, lines)
        lines.append(f"{result}/{divisor}={result // divisor}")
        lines.append(f"{result // divisor}*{number}={result // divisor * number}")
        result = result // divisor * number
    return [*lines, f"#### {result}"]


def _euclid(a: int, b: int, lines: list[str]) -> int:
    a, b = max(a, b), min(a, b)
    while b:
        lines.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    assert a == gcd(a, b)
    return a


def _tokens(expression: str) -> list[str]:
    tokens, at = [], 0
    text = expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"cannot read {text[at:]!r} of the expression {text!r}; expected numbers, + - * / ( )")
        tokens.append(match[1])
        at = match.end()
    return tokens


def _evaluate(tokens: list[str], lines: list[str], minimum: int = 1) -> Decimal:
    """Precedence climbing over `tokens` (consumed from the front), writing each calculation as it is made."""
    left = _operand(tokens, lines)
    while tokens and _PRECEDENCE.get(tokens[0], 0) >= minimum:
        operator = tokens.pop(0)
        right = _evaluate(tokens, lines, _PRECEDENCE[operator] + 1)
        result = _apply(left, operator, right)
        lines.append(f"{left}{operator}{right}={result}")
        left = result
    return left


def _operand(tokens: list[str], lines: list[str]) -> Decimal:
    token = tokens.pop(0)
    if token == "-":
        return 0 - _operand(tokens, lines)
    if token == "(":
        value = _evaluate(tokens, lines)
        if tokens.pop(0) != ")":
            raise ValueError("a parenthesis is not closed")
        return value
    return Decimal(token)


def _apply(left: Decimal, operator: str, right: Decimal) -> Decimal:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right + 0  # no negative zero
    quotient = left / right + 0
    if quotient * right != left:
        raise ValueError(f"{left} / {right} is not exact")
    return quotient
