"""Answers as written, brought to one spelling; and the exact numbers among them.

Nothing here is evaluated and nothing grows: a number is read into a Fraction only within the
budgets below, and a text that is no number is simply None.
"""

# ruff: noqa: SIM905 - long word lists read better as words
import re
from dataclasses import dataclass
from fractions import Fraction

from verifiers.unicode_math import in_tex
from verifiers.units import LETTERS, MAGNITUDES, counted, is_label, is_letter, unit_of

MAX_ANSWER_CHARS = 2_000
MAX_DIGITS = 1_000
MAX_POWER_OF_TEN = 400

_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:!> \n]|(?:quad|qquad|displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?)(?![a-zA-Z]))"
    r"|~|&nbsp;|\\boldsymbol(?![a-zA-Z])"
)
_FRACTION_COMMAND = re.compile(r"\\[dtc]?frac(?![a-zA-Z])")
_TEXT_COMMAND = re.compile(
    r"\\(text(?:bf|it|rm|tt|sf|up|normal)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname|bm|emph)\*?\s*\{([^{}]*)\}"
    r"(\s?\^\s?\{?-?[1-4](?![0-9])\}?)?"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])")
_NO_MEANING = re.compile(
    r"^\s*\\(?:approx|sim|simeq|Rightarrow|implies|therefore)(?![a-zA-Z])|\\[hv]?phantom(?![a-zA-Z])"
)
_NEGATIVE_SPACE = re.compile(r"\\!\s*")
# "\\frac" with two backslashes, out of a string that was escaped twice.
_DOUBLED = re.compile(r"\\(?=\\[a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")
_REPEATING = re.compile(
    r"(?<![0-9.])([0-9]{0,15})\.([0-9]{0,15})\\(?:overline|bar|dot)\s*(?:\{\s*([0-9]{1,15})\s*\}|([0-9]))(?![0-9])"
)
_MODULUS = re.compile(r"\(\s*\\?(?:mod|bmod)\s+([0-9a-z]{1,20})\s*\)")
_SPELLED_SIGNS = re.compile(r"\^\s*\{?\s*\\prime\s*\}?|\\([lr]brac[ek])(?![a-zA-Z])")
_SIGN_OF = {"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]"}
_NOON = re.compile(r"\b([apAP])\.\s?([mM])\b\.?")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{")  # fmt: skip
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SPACES = re.compile(r"\s+")
_TO = re.compile(r"^([0-9]{1,9}) to ([0-9]{1,9})$")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?:[ ][0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>\\?[$€£¥₹])?\s*(?P<inner_sign>-?)
    (?: (?P<whole>[0-9]{{1,9}})?\s*\\frac\s*\{{\s*(?P<tex_sign>-?)(?P<top>{_DIGITS})\s*\}}
        \s*\{{\s*(?P<bottom>{_DIGITS})\s*\}}
      | (?P<plain_whole>[0-9]{{1,9}})\s+(?P<plain_top>[0-9]{{1,9}})\s*/\s*(?P<plain_bottom>[0-9]{{1,9}})
      | (?P<left>{_DIGITS})\s*/\s*(?P<over_sign>-?)(?P<right>{_DIGITS})
      | (?P<digits>{_DIGITS})
        (?: [eE](?P<exponent>[-+]?[0-9]{{1,4}})
          | \s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*(?P<power>-?[0-9]{{1,4}})\s*\}}? )?
    )
    (?P<space>\s*)(?P<unit>[A-Za-z\\%$€£¥₹¢µΩÅ/^(][^=<>,;&_0-9]{{0,40}}(?:\^\{{?-?[1-4]\}}?)?|)\s*""",
    re.VERBOSE,
)
# Words that say what a sign says.
_SAID = {
    "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "the real numbers": r"\mathbb{R}",
    "real numbers": r"\mathbb{R}", "empty set": r"\emptyset", "the empty set": r"\emptyset",
    "dne": "does not exist", "negative infinity": r"-\infty", "positive infinity": r"\infty",
}  # fmt: skip
_CURRENCIES = "$€£¥₹"
_ONES = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = dict(zip(["zero", *_ONES, *_TEENS], map(Fraction, range(20)), strict=True))
for _ten, _word in enumerate(_TENS, start=2):
    _SPELLED |= {_word: Fraction(10 * _ten)} | {
        f"{_word}-{one}": Fraction(10 * _ten + n) for n, one in enumerate(_ONES, start=1)
    }


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number and its unit in one spelling.

    unit: "" = none; "%" leaves the value as written; "?" begins one that may be no unit at all: a
    letter that could be a variable ("5 m"), a word that is not in the list ("5 blinks").
    """

    value: Fraction
    unit: str


def canonical(answer: str) -> str:
    r"""The answer without the dress: wrappers, spacing commands, \text, \dfrac, trailing dots.

    The caller has checked the length (MAX_ANSWER_CHARS).
    """
    text = _unwrap(in_tex(answer).strip()).replace("{,}", ",")
    if text.count("$") > 1:
        text = _without_dollars(text)
    if "\\" in text or "~" in text or "&" in text:
        text = _DOUBLED.sub("", text) if r"\begin" not in text else text
        text = _NEGATIVE_SPACE.sub("", text)
        text = _NO_MEANING.sub(" ", text)
        text = _SPACING.sub(" ", text)
        text = _FRACTION_COMMAND.sub(r"\\frac", text)
        text = _DEGREES.sub(r"^\\circ ", text)
        text = _TEXT_COMMAND.sub(_plain_words, text)
        text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
        text = _REPEATING.sub(_repeating, text)
        if r"\prime" in text or "brac" in text:
            text = _SPELLED_SIGNS.sub(lambda match: _SIGN_OF.get(match.group(1), "'"), text)
    if "mod" in text:
        text = _MODULUS.sub(r"\\pmod{\1}", text)
    if "m." in text or "M." in text:
        text = _NOON.sub(r"\1\2", text)
    text = _SPACES.sub(" ", text).strip()
    while text.endswith((".", ";", ",")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    text = _unwrap(text)
    text = _SAID.get(text.lower(), text) if text.isascii() and text[:1].isalpha() else text
    return _TO.sub(r"\1:\2", text) if " to " in text else text


def _unwrap(text: str) -> str:
    for _ in range(4):
        box = _BOX.match(text)
        if box and text.endswith("}") and _is_one_group(text[box.end() : -1]):
            text = text[box.end() : -1].strip()
            continue
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


def _is_one_group(inside: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(inside):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return False
    return depth == 0


def _without_dollars(text: str) -> str:
    """ "$12$ and $13$" as "12 and 13": signs in pairs open and close formulas."""
    plain = text.replace(r"\$", "\x00")
    if plain.count("$") > 1 and plain.count("$") % 2 == 0:
        plain = plain.replace("$", " ")
    return plain.replace("\x00", r"\$")


def _plain_words(match: re.Match) -> str:
    r"""What \text{...} says: behind a value a unit in full, or (what is counted); else its words."""
    command, words, power = match.group(1), match.group(2).strip(), match.group(3) or ""
    before = match.string[max(0, match.start() - 5) : match.start()].rstrip()[-1:]
    behind_value = before.isdigit() or before in ("}", ")")
    if before and (behind_value or len(words) > 1) and not command.endswith(("bf", "it")):
        unit = unit_of(words + power.replace(" ", ""))
        if unit is not None:
            return f" {unit} "
        if behind_value and not power and is_label(words):
            return f" ({words}) "
    return f" {words} {power}"


def _repeating(match: re.Match) -> str:
    r"""0.1\overline{6} as \frac{15}{90}."""
    whole, fixed, block = match.group(1), match.group(2), match.group(3) or match.group(4)
    top = int(whole + fixed + block) - int(whole + fixed or "0")
    return rf"\frac{{{top}}}{{{'9' * len(block) + '0' * len(fixed)}}}"


def quantity(text: str) -> Quantity | None:
    """The exact number (with its unit) that a canonical text is; None where it is no plain number."""
    if len(text) > MAX_DIGITS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        value = _SPELLED.get(text.lower())
        return None if value is None else Quantity(value, "")
    part = match.groupdict()
    value = _value(part)
    if value is None:
        return None
    currency = (part["currency"] or "").removeprefix("\\")
    if not part["unit"]:
        return Quantity(value, currency)
    times, unit = _magnitude_and_unit(part["unit"].strip(), currency)
    if unit and part["space"] and (part["exponent"] or part["power"]):
        unit = unit.removeprefix("?")  # behind 1.6e-19 a letter is a unit
    return None if unit is None else Quantity(value * times, unit)


def _value(part: dict) -> Fraction | None:
    """The number of a match of _NUMBER; None where it has none."""
    if part["digits"] is not None:
        power = int(part["exponent"] or part["power"] or 0)
        if abs(power) > MAX_POWER_OF_TEN:
            return None
        value = _decimal(part["digits"]) * Fraction(10) ** power if power else _decimal(part["digits"])
    else:
        bottom = _decimal(part["bottom"] or part["plain_bottom"] or part["right"])
        if bottom == 0:
            return None
        value = _decimal(part["top"] or part["plain_top"] or part["left"]) / bottom
        if part["tex_sign"] or part["over_sign"]:
            if part["whole"]:
                return None
            value = -value
        whole = part["whole"] or part["plain_whole"]
        value += int(whole) if whole else 0
    if part["inner_sign"]:
        if part["sign"] or not part["currency"]:
            return None
        value = -value
    return -value if part["sign"] == "-" else value


def _magnitude_and_unit(phrase: str, currency: str) -> tuple[int, str | None]:
    """(1000000, "$") of "million dollars"; the unit None where the words may be part of the value."""
    times = 1
    first, _, rest = phrase.partition(" ")
    while first.lower() in MAGNITUDES and times < 10**30:
        times, phrase = times * MAGNITUDES[first.lower()], rest
        first, _, rest = phrase.partition(" ")
    if not phrase:
        return times, currency
    if phrase[0] == "(":
        words = phrase[1:-1].strip()
        unit = unit_of(words) or (counted(words) if phrase[-1] == ")" and is_label(words) else None)
        return times, None if currency else unit
    unit = unit_of(phrase)
    if currency:
        return times, unit if unit in (currency, None) else unit_of(f"{currency} {phrase}")
    if unit is None:
        return times, f"?{counted(phrase)}" if is_label(phrase) else None
    return times, f"?{unit}" if is_letter(phrase) else unit


def _decimal(digits: str) -> Fraction:
    whole, _, decimals = digits.replace(",", "").replace(" ", "").partition(".")
    return Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))


def same_quantity(gold: Quantity, answer: Quantity, slack: Fraction = Fraction(0)) -> bool:
    """Equal numbers (but for `slack`) whose units do not contradict each other.

    A listed unit missing on one side is taken as implied by the question; where both sides name
    one, it has to be the same (10 cm is not 10 m). A word that may be no unit has to stand on both
    sides, but for one of the gold's own ("5 blinks"; not a letter, "5 m"). Percent: 25%, 25 and 0.25
    say the same, whichever side has the sign; 25 and 0.25 do not.
    """
    if not same_units(gold.unit, answer.unit):
        return False
    if "%" in (gold.unit, answer.unit) and gold.unit != answer.unit:
        per_cent, plain = (gold, answer) if gold.unit == "%" else (answer, gold)
        return any(abs(plain.value - value) <= slack for value in (per_cent.value, per_cent.value / 100))
    return abs(gold.value - answer.value) <= slack


def same_units(gold: str, answer: str) -> bool:
    """Do two units not contradict each other? See same_quantity."""
    if gold == answer:
        return True
    if gold.startswith("?") or answer.startswith("?"):
        if not answer:
            return gold.removeprefix("?") not in LETTERS
        return bool(gold) and gold.removeprefix("?") == answer.removeprefix("?")
    if not gold or not answer:
        return True
    if gold.startswith("unit") or answer.startswith("unit"):
        return not (gold.startswith("unit") and answer.startswith("unit"))
    # "$32" and "$32 per hour": what a price is for is the question's.
    return gold[0] in _CURRENCIES and gold.partition("/")[0] == answer.partition("/")[0] and "" in (
        gold.partition("/")[2], answer.partition("/")[2]
    )  # fmt: skip
