"""What TeX's commands stand for: functions, roots, binomials, Greek letters, matrices."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from verifiers.tex_tokens import (
    ACCENTS,
    FUNCTIONS,
    GREEK,
    MATRICES,
    MAX_DIGITS,
    SETS,
    OverBudget,
    Unreadable,
)

if TYPE_CHECKING:
    from verifiers.tex import Parser


def command(parser: Parser, token: str) -> tuple:
    name = token[1:]
    if token == r"\frac":
        return ("div", parser.argument(), parser.argument())
    if token == r"\sqrt":
        index = ("num", Fraction(2))
        if parser.peek() == "[":
            index = parser.group("[")
        if index[0] == "sym":
            return ("pow", parser.argument(), ("div", ("num", Fraction(1)), index))
        if index[0] != "num" or not 2 <= index[1] <= 100 or index[1].denominator != 1:
            raise Unreadable("a root whose index is no small integer")
        return ("root", parser.argument(), int(index[1]))
    if token in (r"\binom", r"\tbinom", r"\dbinom", r"\choose"):
        return ("fn", "binomial", parser.argument(), parser.argument())
    if name in FUNCTIONS:
        return function(parser, name)
    if token in SETS:
        return ("inf",) if SETS[token] == "inf" else ("set", ())
    if token == r"\pi":
        return ("sym", "pi")
    if name in GREEK:
        return ("sym", name)
    if token in (r"\lfloor", r"\lceil"):
        parser.enter()
        inner = parser.sum()
        parser.depth -= 1
        parser.expect(r"\rfloor" if token == r"\lfloor" else r"\rceil")
        return ("fn", "floor" if token == r"\lfloor" else "ceil", inner)
    if token == r"\begin":
        return matrix(parser)
    if token in ACCENTS:
        return ("sym", f"{name}({parser.argument_text()})")
    if token in (r"\lvert",):
        parser.at -= 1
        return parser.absolute()
    raise Unreadable(f"unknown command {token}")


def function(parser: Parser, name: str) -> tuple:
    power = base = None
    while parser.peek() in ("^", "_"):
        if parser.take() == "^":
            power = parser.argument()
        else:
            base = parser.argument()
    if parser.peek() in ("(", "[", "{"):
        inner = parser.group(parser.peek())
        arguments = inner[2] if inner[0] == "tuple" else inner[1] if inner[0] == "list" else (inner,)
    else:
        # \sin 2x takes what is multiplied without a sign.
        inner = parser.power()
        while (
            parser.starts_factor(parser.peek())
            and parser.peek()[1:] not in FUNCTIONS
            and parser.kind() != "space"
        ):
            inner = parser.joined(inner, parser.power())
        arguments = (inner,)
    if name in ("log", "lg") and base is not None:
        arguments = (*arguments, base)
    result = ("fn", name, *arguments)
    if power is not None:
        if power == ("neg", ("num", Fraction(1))):
            if name not in ("sin", "cos", "tan"):
                raise Unreadable(f"{name}^-1 has two meanings")
            return ("fn", f"arc{name}", *arguments)
        result = ("pow", result, power)
    return result


def matrix(parser: Parser) -> tuple:
    name = parser.argument_text()
    if name not in MATRICES:
        raise Unreadable(f"unknown environment {name}")
    if name == "array" and parser.peek() == "{":
        parser.argument_text()
    parser.enter()
    rows, row = [], []
    while True:
        row.append(parser.sum())
        token = parser.take()
        if token == "&":
            continue
        if token not in (r"\\", r"\end"):
            raise Unreadable(f"{token!r} in a matrix")
        rows.append(tuple(row))
        row = []
        if token == r"\\" and parser.peek() == r"\end":
            token = parser.take()
        if token == r"\end":
            parser.argument_text()
            parser.depth -= 1
            break
    if len({len(r) for r in rows}) != 1:
        raise Unreadable("matrix rows of different lengths")
    return ("fn", "det", ("matrix", tuple(rows))) if name == "vmatrix" else ("matrix", tuple(rows))


def number(token: str) -> tuple:
    if len(token) > MAX_DIGITS:
        raise OverBudget(f"a number of {len(token)} digits")
    return ("num", Fraction(token.rstrip(".")) if token != "." else Fraction(0))


def symbol(letter: str) -> tuple:
    return ("sym", letter)
