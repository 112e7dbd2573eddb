"""Is an answer worked out, or a calculation that is left to whoever checks it?

Where the gold answer is a plain number, "6 + 9" has the value 15 and is no answer: a policy that is paid for it learns to
stop calculating. What counts as work that is left: a sum, product or quotient; and a fraction that could be reduced, where the
gold is written without one. Powers, roots, factorials and binomials may stay.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from verifiers import tex
from verifiers.answer_text import quantity

_LAST_SIDE = re.compile(r".*(?:=|\\approx|≈)", re.DOTALL)
_FRACTION = re.compile(r"\\frac\s*\{\s*-?([0-9]+)\s*\}\s*\{\s*-?([0-9]+)\s*\}|([0-9]+)\s*/\s*-?([0-9]+)")
_WORK = frozenset(("add", "mul", "div"))


@lru_cache(maxsize=16_384)
def is_worked_out(gold: str, answer: str) -> bool:
    """Whether nothing is left to calculate in an answer that equals the gold; both are canonical texts (answer_text)."""
    if quantity(gold) is None:
        return True
    said = _LAST_SIDE.sub("", answer, count=1).strip()
    if quantity(said) is not None:
        return _has_fraction(gold) or all(map(_is_reduced, _FRACTION.finditer(said)))
    try:
        tree = _unsigned(tex.parse(said))
    except (tex.Unreadable, tex.OverBudget):
        return True
    if tree[0] == "div" and _has_fraction(gold) and _unsigned(tree[1])[0] == _unsigned(tree[2])[0] == "num":
        return True
    return tree[0] not in _WORK or not _is_of_numbers(tree)


def _has_fraction(text: str) -> bool:
    return _FRACTION.search(text) is not None


def _is_reduced(fraction: re.Match) -> bool:
    top, bottom = (int(digits[:18]) for digits in fraction.groups() if digits)
    return bottom != 1 and gcd(top, bottom) == 1


def _unsigned(tree: tuple) -> tuple:
    """A tree of verifiers.tex without the signs and units around it."""
    while tree[0] in ("neg", "unit"):
        tree = tree[1]
    return tree


def _is_of_numbers(tree: tuple) -> bool:
    """Whether nothing in a tree has a name, as pi and x have."""
    return tree[0] != "sym" and all(_is_of_numbers(part) for part in tree[1:] if isinstance(part, tuple))
