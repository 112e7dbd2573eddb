"""Answers as written, brought to one spelling; and the exact numbers among them.

Nothing here is evaluated and nothing grows: a number is read into a Fraction only within the
budgets below, and a text that is no number is simply None.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_ANSWER_CHARS = 2_000
MAX_DIGITS = 1_000
MAX_POWER_OF_TEN = 400

_CONFUSABLES = str.maketrans(
    {
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "−": "-", "–": "-", "—": "-", "﹣": "-", "－": "-", "＋": "+", "．": ".", "，": ",", "／": "/",
        "＝": "=", "（": "(", "）": ")", "％": r"\%", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ",
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "½": r"\frac{1}{2}", "\u00a0": " ",
        "\u2009": " ", "\u202f": " ", "\u200b": "", "’": "'", "。": ".",
    }
)  # fmt: skip
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:!> \n]|(?:quad|qquad|displaystyle|limits|left|right|[bB]ig[lr]?)(?![a-zA-Z]))|~|&nbsp;"
)
_FRACTION_COMMAND = re.compile(r"\\[dtc]?frac(?![a-zA-Z])")
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|normal)?|mbox|math(?:rm|bf|it)|operatorname)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b|\\circ\b")
_NO_MEANING = re.compile(r"^\s*\\(?:approx|sim)(?![a-zA-Z])|\\[hv]?phantom(?![a-zA-Z])")
_NEGATIVE_SPACE = re.compile(r"\\!\s*")
# "\\frac" with two backslashes, out of a string that was escaped twice.
_DOUBLED = re.compile(r"\\(?=\\[a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")
_WRAPPERS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), (r"\boxed{", "}"),
)  # fmt: skip
_SPACES = re.compile(r"\s+")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:[ ][0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
# Words, at most four, none of them a connective: "5 or 6" is two answers, not 5 of a unit.
_WORD = r"(?!(?:or|and|not|but|to)\b)[A-Za-z]{1,20}\.?"
_UNIT = rf"{_WORD}(?:[ ]?[ /-][ ]?{_WORD}){{0,3}}(?:[ ]?\^?\{{?[23]\}}?|[²³])?"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>\\?[$€£])?\s*(?P<inner_sign>-?)
    (?: (?P<whole>[0-9]{{1,9}})?\s*\\frac\s*\{{\s*(?P<tex_sign>-?)(?P<top>{_DIGITS})\s*\}}
        \s*\{{\s*(?P<bottom>{_DIGITS})\s*\}}
      | (?P<plain_whole>[0-9]{{1,9}})\s+(?P<plain_top>[0-9]{{1,9}})\s*/\s*(?P<plain_bottom>[0-9]{{1,9}})
      | (?P<left>{_DIGITS})\s*/\s*(?P<over_sign>-?)(?P<right>{_DIGITS})
      | (?P<digits>{_DIGITS})
        (?: [eE](?P<exponent>[-+]?[0-9]{{1,4}})
          | \s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*(?P<power>-?[0-9]{{1,4}})\s*\}}? )?
    )
    \s*(?P<unit>\\?%|\\?[$€£]|\^\\circ\b|{_UNIT}|)\s*""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number and its unit in one spelling ("" = none; "%" leaves the value as written)."""

    value: Fraction
    unit: str


def canonical(answer: str) -> str:
    r"""The answer without the dress: wrappers, spacing commands, \text, \dfrac, trailing dots.

    The caller has checked the length (MAX_ANSWER_CHARS).
    """
    text = answer.translate(_CONFUSABLES).strip()
    text = _unwrap(text).replace("{,}", ",")
    if "\\" in text or "~" in text or "&" in text:
        text = _DOUBLED.sub("", text) if r"\begin" not in text else text
        text = _NEGATIVE_SPACE.sub("", text)
        text = _NO_MEANING.sub(" ", text)
        text = _SPACING.sub(" ", text)
        text = _FRACTION_COMMAND.sub(r"\\frac", text)
        text = _DEGREES.sub(r"^\\circ ", text)
        text = _TEXT_COMMAND.sub(r" \1 ", text)
        text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _SPACES.sub(" ", text).strip()
    while text.endswith((".", ";", ",")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    return _unwrap(text)


def _unwrap(text: str) -> str:
    for _ in range(4):
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                # "$5$ or $6$" is not one wrapped answer.
                if left in inner or (right in inner):
                    continue
                text = inner.strip()
                break
        else:
            return text
    return text


def quantity(text: str) -> Quantity | None:
    """The exact number (with its unit) that a canonical text is; None where it is no plain number."""
    if len(text) > MAX_DIGITS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    if part["digits"] is not None:
        power = int(part["exponent"] or part["power"] or 0)
        if abs(power) > MAX_POWER_OF_TEN:
            return None
        value = _decimal(part["digits"]) * Fraction(10) ** power
    else:
        top = part["top"] or part["plain_top"] or part["left"]
        bottom = _decimal(part["bottom"] or part["plain_bottom"] or part["right"])
        if bottom == 0:
            return None
        value = _decimal(top) / bottom
        if part["tex_sign"] or part["over_sign"]:
            if part["whole"]:
                return None
            value = -value
        whole = part["whole"] or part["plain_whole"]
        value += int(whole) if whole else 0
    if part["sign"] == "-":
        value = -value
    if part["inner_sign"]:
        if part["sign"] or not part["currency"]:
            return None
        value = -value
    unit = unit_name(part["unit"])
    currency = (part["currency"] or "").removeprefix("\\")
    if currency and unit not in ("", currency):
        # "$5 million" and "$5 per hour" are left to the comparison of texts.
        return None
    return Quantity(value, currency or unit)


def _decimal(digits: str) -> Fraction:
    whole, _, decimals = digits.replace(",", "").replace(" ", "").partition(".")
    return Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))


_UNITS = {
    "%": "% percent pct percentage percents",
    "$": "$ dollar dollars usd",
    "€": "€ euro euros eur",
    "£": "£ pound_sterling gbp",
    "cent": "cent cents ¢",
    "degree": "^\\circ degree degrees deg",
    "radian": "radian radians rad",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mile": "mile miles mi",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "mph": "mph miles_per_hour",
}
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_AREA = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


def unit_name(written: str) -> str:
    """One spelling of a unit: "centimeters" → "cm", "square feet" → "ft^2"; unknown words stay."""
    written = written.strip().removeprefix("\\").replace("²", "^2").replace("³", "^3").rstrip(".")
    if written == "^circ" or written == "^\\circ":
        return "degree"
    name = written.lower().replace("{", "").replace("}", "")
    words = name.split()
    if len(words) == 2 and words[0] in _AREA:
        return _UNIT_OF.get(words[1], words[1]) + _AREA[words[0]]
    base, _, power = name.partition("^")
    if power:
        return f"{_UNIT_OF.get(base, base)}^{power}"
    # "apple" and "apples" are one unit.
    return _UNIT_OF.get(name.replace(" ", "_"), name.removesuffix("s"))


def same_quantity(gold: Quantity, answer: Quantity, slack: Fraction = Fraction(0)) -> bool:
    """Equal numbers (but for `slack`) whose units do not contradict each other.

    A unit missing on one side is taken as implied by the question, except that 3% is not 3; where
    both sides name one, it has to be the same (10 cm is not 10 m).
    """
    if slack and (gold.unit == answer.unit or not gold.unit or not answer.unit):
        return abs(gold.value - answer.value) <= slack
    if gold.unit == answer.unit:
        return gold.value == answer.value
    if answer.unit == "%":
        return gold.unit == "" and gold.value == answer.value / 100
    if gold.unit == "%":
        return answer.unit == "" and answer.value in (gold.value, gold.value / 100)
    return (not gold.unit or not answer.unit) and gold.value == answer.value
