"""What the numbers of a worked word problem stand for: which may change, which follow from them, and which stay.

A row is one of GSM8K's form: a question, and a solution whose calculations stand in marks, <<48/2=24>>. What a number stands
for has to be plain: where two of them have one value, the row is left out.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from reasoner.data.demonstrator import Expression, Group, Number, Operation, parse_expression
from reasoner.data.ways import Dropped
from verifiers import verify
from verifiers.arithmetic_steps import check_steps

CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
# not inside a word (3rd), a fraction, a date, a percentage or a longer number
NUMBER = re.compile(r"(?<![\w./,:%-])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w%/:]|[.,]\d|-\d| ?%| percent)")
# what words stand for in calculations, where it is not written as a number
ANY_NUMBER = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?!\d|[.,]\d)")
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
_PATTERN = re.compile(r"\bthis (?:\w+ )?pattern\b")  # 2, 4, 8 that go on: no single one of them is free
MAX_VALUE = 10**6


class Working(NamedTuple):
    """The calculations of a solution, in order."""

    expressions: list[Expression]
    results: list[Fraction]


def read_working(solution: str) -> Working:
    """The calculations in marks, each of them exact and the last one the answer; Dropped for any other solution."""
    found = Working([], [])
    for text, result in CALCULATION.findall(solution):
        try:
            found.expressions.append(parse_expression(text))
            value = Fraction(result.replace(",", "").strip())
        except (ValueError, ZeroDivisionError):
            raise Dropped("have a calculation that cannot be read") from None
        if worked(found.expressions[-1], {}) != value:
            raise Dropped("have a calculation that is not exact")
        found.results.append(value)
    if not found.results:
        raise Dropped("have no calculation in marks")
    answer = answer_of(solution)
    if not answer.lstrip("-").replace(".", "", 1).isdigit() or Fraction(answer) != found.results[-1]:
        raise Dropped("end in another answer than their last calculation")
    return found


def answer_of(solution: str) -> str:
    """What stands behind the last ####, without commas."""
    return solution.rpartition("####")[2].strip().replace(",", "")


def without_answer(solution: str) -> str:
    """The working alone."""
    return solution.rpartition("####")[0].strip()


class Formula:
    """What a row's numbers stand for: `free` ones may change, `results` follow from them, all others stay."""

    def __init__(self, question: str, solution: str):
        self.question, self.solution = question, solution
        self.expressions, self.results = read_working(solution)
        in_question = Counter(map(value_of, ANY_NUMBER.finditer(question)))
        plain = set(map(value_of, NUMBER.finditer(question)))
        used: set[Fraction] = set()
        for n, expression in enumerate(self.expressions):
            used |= set(leaves(expression)) - set(self.results[:n])
        if _PATTERN.search(question.lower()):
            raise Dropped("go by a pattern of their numbers")
        words = set(re.findall(r"[a-z]+", f"{question} {solution}".lower()))
        implied = {Fraction(value) for value, names in _IMPLIED.items() if words & set(names.split())}
        taken = implied | {v for v, num in in_question.items() if num > 1}
        if len(set(self.results)) < len(self.results) or set(self.results[:-1]) & (
            implied | set(in_question) | _COMMON
        ):
            raise Dropped("have a result of the value of another number")
        constants = implied | _COMMON | {Fraction(100)}
        told = {value_of(found) for found in ANY_NUMBER.finditer(solution)}
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
            value = worked(expression, new)
            if (
                value is None
                or not 0 < value < MAX_VALUE
                or (old > 0 and old.denominator == 1 != value.denominator)
            ):
                raise Dropped("have no sensible other numbers")
            new[old] = value
        return new

    def written(self, new: Mapping[Fraction, Fraction]) -> tuple[str, str]:
        """Question and solution with the new values in the places of the old ones."""

        def put(found: re.Match) -> str:
            old = value_of(found)
            return _as(found[0], new[old]) if old in new and new[old] != old else found[0]

        return NUMBER.sub(put, self.question), ANY_NUMBER.sub(put, self.solution)


def agreed(solution: str, answer: Fraction) -> bool:
    """Whether the verifiers' own reading of the solution comes to the answer: every calculation in marks, and what it ends in."""
    lines = [f"{a}={b}" for a, b in CALCULATION.findall(solution)]
    steps = check_steps("\n".join(lines))
    if len(steps) != len(lines) or not all(step.right for step in steps):
        return False
    return verify("math", CALCULATION.sub("", solution), {"answer": told(answer)}).status == "correct"


def told(value: Fraction) -> str:
    """A number as it is written; Dropped where it is no decimal of up to four places."""
    if value.denominator == 1:
        return str(value.numerator)
    if (value * 10**4).denominator != 1:
        raise Dropped("have no sensible other numbers")
    return f"{float(value):.4f}".rstrip("0")


def worked(e: Expression, new: Mapping[Fraction, Fraction]) -> Fraction | None:
    """The exact value with the new numbers; None for a division by zero."""
    match e:
        case Number(value):
            return new.get(Fraction(value), Fraction(value))
        case Group(inner, negative):
            found = worked(inner, new)
            return -found if negative and found is not None else found
        case Operation(operator, left, right):
            a, b = worked(left, new), worked(right, new)
            if a is None or b is None or (operator == "/" and b == 0):
                return None
            return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[
                operator
            ]()
    raise Dropped("have a calculation that cannot be read")


def leaves(e: Expression) -> Iterator[Fraction]:
    """The numbers of an expression, from left to right."""
    match e:
        case Number(value):
            yield Fraction(value)
        case Group(inner, _):
            yield from leaves(inner)
        case Operation(_, left, right):
            yield from leaves(left)
            yield from leaves(right)


def value_of(found: re.Match) -> Fraction:
    """Of a number in a text."""
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


def other(value: Fraction, rng: random.Random) -> Fraction:
    """Another whole number of the same size; round ones stay round."""
    step = next(s for s in (1000, 100, 10, 5, 1) if value % s == 0)
    low, high = max(1, round(value / 2 / step)), max(3, round(value * 2 / step))
    return Fraction(step * rng.choice([n for n in range(low, high + 1) if n * step != value]))
