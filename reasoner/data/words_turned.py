"""The question turned round: the answer is told, and one of the numbers is asked for.

The formula is worked out exactly with that number as an unknown. Each result has to be constant + slope * unknown, and the last
slope has to be other than 0: then one value gives the answer, and no other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from reasoner.data.demonstrator import Expression, Group, Number, Operation
from reasoner.data.formula import (
    ANY_NUMBER,
    CALCULATION,
    Formula,
    agreed,
    told,
    value_of,
    without_answer,
    worked,
)
from reasoner.data.ways import Dropped, Old, Variant
from reasoner.data.words_combined import letter_for, with_letter

_LETTERS = ("x", "n", "m")  # of which each is an "an"
_ASKED = (
    "The answer to this question is {answer}. What is {x}?",
    "If the answer to this question is {answer}, what number is {x}?",
    "It is known that the answer is {answer}. Find {x}.",
)


class Linear(NamedTuple):
    """constant + slope * unknown."""

    constant: Fraction
    slope: Fraction


def turned(old: Old, olds: Sequence[Old], rng: random.Random) -> Variant:
    """The old problem with one number asked for and the answer told; Dropped where several numbers, or none, give it."""
    formula = Formula(old.question, old.solution)
    answer = formula.results[-1]
    # what else has the answer's value would be written as what hangs on the unknown
    before = without_answer(old.solution).rpartition("<<")[0]
    if answer in map(value_of, ANY_NUMBER.finditer(f"{old.question} {before}")):
        raise Dropped("have a result of the value of another number")
    if not agreed(old.solution, answer):
        raise Dropped("are read otherwise by the verifiers")
    reason: Dropped | None = None
    for place in rng.sample(formula.free, len(formula.free)):
        try:
            return _turned(old, formula, place, rng)
        except Dropped as problem:
            reason = problem
    raise reason or Dropped("have no number whose part is plain")


def _turned(old: Old, formula: Formula, place: Fraction, rng: random.Random) -> Variant:
    letter = letter_for(_LETTERS, old.question, old.solution)
    forms = forms_of(formula, place)
    last = forms[formula.results[-1]]
    if last.slope == 0:
        raise Dropped("have an answer that does not hang on the number")
    answer = formula.results[-1]
    solved, num = _solved(last, answer, letter)
    solution = f"{_with_forms(without_answer(old.solution), forms, letter)}\n{solved}\n#### {told(place)}"
    found = (answer - last.constant) / last.slope
    if found != place or not gives_alone(formula, place, answer) or not agreed(solution, place):
        raise Dropped("are read otherwise by the verifiers")
    asked = rng.choice(_ASKED).format(answer=told(answer), x=letter)
    question = f"{with_letter(old.question, place, letter).strip()} {asked}"
    return Variant(question, solution, told(place), len(formula.results) + num)


def forms_of(formula: Formula, place: Fraction) -> dict[Fraction, Linear]:
    """By old value, the number asked for and every result that hangs on it; the answer in any case."""
    forms = {place: Linear(Fraction(0), Fraction(1))}
    for expression, result in zip(formula.expressions, formula.results, strict=True):
        form = linear(expression, forms)
        if form.slope or result == formula.results[-1]:
            forms[result] = form
    return forms


def linear(e: Expression, forms: Mapping[Fraction, Linear]) -> Linear:
    """The expression's value, some of its numbers being forms; Dropped where it is not linear in the unknown."""
    match e:
        case Number(value):
            return forms.get(Fraction(value), Linear(Fraction(value), Fraction(0)))
        case Group(inner, negative):
            form = linear(inner, forms)
            return Linear(-form.constant, -form.slope) if negative else form
        case Operation(operator, left, right):
            a, b = linear(left, forms), linear(right, forms)
            if operator == "+":
                return Linear(a.constant + b.constant, a.slope + b.slope)
            if operator == "-":
                return Linear(a.constant - b.constant, a.slope - b.slope)
            if operator == "/" and b.slope == 0 and b.constant:
                return Linear(a.constant / b.constant, a.slope / b.constant)
            if operator == "*" and not (a.slope and b.slope):
                factor, form = (a, b) if a.slope == 0 else (b, a)
                return Linear(factor.constant * form.constant, factor.constant * form.slope)
    raise Dropped("are not linear in the number")


def text_of(form: Linear, letter: str) -> str:
    """As in 24 - 0.5*x, in parentheses where it has two terms or a minus in front."""
    slope = abs(form.slope)
    if slope.denominator in (1, 2, 4, 5, 10, 20, 25, 50, 100):
        term = letter if slope == 1 else f"{told(slope)}*{letter}"
    else:
        term = f"{letter}/{slope.denominator}"
        term = term if slope.numerator == 1 else f"{slope.numerator}*{term}"
    if form.constant == 0:
        return term if form.slope > 0 else f"(-{term})"
    if form.slope > 0:
        sign = "+" if form.constant > 0 else "-"
        return f"({term} {sign} {told(abs(form.constant))})"
    return f"({told(form.constant)} - {term})"


def _with_forms(working: str, forms: Mapping[Fraction, Linear], letter: str) -> str:
    """The working with forms for the numbers that they stand for; marks stay at calculations without them."""
    kept = CALCULATION.sub(lambda found: "" if _hangs(found[0], forms) else found[0], working)
    return ANY_NUMBER.sub(lambda n: text_of(forms[v], letter) if (v := value_of(n)) in forms else n[0], kept)


def _hangs(marks: str, forms: Mapping[Fraction, Linear]) -> bool:
    return any(value_of(n) in forms for n in ANY_NUMBER.finditer(marks))


def _solved(form: Linear, answer: Fraction, letter: str) -> tuple[str, int]:
    """The lines that solve form = answer, and how many calculations they take."""
    lines, num = [f"So {_bare(text_of(form, letter))} = {told(answer)}."], 0
    rest, slope = answer, form.slope
    if form.constant:
        rest = answer - form.constant
        if slope < 0:
            rest, slope = -rest, -slope
            calculation = f"{told(form.constant)}-{told(answer)}"
        else:
            sign = "-" if form.constant > 0 else "+"
            calculation = f"{told(answer)}{sign}{told(abs(form.constant))}"
        term = text_of(Linear(Fraction(0), slope), letter)
        lines.append(f"Then {term} = {calculation} = <<{calculation}={told(rest)}>>{told(rest)}.")
        num += 1
    if slope != 1:
        value = rest / slope
        if slope.denominator in (1, 2, 4, 5, 10, 20, 25, 50, 100):
            calculation = f"{told(rest)}/{told(slope)}" if slope > 0 else f"{told(rest)}/({told(slope)})"
        elif slope.numerator == 1:
            calculation = f"{told(rest)}*{slope.denominator}"
        else:
            calculation = f"{told(rest)}*{slope.denominator}/{slope.numerator}"
        lines.append(f"This gives {letter} = {calculation} = <<{calculation}={told(value)}>>{told(value)}.")
        num += 1
    return "\n".join(lines), num


def _bare(text: str) -> str:
    return text.removeprefix("(").removesuffix(")") if text.startswith("(") else text


def gives_alone(formula: Formula, place: Fraction, answer: Fraction) -> bool:
    """Whether the formula itself, worked out with numbers, gives the answer for the place's value and for none beside it."""

    def value(number: Fraction) -> Fraction | None:
        new: dict[Fraction, Fraction] = {place: number}
        for expression, result in zip(formula.expressions, formula.results, strict=True):
            found = worked(expression, new)
            if found is None:
                return None
            new[result] = found
        return new[formula.results[-1]]

    return value(place) == answer and all(value(place + step) != answer for step in (-1, 1))
