"""Parts combined: the answer of one old problem takes the place of a number of another."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction

from reasoner.data.formula import (
    ANY_NUMBER,
    MAX_VALUE,
    NUMBER,
    Formula,
    agreed,
    answer_of,
    leaves,
    read_working,
    told,
    value_of,
    without_answer,
)
from reasoner.data.ways import Dropped, Old, Variant

_LETTERS = ("N", "M", "X", "L")  # of which each is an "an"
_CALLED = (
    "Call the answer to this {letter}.",
    "Let {letter} be the answer to this question.",
    "Write {letter} for the number that answers this.",
)
_TRIES = 60
_APART = 3  # times that the answer may be larger or smaller than the number whose place it takes


def combined(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """Another old problem, and then this one with that problem's answer for one of its numbers; Dropped where none fits."""
    second = Formula(old.question, old.solution)
    for _ in range(_TRIES):
        first = rng.choice(olds)
        try:
            value = read_working(first.solution).results[-1]
            place = rng.choice(second.free)
            if first.question == old.question or not _fits(value, place, second):
                continue
            new = second.worked_out({place: value})
        except Dropped:
            continue
        return _joined(first, value, second, place, new, rng)
    raise Dropped("have no number that the answer of another problem fits")


def _fits(value: Fraction, place: Fraction, formula: Formula) -> bool:
    """Whether the value is of the place's size, whole, and not one of the other numbers, with which it would be confused."""
    others = {value_of(found) for found in ANY_NUMBER.finditer(f"{formula.question} {formula.solution}")}
    others |= {leaf for expression in formula.expressions for leaf in leaves(expression)}
    return (
        value.denominator == 1
        and place / _APART <= value <= place * _APART
        and 2 < value < MAX_VALUE
        and value not in others
    )


def _joined(
    first: Old, value: Fraction, second: Formula, place: Fraction, new: dict[Fraction, Fraction], rng: random.Random
) -> Variant:  # fmt: skip
    letter = letter_for(_LETTERS, first.question, second.question)
    called = rng.choice(_CALLED).format(letter=letter)
    _, working = second.written(new)
    solution = f"{without_answer(first.solution)}\nSo {letter} is {told(value)}.\n{working}"
    if not agreed(solution, new[second.results[-1]]):
        raise Dropped("are read otherwise by the verifiers")
    question = f"{first.question.strip()} {called} {with_letter(second.question, place, letter).strip()}"
    num = len(read_working(first.solution).results) + len(second.results)
    return Variant(question, solution, answer_of(working), num)


def with_letter(question: str, place: Fraction, letter: str) -> str:
    """The question with a letter for one of its plain numbers."""
    text = NUMBER.sub(lambda found: letter if value_of(found) == place else found[0], question)
    return re.sub(rf"\b([Aa]) {letter}\b", rf"\1n {letter}", text)


def letter_for(letters: Sequence[str], *texts: str) -> str:
    """The first of the letters that stands alone in none of the texts, which have x for times and names like M."""
    for letter in letters:
        if not any(re.search(rf"(?<![a-z]){letter}(?![a-z])", text, re.IGNORECASE) for text in texts):
            return letter
    raise Dropped("have all letters in use")
