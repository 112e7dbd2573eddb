"""New word problems out of old ones: other numbers where the worked formula is known, kept only if two readings agree.

A row is one of GSM8K's form: a question, and a solution whose calculations stand in marks, <<48/2=24>>. Numbers of the question
that enter the calculations get other values, every result is worked out anew, and question and solution are written with
them. What a number stands for has to be plain: where two of them have one value, the row is left out.
"""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from reasoner.data.demonstrator import Expression, Group, Number, Operation, parse_expression
from reasoner.data.rows import Item, SourceConfig, need, read_rows
from reasoner.tree import Problem
from verifiers import verify
from verifiers.arithmetic_steps import check_steps

_CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
# not inside a word (3rd), a fraction, a date, a percentage or a longer number
_NUMBER = re.compile(r"(?<![\w./,:%-])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w%/:]|[.,]\d|-\d| ?%| percent)")
# what words stand for in calculations, where it is not written as a number
_ANY_NUMBER = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?!\d|[.,]\d)")
_IMPLIED: dict[int, str] = {
    1: "one first", 2: "two half halves twice double doubled doubling pair pairs couple both second weekend weekends",
    3: "three third thirds triple tripled thrice yard yards", 4: "four quarter quarters fourth month months gallon gallons",
    5: "five fifth fifths weekday weekdays nickel nickels", 6: "six sixth", 7: "seven week weeks seventh", 8: "eight eighth",
    9: "nine", 10: "ten tenth dime dimes decade decades", 11: "eleven",
    12: "twelve dozen dozens year years annual annually foot feet inch inches", 15: "fifteen", 16: "pound pounds ounce ounces",
    20: "twenty score", 24: "day days daily", 25: "quarter quarters", 28: "february", 30: "thirty month months", 36: "yard yards",
    40: "forty", 50: "fifty half", 52: "year years", 60: "sixty hour hours hourly minute minutes",
    100: "hundred percent percentage dollar dollars cent cents century meter meters", 365: "year years",
    1000: "thousand kilometer kilometers kilogram kilograms liter liters gram grams",
}  # fmt: skip
_COMMON = frozenset(map(Fraction, range(1, 13)))  # constants that need no word
_MAX_VALUE = 10**6
_TRIES = 100


class Dropped(Exception):
    """Why a row gives no new problem; the argument is the reason, by which they are counted."""


class Variant(NamedTuple):
    """A new problem with its working, calculations in marks, and its answer."""

    question: str
    solution: str
    answer: str


def varied(config: SourceConfig) -> Iterator[Item]:
    """Word problems of a file of GSM8K's form, or of its training set, with other numbers.

    The i-th problem is made from row i modulo their number; what gives none is counted in a warning.
    """
    every = config.model_copy(update={"start": 0, "size": _MAX_VALUE})
    rows = list(read_rows(every, "openai/gsm8k", "main"))
    dropped: Counter[str] = Counter()
    for i in range(config.start, config.start + config.size if rows else 0):
        row = rows[i % len(rows)]
        need(row, ("question", "answer"), config, i % len(rows))
        try:
            made = variant(
                row["question"], row["answer"], random.Random(f"{i // len(rows)} {row['question']}")
            )
        except Dropped as reason:
            dropped[str(reason)] += 1
            continue
        yield Item(
            Problem(
                id=f"varied/{i}",
                prompt=made.question,
                verifier="math",
                reference={"answer": made.answer},
                domain=config.domain or "varied",
                source="openai/gsm8k, other numbers",
                licence="MIT",
            ),
            _CALCULATION.sub("", made.solution),
        )
    if dropped:
        told = ", ".join(f"{num:,} {reason}" for reason, num in dropped.most_common())
        warnings.warn(
            f"of {config.size:,} problems with other numbers {dropped.total():,} are dropped: {told}",
            stacklevel=1,
        )


def variant(question: str, solution: str, rng: random.Random) -> Variant:
    """The problem with other numbers; Dropped where the formula is not plain or no draw gives a sensible problem."""
    formula = _Formula(question, solution)
    if formula.written({}) != (question, solution):
        raise Dropped("cannot be written as it was")
    reason = "have no sensible other numbers"
    for _ in range(_TRIES):
        drawn = {value: _other(value, rng) for value in formula.free}
        try:
            new = formula.worked_out(drawn)
            text, working = formula.written(new)
        except Dropped as problem:
            reason = str(problem)
            continue
        made = Variant(text, working, working.rpartition("####")[2].strip().replace(",", ""))
        if not agreed(made, new[formula.results[-1]]):
            raise Dropped("are read otherwise by the verifiers")
        return made
    raise Dropped(reason)


class _Formula:
    """What a row's numbers stand for: `free` ones may change, `results` follow from them, all others stay."""

    def __init__(self, question: str, solution: str):
        self.question, self.solution = question, solution
        self.expressions: list[Expression] = []
        self.results: list[Fraction] = []
        in_question = Counter(_value(found) for found in _ANY_NUMBER.finditer(question))
        plain = {_value(found) for found in _NUMBER.finditer(question)}
        used: set[Fraction] = set()
        for text, result in _CALCULATION.findall(solution):
            try:
                self.expressions.append(parse_expression(text))
                value = Fraction(result.replace(",", "").strip())
            except (ValueError, ZeroDivisionError):
                raise Dropped("have a calculation that cannot be read") from None
            if _worked(self.expressions[-1], {}) != value:
                raise Dropped("have a calculation that is not exact")
            used |= set(_leaves(self.expressions[-1])) - set(self.results)
            self.results.append(value)
        if not self.results:
            raise Dropped("have no calculation in marks")
        answer = solution.rpartition("####")[2].strip().replace(",", "")
        if not answer.lstrip("-").replace(".", "", 1).isdigit() or Fraction(answer) != self.results[-1]:
            raise Dropped("end in another answer than their last calculation")
        words = set(re.findall(r"[a-z]+", f"{question} {solution}".lower()))
        implied = {Fraction(value) for value, names in _IMPLIED.items() if words & set(names.split())}
        taken = implied | {v for v, num in in_question.items() if num > 1}
        if len(set(self.results)) < len(self.results) or set(self.results[:-1]) & (
            implied | set(in_question) | _COMMON
        ):
            raise Dropped("have a result of the value of another number")
        constants = implied | _COMMON | {Fraction(100)}
        told = {_value(found) for found in _ANY_NUMBER.finditer(solution)}
        if used - set(in_question) - constants or told - set(in_question) - used - set(self.results):
            raise Dropped("have a number from nowhere")
        self.free = sorted(
            v
            for v in (used & plain) - taken - set(self.results)
            if v.denominator == 1 and v > 2 and not 1900 <= v < 2100
        )
        if not self.free:
            raise Dropped("have no number whose part is plain")

    def worked_out(self, drawn: Mapping[Fraction, Fraction]) -> dict[Fraction, Fraction]:
        """Old values to new ones, results among them: whole and positive where they were."""
        new = dict(drawn)
        for expression, old in zip(self.expressions, self.results, strict=True):
            value = _worked(expression, new)
            if (
                value is None
                or not 0 < value < _MAX_VALUE
                or (old > 0 and old.denominator == 1 != value.denominator)
            ):
                raise Dropped("have no sensible other numbers")
            new[old] = value
        return new

    def written(self, new: Mapping[Fraction, Fraction]) -> tuple[str, str]:
        """Question and solution with the new values in the places of the old ones."""

        def put(found: re.Match) -> str:
            old = _value(found)
            return _as(found[0], new[old]) if old in new and new[old] != old else found[0]

        return _NUMBER.sub(put, self.question), _ANY_NUMBER.sub(put, self.solution)


def agreed(made: Variant, result: Fraction) -> bool:
    """Whether the verifiers' own reading of the new text comes to the same: every calculation, and the answer."""
    lines = [f"{a}={b}" for a, b in _CALCULATION.findall(made.solution)]
    steps = check_steps("\n".join(lines))
    if len(steps) != len(lines) or not all(step.right for step in steps):
        return False
    answer = str(result.numerator) if result.denominator == 1 else f"{float(result)}"
    return verify("math", _CALCULATION.sub("", made.solution), {"answer": answer}).status == "correct"


def _worked(e: Expression, new: Mapping[Fraction, Fraction]) -> Fraction | None:
    """The exact value with the new numbers; None for a division by zero."""
    match e:
        case Number(value):
            return new.get(Fraction(value), Fraction(value))
        case Group(inner, negative):
            found = _worked(inner, new)
            return -found if negative and found is not None else found
        case Operation(operator, left, right):
            a, b = _worked(left, new), _worked(right, new)
            if a is None or b is None or (operator == "/" and b == 0):
                return None
            return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[
                operator
            ]()
    raise Dropped("have a calculation that cannot be read")


def _leaves(e: Expression) -> Iterator[Fraction]:
    match e:
        case Number(value):
            yield Fraction(value)
        case Group(inner, _):
            yield from _leaves(inner)
        case Operation(_, left, right):
            yield from _leaves(left)
            yield from _leaves(right)


def _value(found: re.Match) -> Fraction:
    return Fraction(found[0].replace(",", ""))


def _as(old: str, value: Fraction) -> str:
    """A number in the form of another: thousands grouped where they were, as many decimals or none."""
    places = len(old.partition(".")[2])
    if (value * 10**places).denominator != 1:
        if places or (value * 100).denominator != 1:
            raise Dropped("have no sensible other numbers")
        places = 2
    grouped = "," if "," in old else ""
    return format(value.numerator, f"{grouped}d") if not places else f"{float(value):{grouped}.{places}f}"


def _other(value: Fraction, rng: random.Random) -> Fraction:
    """Another whole number of the same size; round ones stay round."""
    step = next(s for s in (1000, 100, 10, 5, 1) if value % s == 0)
    low, high = max(1, round(value / 2 / step)), max(3, round(value * 2 / step))
    return Fraction(step * rng.choice([n for n in range(low, high + 1) if n * step != value]))
