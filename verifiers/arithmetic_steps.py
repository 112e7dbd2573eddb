"""Written arithmetic, line by line: is "a op b = c" true, and are its operands known?

A line that begins with "=" goes on from the line before it, the first one from the problem.

The checker is a small hand-written parser over exact rationals. Nothing of the text is evaluated
by Python, and what could grow without bound (length, digits, nesting) has a budget.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from verifiers.extract import final_answer
from verifiers.verdict import Verdict

MAX_LINE_CHARS = 2_000
MAX_DIGITS = 400
MAX_DEPTH = 40
MAX_TOKENS = 400

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "$": " "})
_TEX_SIGNS = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\%": "%", r"\left": "", r"\right": ""}
_TEX_SIGN = re.compile("|".join(re.escape(sign) for sign in _TEX_SIGNS))
_LABEL = re.compile(r"\s*(?:step\s{0,3}\d{1,4}\s{0,3}[:.)]|[-*]\s+(?=\S))\s*", re.IGNORECASE)
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|([-+*/%()]))")
# between the arguments of a function a comma parts numbers and never groups thousands
_TOKEN_OF_CALLS = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(gcd|lcm|[-+*/%(),]))")
_PLAIN = re.compile(r"\s*(-?[0-9]{1,18}) ?([-+*/%]) ?(-?[0-9]{1,18}) ?= ?(-?[0-9]{1,18})\s*")
_ARITHMETIC = re.compile(r"(?:[0-9\s.,+\-*/%()=]|gcd|lcm)*\Z")
_FUNCTIONS = {"gcd": gcd, "lcm": lcm}
_SIGNED_NUMBER = re.compile(rf"(-\s*)?({_NUMBER})")

Number = int | Fraction


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """One non-empty line of a response; response[start:end] == text.

    right: None where the line is no calculation. why: "" for a right step, else one of
    "no calculation", "unreadable", "unknown operand", "division by zero", "over budget", "wrong".
    """

    text: str
    start: int
    end: int
    right: bool | None
    why: str


class _Unreadable(Exception):
    """The expression is not in the grammar; the argument is the `why` of the step."""


def check_steps(response: str, problem: str | None = None) -> list[WrittenStep]:
    """Every non-empty line of the response, checked exactly.

    With a problem, each operand has to be a number of its text or the written result of an earlier
    line. A wrong result counts as known afterwards, so that one slip is reported once, where it is.
    """
    known = None if problem is None else _numbers_in(problem)
    before = _expression(problem) if problem is not None else None
    steps = []
    offset = 0
    for raw in response.split("\n"):
        text = raw.strip()
        if text:
            start = offset + raw.index(text[0])
            if text.startswith("="):
                right, why = _check_line(f"{before}{text}", None) if before else (None, "no calculation")
            else:
                right, why = _check_line(text, known)
            before = _expression(text.rpartition("=")[2]) or before
            steps.append(WrittenStep(text, start, start + len(text), right, why))
        offset += len(raw) + 1
    return steps


def _expression(text: str) -> str | None:
    """The text if it is an expression that a line may go on from, less a closing "="."""
    text = text.strip().removesuffix("=").rstrip()
    return text if text and "=" not in text and _ARITHMETIC.match(text) else None


def steps(
    response: str, answer: str | None = None, problem: str | None = None, extract: str = "auto"
) -> Verdict:
    """Correct where every calculation is right and, with an `answer`, the final answer too.

    Reference keys: answer, problem (its numbers are then the only operands known), extract (rule).
    The score is the share of calculations that are right. Without a calculation: no_answer.
    """
    checked = [step for step in check_steps(response, problem) if step.right is not None]
    if not checked:
        return Verdict("no_answer", "unparseable", detail="no line is a calculation")
    score = sum(step.right is True for step in checked) / len(checked)
    wrong = next((step for step in checked if not step.right), None)
    final = final_answer(response, extract)
    if answer is not None:
        from verifiers.math_answer import math

        on_answer = math(response, answer=answer, extract=extract)
        if on_answer.status in ("error", "no_answer"):
            return on_answer
        if on_answer.status == "incorrect" and wrong is None:
            return Verdict("incorrect", on_answer.reason, score, final, on_answer.detail)
    if wrong is not None:
        return Verdict("incorrect", "wrong", score, final, f"{wrong.why}: {wrong.text[:200]}")
    return Verdict("correct", "ok", 1.0, final)


steps.quick = steps


def unreadable(answer: str | None = None, extract: str = "auto", **others: object) -> str:
    """Why a reference can judge no response, "" where it can."""
    from verifiers.math_answer import unreadable as unreadable_answer

    return "" if answer is None else unreadable_answer(answer, extract)


steps.unreadable = unreadable


def _check_line(text: str, known: set[Number] | None) -> tuple[bool | None, str]:
    """(right, why) of one line; adds the line's written results to `known`."""
    plain = _PLAIN.fullmatch(text)
    if plain:
        return _check_plain(plain, known)
    if "=" not in text:
        return None, "no calculation"
    if len(text) > MAX_LINE_CHARS:
        # A line that is too long to be read could hold anything: never right, never skipped.
        return False, "over budget"
    text = text.translate(_SIGNS)
    if "\\" in text:
        text = _TEX_SIGN.sub(lambda match: _TEX_SIGNS[match.group()], text)
    label = _LABEL.match(text)
    text = (text[label.end() :] if label else text).rstrip(" .")
    if not _ARITHMETIC.match(text):
        return None, "no calculation"
    try:
        return _check_sides(text.split("="), known)
    except _Unreadable as problem:
        return False, str(problem)


def _check_plain(match: re.Match, known: set[Number] | None) -> tuple[bool, str]:
    """The common case, integers and one operator, without the parser."""
    left, sign, right, written = match.groups()
    a, b, c = int(left), int(right), int(written)
    operands_known = known is None or (a in known and b in known)
    if known is not None:
        known.add(c)
    if not operands_known:
        return False, "unknown operand"
    if sign == "+":
        true = a + b == c
    elif sign == "-":
        true = a - b == c
    elif sign == "*":
        true = a * b == c
    elif b == 0:
        return False, "division by zero"
    elif sign == "/":
        true = b * c == a
    else:
        true = a % b == c
    return true, "" if true else "wrong"


def _check_sides(sides: list[str], known: set[Number] | None) -> tuple[bool, str]:
    """Every side has the same value, and (but for the last) only known operands."""
    values: list[Number] = []
    worked_out: set[Number] = set()
    strange = False
    for position, side in enumerate(sides):
        parser = _Parser(side)
        values.append(parser.value())
        is_result = position == len(sides) - 1 and parser.operations == 0 and position > 0
        if known is not None and not is_result:
            strange = strange or any(n not in known and n not in worked_out for n in parser.operands)
            # "(3 + 4) * 2 = 7 * 2": a part worked out on this line may be used on this line.
            worked_out |= parser.parts
    if known is not None:
        known.update(values[1:] or values)
    if strange:
        return False, "unknown operand"
    true = all(value == values[0] for value in values)
    return true, "" if true else "wrong"


class _Parser:
    """One arithmetic expression: + - * / %, unary minus, parentheses, decimals, thousands.

    `%` is the remainder (sign of the divisor, as in Python) where an operand follows, else percent.
    """

    def __init__(self, text: str):
        self.tokens: list[str] = []
        at = 0
        text = text.rstrip()
        token = _TOKEN_OF_CALLS if "c" in text else _TOKEN
        while at < len(text):
            match = token.match(text, at)
            if match is None or len(self.tokens) >= MAX_TOKENS:
                raise _Unreadable("unreadable" if match is None else "over budget")
            # A minus that touches its number after a space is a sign, "17 % -5"; see _is_remainder.
            spaced = match.end() < len(text) and text[match.end()] == " "
            self.tokens.append("- " if match.group(2) == "-" and spaced else match.group(1) or match.group(2))
            at = match.end()
        self.at = 0
        self.depth = 0
        self.operations = 0
        self.operands: set[Number] = set()
        self.parts: set[Number] = set()

    def value(self) -> Number:
        """The exact value of the whole expression. Raises _Unreadable."""
        result = self._sum()
        if self.at < len(self.tokens):
            raise _Unreadable("unreadable")
        return result

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _sum(self) -> Number:
        result = self._product()
        while (sign := self._peek()) and sign in ("+", "-", "- "):
            self.at += 1
            other = self._product()
            result = self._part(result + other if sign == "+" else result - other)
        return result

    def _product(self) -> Number:
        result = self._signed()
        while (sign := self._peek()) and sign in "*/%":
            self.at += 1
            if sign == "%" and not self._is_remainder():
                result = self._part(_divide(result, 100))
                continue
            other = self._signed()
            if sign == "*":
                result = result * other
            elif sign == "/":
                result = _divide(result, other)
            else:
                if other == 0:
                    raise _Unreadable("division by zero")
                result = result % other
            self._part(result)
        return result

    def _is_remainder(self) -> bool:
        following = self._peek()
        return following == "-" or following == "(" or following[:1].isdigit() or following[:1] == "."

    def _signed(self) -> Number:
        negative = False
        while self._peek() in ("-", "- ", "+") and self._peek():
            negative ^= self._peek() != "+"
            self.at += 1
        token = self._peek()
        if not token:
            raise _Unreadable("unreadable")
        self.at += 1
        if token == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _Unreadable("over budget")
            inner = self._sum()
            if self._peek() != ")":
                raise _Unreadable("unreadable")
            self.at += 1
            self.depth -= 1
            return -inner if negative else inner
        if token in _FUNCTIONS:
            return -self._call(token) if negative else self._call(token)
        if token in "+-*/%(),":
            raise _Unreadable("unreadable")
        number = _read_number(token)
        number = -number if negative else number
        self.operands.add(number)
        return number

    def _call(self, name: str) -> Number:
        """gcd or lcm of two or more whole numbers."""
        arguments: list[int] = []
        closing = self._peek()
        self.depth += 1
        while closing in ("(", ","):
            self.at += 1
            if self.depth > MAX_DEPTH:
                raise _Unreadable("over budget")
            argument = self._sum()
            if not isinstance(argument, int):
                raise _Unreadable("unreadable")
            arguments.append(argument)
            closing = self._peek()
            if closing == "(":
                break
        if closing != ")" or len(arguments) < 2:
            raise _Unreadable("unreadable")
        self.at += 1
        self.depth -= 1
        return self._part(_FUNCTIONS[name](*arguments))

    def _part(self, value: Number) -> Number:
        if isinstance(value, Fraction) and value.denominator == 1:
            value = value.numerator
        if value.numerator.bit_length() > 4 * MAX_DIGITS or value.denominator.bit_length() > 4 * MAX_DIGITS:
            raise _Unreadable("over budget")
        self.operations += 1
        self.parts.add(value)
        return value


def _divide(left: Number, right: Number) -> Number:
    if right == 0:
        raise _Unreadable("division by zero")
    quotient = Fraction(left) / right
    return quotient.numerator if quotient.denominator == 1 else quotient


def _read_number(token: str) -> Number:
    """An unsigned decimal as an exact number; equal numbers have equal hashes, int or not."""
    if len(token) > MAX_DIGITS:
        raise _Unreadable("over budget")
    whole, _, decimals = token.replace(",", "").partition(".")
    if not decimals:
        return int(whole)
    return Fraction(int(whole + decimals), 10 ** len(decimals))


def _numbers_in(problem: str) -> set[Number]:
    """Every number of the text; one behind a minus counts as itself and as its negative.

    "12 - 7" may thus be continued as 12 + -7; "12 + 7" may not.
    """
    numbers: set[Number] = set()
    for minus, digits in _SIGNED_NUMBER.findall(problem[:100_000].translate(_SIGNS)):
        if len(digits) <= MAX_DIGITS:
            number = _read_number(digits)
            numbers.add(number)
            if minus:
                numbers.add(-number)
    return numbers
