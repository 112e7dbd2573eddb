r"""Is an answer worked out, or a calculation that is left to whoever checks it?

Where the gold answer is a plain number, "6 + 9" has the value 15 and is no answer: a policy that is paid for it learns to
stop calculating. So what may stand there is listed, and the rest is work that is left: a number; a fraction, reduced unless
the gold is written with one; a power, root, factorial, binomial, logarithm or sine of such; at most one factor before pi, e
or i. No sum, no product or quotient of numbers, no floor, remainder or maximum, no variable that cancels, however deep
("(6+9)^1", "6+x-x+9").
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from verifiers import tex
from verifiers.answer_text import quantity

_SIDES = re.compile(r"=|\\approx|≈")
_FRACTION = re.compile(r"\\frac\s*\{\s*-?([0-9]+)\s*\}\s*\{\s*-?([0-9]+)\s*\}|([0-9]+)\s*/\s*-?([0-9]+)")
_TAIL = 200  # characters of a response in which the answer's calculation is looked for
_CALCULATION = re.compile(r"[0-9($][0-9\s.,+*/×÷·()$-]*$")
_CONSTANTS = frozenset(("pi", "e", "i"))
_CALCULATIONS = frozenset(("floor", "ceil", "mod", "gcd", "lcm", "max", "min", "det"))


@lru_cache(maxsize=16_384)
def is_worked_out(gold: str, answer: str) -> bool:
    """Whether nothing is left to calculate in an answer that equals the gold; both are canonical texts (answer_text).

    Of a chain ("6 + 9 = 15") one side that is worked out is enough.
    """
    if quantity(gold) is None:
        return True
    fractions = _FRACTION.search(gold) is not None
    return any(_is_finished(side.strip(), fractions) for side in _SIDES.split(answer))


def calculation(gold: str, answer: str, response: str) -> str:
    """The calculation whose result an answer gives, where the gold is a plain number: "6 + 9" of "6 + 9 = 14 balls"; or "".

    It stands in the answer itself, or before it in the response's last characters. gold, answer: canonical texts.
    """
    if quantity(gold) is None:
        return ""
    if quantity(answer) is None:
        said = _SIDES.split(answer, maxsplit=1)[0].strip()
    else:
        before, equals, _ = response[-_TAIL:].rpartition("=")
        found = _CALCULATION.search(before.rstrip()) if equals else None
        said = found[0].strip() if found is not None else ""
    return "" if not said or _is_finished(said, fractions=False) else said


def _is_finished(text: str, fractions: bool) -> bool:
    if quantity(text) is not None:
        return fractions or all(map(_is_reduced, _FRACTION.finditer(text)))
    try:
        tree = tex.parse(text)
    except (tex.Unreadable, tex.OverBudget):
        return False
    tree = _unsigned(tree)
    if tree[0] == "ratio" or (tree[0] == "div" and not _constants_in(tree)):
        return fractions and all(_unsigned(part)[0] == "num" for part in _parts(tree))
    return _is_plain(tree)


def _is_plain(tree: tuple) -> bool:
    """Whether a tree of verifiers.tex holds no calculation: see the top of this file."""
    kind = tree[0]
    if kind == "sym":
        return tree[1] in _CONSTANTS
    if kind in ("add", "pm"):
        return False
    if kind in ("mul", "div"):
        return _is_multiple_of_a_constant(tree)
    if kind == "pow":
        return _unsigned(tree[1])[0] != "pow" and _is_plain(tree[1]) and _is_argument(tree[2])
    if kind == "root":
        return _is_argument(tree[1])
    if kind == "fn":
        return tree[1] not in _CALCULATIONS and all(map(_is_argument, tree[2:]))
    return all(map(_is_plain, _parts(tree)))


def _is_argument(tree: tuple) -> bool:
    """As _is_plain; a fraction of two numbers is one too: 27^{1/3}, \\sqrt{9/4}."""
    tree = _unsigned(tree)
    if tree[0] == "div" and all(_unsigned(part)[0] == "num" for part in tree[1:]):
        return True
    return _is_plain(tree)


def _is_multiple_of_a_constant(tree: tuple) -> bool:
    """2\\pi/3: at most one number above and one below, reduced; and one thing that is no number, or constants once each."""
    above, below = _factors(tree)
    tops, bottoms = ([t[1] for t in side if t[0] == "num"] for side in (above, below))
    others = [t for t in (*above, *below) if t[0] != "num"]
    if len(tops) > 1 or len(bottoms) > 1 or not others or len(others) != len(set(others)):
        return False
    if tops and bottoms and (not bottoms[0] or (tops[0] / bottoms[0]).denominator != bottoms[0]):
        return False
    if len(others) > 1:
        return all(t[0] == "sym" and t[1] in _CONSTANTS for t in others)
    return _constants_in(others[0]) and _is_plain(others[0])


def _factors(tree: tuple) -> tuple[list[tuple], list[tuple]]:
    """What a product multiplies and what it divides by."""
    tree = _unsigned(tree)
    if tree[0] not in ("mul", "div"):
        return [tree], []
    (above, below), (others, under) = _factors(tree[1]), _factors(tree[2])
    if tree[0] == "mul":
        return above + others, below + under
    return above + under, below + others


def _is_reduced(fraction: re.Match) -> bool:
    top, bottom = (int(digits[:18]) for digits in fraction.groups() if digits)
    return bottom != 1 and gcd(top, bottom) == 1


def _unsigned(tree: tuple) -> tuple:
    """A tree of verifiers.tex without the signs and units around it."""
    while tree[0] in ("neg", "unit"):
        tree = tree[1]
    return tree


def _constants_in(tree: tuple) -> bool:
    return tree[0] == "sym" or any(map(_constants_in, _parts(tree)))


def _parts(tree: tuple) -> list[tuple]:
    """The trees directly below one, also of a list or a tuple, whose items lie in a tuple of their own."""
    found = []
    for part in tree[1:]:
        if isinstance(part, tuple):
            found += (
                [part] if part and isinstance(part[0], str) else [p for p in part if isinstance(p, tuple)]
            )
    return found
