"""Work an expression out as a patient pupil would: one calculation a line, then the result.

    (3+4)*2-1      3+4=7
                   7*2=14
                   14-1=13
                   #### 13

The expression is rewritten by its first possible calculation until a number is left. `gcd` goes by Euclid's
remainders, `lcm` by lcm(a, b) = a / gcd(a, b) · b.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|gcd|lcm|[-+*/(),])")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


class Uneven(ValueError):
    """A division whose result is no finite decimal, or a division by zero."""


@dataclass(frozen=True)
class Number:
    value: Decimal

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Operation:
    operator: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}"


@dataclass(frozen=True)
class Group:
    """Something in parentheses, with a minus before them or not."""

    inner: Expression
    negative: bool = False

    def __str__(self) -> str:
        return f"{'-' if self.negative else ''}({self.inner})"


@dataclass(frozen=True)
class Call:
    """gcd or lcm of two or more expressions."""

    name: str
    arguments: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"{self.name}({','.join(map(str, self.arguments))})"


Expression = Number | Operation | Group | Call


def parse_expression(text: str) -> Expression:
    """The expression with redundant parentheses dropped; text that is none of + - * / ( ) gcd lcm is a ValueError."""
    tokens = _tokens(text)
    found = _ungrouped(_parse(tokens))
    if tokens:
        raise ValueError(f"cannot read {''.join(tokens)!r} at the end of {text!r}; expected an operator")
    return found


def next_line(e: Expression) -> tuple[str | None, Expression]:
    """The next calculation as a line, and the expression after it; no line where a number is left."""
    lines: list[str] = []
    while not lines and not isinstance(e, Number):
        e = _ungrouped(_reduce(e, lines))
    return (lines[0] if lines else None), e


def work_out(expression: str) -> str | None:
    """The lines of the working and `#### result`; None where a division does not come out even.

    Text that is no expression of + - * / ( ) gcd lcm is a ValueError.
    """
    current = parse_expression(expression)
    lines: list[str] = []
    try:
        while not isinstance(current, Number):
            line, current = next_line(current)
            lines += [line] if line else []
    except Uneven:
        return None
    return "\n".join([*lines, f"#### {current}"])


def _reduce(e: Expression, lines: list[str]) -> Expression:
    """Do the leftmost calculation whose operands are numbers, and write it down."""
    match e:
        case Operation(operator, Number(left), Number(right)):
            result = _apply(left, operator, right)
            lines.append(f"{left}{operator}{right}={result}")
            return Number(result)
        case Operation(operator, left, right) if not isinstance(left, Number):
            return Operation(operator, _reduce(left, lines), right)
        case Operation(operator, left, right):
            return Operation(operator, left, _reduce(right, lines))
        case Group(inner, negative):
            return Group(_reduce(inner, lines), negative)
        case Call(name, arguments):
            for i, argument in enumerate(arguments):
                if not isinstance(argument, Number):
                    return Call(name, (*arguments[:i], _reduce(argument, lines), *arguments[i + 1 :]))
            return _gcd_rule(arguments, lines) if name == "gcd" else _lcm_rule(arguments)
    raise AssertionError(f"{e} is a number already")


def _gcd_rule(arguments: tuple[Expression, ...], lines: list[str]) -> Expression:
    """gcd(a, b, …) = gcd(b, a mod b, …), and gcd(a, 0, …) = gcd(a, …)."""
    a, b, *rest = arguments
    assert isinstance(a, Number) and isinstance(b, Number)
    if b.value == 0:
        return Call("gcd", (a, *rest)) if rest else a
    remainder = a.value % b.value
    lines.append(f"{a}%{b}={remainder}")
    return Call("gcd", (b, Number(remainder), *rest))


def _lcm_rule(arguments: tuple[Expression, ...]) -> Expression:
    """lcm(a, b, …) = lcm(a / gcd(a, b) · b, …)."""
    a, b, *rest = arguments
    product = Operation("*", Operation("/", a, Call("gcd", (a, b))), b)
    return Call("lcm", (product, *rest)) if rest else product


def _ungrouped(e: Expression) -> Expression:
    """Drop parentheses around numbers and around parentheses."""
    match e:
        case Operation(operator, left, right):
            return Operation(operator, _ungrouped(left), _ungrouped(right))
        case Call(name, arguments):
            return Call(name, tuple(map(_ungrouped, arguments)))
        case Group(inner, negative):
            inner = _ungrouped(inner)
            if isinstance(inner, Number):
                return Number(0 - inner.value if negative else inner.value)
            if isinstance(inner, Group):
                return Group(inner.inner, negative ^ inner.negative)
            return Group(inner, negative)
    return e


def _apply(left: Decimal, operator: str, right: Decimal) -> Decimal:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right + 0  # no negative zero
    if right == 0 or (left / right) * right != left:
        raise Uneven(f"{left} / {right}")
    return left / right + 0


def _tokens(expression: str) -> list[str]:
    tokens, at = [], 0
    text = expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"cannot read {text[at:]!r} of {text!r}; expected numbers, + - * / ( ) gcd lcm")
        tokens.append(match[1])
        at = match.end()
    return tokens


def _parse(tokens: list[str], minimum: int = 1) -> Expression:
    """Precedence climbing over `tokens`, which are consumed from the front."""
    left = _operand(tokens)
    while tokens and _PRECEDENCE.get(tokens[0], 0) >= minimum:
        operator = tokens.pop(0)
        left = Operation(operator, left, _parse(tokens, _PRECEDENCE[operator] + 1))
    return left


def _operand(tokens: list[str]) -> Expression:
    token = tokens.pop(0) if tokens else ""
    if token == "-":
        operand = _operand(tokens)
        return Number(0 - operand.value) if isinstance(operand, Number) else Group(operand, negative=True)
    if token == "(":
        inner = _parse(tokens)
        _expect(tokens, ")")
        return Group(inner)
    if token in ("gcd", "lcm"):
        _expect(tokens, "(")
        arguments = [_parse(tokens)]
        while tokens and tokens[0] == ",":
            tokens.pop(0)
            arguments.append(_parse(tokens))
        _expect(tokens, ")")
        return Call(token, tuple(arguments))
    if not token[:1].isdigit():
        raise ValueError(f"found {token!r} where a number was expected")
    return Number(Decimal(token))


def _expect(tokens: list[str], wanted: str) -> None:
    got = tokens.pop(0) if tokens else "the end"
    if got != wanted:
        raise ValueError(f"found {got!r} where {wanted!r} was expected")
