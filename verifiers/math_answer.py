"""Math answers: is the final answer of a response the reference's?

Cheap and exact readings come first, in this process and with static budgets: one spelling of the
text, plain numbers, then trees compared in random prime fields. What needs computer algebra is
asked of killable children in the sandbox. Nothing of a response is ever evaluated by Python.
"""

import json
import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from verifiers import answer_compare, tex
from verifiers.answer_text import MAX_ANSWER_CHARS, canonical, quantity, same_quantity
from verifiers.extract import MAX_SCANNED_CHARS, final_answer, last_math
from verifiers.fields import NoImage, TooLarge, Undefined, rational
from verifiers.verdict import Verdict, failure
from verifiers.worked_out import calculation, is_worked_out

TIME_LIMIT_S = 0.5
_MAX_NESTING = 60
_NO_VALUE = frozenset(("nan", "zoo", "null"))
# What code would need and an answer would not; such text is refused unread.
_CODE = re.compile(r"__|(?<!\\)\blambda\b(?!\s*[=<>,^*+/-])|\bimport\b|\bexec\(|\beval\(|\(\)\.|\bopen\(")
# Words and nothing else, one of them longer than an abbreviation; or labels, "(1)(3)".
_PROSE = re.compile(
    r"(?:\([0-9a-z]\)[ ,]?){2,10}|(?=.*[A-Za-z]{4})(?!.*(?:sqrt|infty))[A-Za-z][A-Za-z ,.'-]*"
)
_FOREIGN = re.compile("[^\x00-\x7f£€¥₹¢]")
_SOME_ANSWER = "271828.5"
_CHOICE = frozenset("ABCDEFGHIJ")
_SECOND_CHOICE = re.compile(r"\b(?:or|and)\b|\([A-J]\)|\b[A-J][.:)]|[,/;] ?[A-J]\b")


def math(
    response: str,
    answer: str | int | float | list,
    extract: str = "auto",
    places: int | None = None,
    worked_out: bool = True,
) -> Verdict:
    """Compare the response's final answer with `answer`.

    Reference keys: answer (text or number; a list of them: any one of these), extract (a rule of
    verifiers.extract, default "auto"), places (rational numbers need to agree in so many decimal
    places only; default: exactly), worked_out (by default "6 + 9" is not 15, see verifiers.worked_out;
    false: it is). A wrong result of a calculation that has the right value ("6 + 9 = 14") scores a half. No final answer:
    no_answer. Gold that cannot be read, or an equivalence that cannot be decided: error/internal_error.
    """
    quick = math_quick(response, answer, extract, places, worked_out)
    if quick is not None:
        return quick
    found = final_answer(response, extract) or ""
    asked = ((gold, _ask(canonical(gold), canonical(found), found)) for gold in _golds(answer))
    return _best(_finished(gold, found, verdict, worked_out, response) for gold, verdict in asked)


def math_quick(
    response: str, answer, extract: str = "auto", places: int | None = None, worked_out: bool = True
) -> Verdict | None:
    """The verdict where this process can reach it cheaply, else None."""
    golds = _golds(answer)
    for gold in golds:
        if not gold.strip() or len(gold) > MAX_ANSWER_CHARS:
            return failure(f"gold answer has {len(gold)} characters, expected 1 to {MAX_ANSWER_CHARS}")
    if not golds:
        return failure("gold answer is an empty list, expected at least one answer")
    found = final_answer(response, extract)
    if found and len(response) <= MAX_ANSWER_CHARS and response.strip() in golds:
        found = response.strip()  # "f(x) = ax for some a > 0": words and all
    if not found:
        return Verdict("no_answer", "unparseable", detail=f"no final answer by rule {extract!r}")
    if problem := _refused(found):
        return Verdict("incorrect", "refused", 0.0, found[:200], problem)
    compared = ((gold, _compare(gold, found, places)) for gold in golds)
    verdicts = [
        verdict and _finished(gold, found, verdict, worked_out, response) for gold, verdict in compared
    ]
    if any(verdict is None for verdict in verdicts):
        correct = [verdict for verdict in verdicts if verdict is not None and verdict.status == "correct"]
        return correct[0] if correct else None
    return _best(verdicts)


math.quick = math_quick


def unreadable(
    answer: str | int | float | list,
    extract: str = "auto",
    places: int | None = None,
    worked_out: bool = True,
) -> str:
    """Why a reference can judge nobody: a gold that is empty, too long, in no notation that is read, or without a
    value. "" where it can; also where no sandbox is to be had to tell."""
    golds = _golds(answer)
    if not golds:
        return "an empty list of answers"
    for gold in golds:
        if not gold.strip() or len(gold) > MAX_ANSWER_CHARS:
            return f"gold answer has {len(gold)} characters, expected 1 to {MAX_ANSWER_CHARS}"
        for text in (gold, _SOME_ANSWER):
            verdict = _compare(gold, text) or _ask(canonical(gold), canonical(text), text)
            if verdict.status == "error" and verdict.reason != "unavailable":
                return f"gold answer {gold[:100]!r}: {verdict.detail}"[:300]
    return ""


math.unreadable = unreadable


def _finished(gold: str, found: str, verdict: Verdict, worked_out: bool, response: str) -> Verdict:
    """The verdict, incorrect where the answer is right and still a calculation to do; with half the credit for that."""
    if not worked_out or verdict.status not in ("correct", "incorrect"):
        return verdict
    if verdict.status == "correct":
        if is_worked_out(canonical(gold), canonical(found)):
            return verdict
        verdict = Verdict("incorrect", "wrong", 0.0, found, "a calculation that is not worked out")
    begun = calculation(canonical(gold), canonical(found), response)
    said = _compare(gold, begun) if begun and not _refused(begun) else None
    return replace(verdict, score=0.5) if said is not None and said.status == "correct" else verdict


def _golds(answer) -> list[str]:
    """The answers that are right, as texts; of a whole solution the last box."""
    golds = answer if isinstance(answer, list | tuple) else [answer]
    return [_boxed_gold(gold) if r"\boxed" in gold else gold for gold in map(str, golds)]


@lru_cache(maxsize=4096)
def _boxed_gold(gold: str) -> str:
    return last_math(gold[-MAX_SCANNED_CHARS:]) or gold


def _best(verdicts) -> Verdict:
    """Of the verdicts on several golds: correct before error before incorrect, and of these the best score."""
    order = ("correct", "error", "no_answer", "incorrect")
    return min(verdicts, key=lambda verdict: (order.index(verdict.status), -(verdict.score or 0.0)))


def _refused(found: str) -> str:
    """Why an answer will not be read, "" where it will."""
    if len(found) > MAX_ANSWER_CHARS:
        return f"answer of {len(found)} characters, at most {MAX_ANSWER_CHARS}"
    if _CODE.search(found):
        return "answer that looks like code"
    depth = deepest = 0
    for character in found:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return f"answer nested {deepest} deep" if deepest > _MAX_NESTING else ""


@lru_cache(maxsize=16_384)
def _compare(gold_text: str, found: str, places: int | None = None) -> Verdict | None:
    """A verdict from text, numbers and fields; None where algebra has to decide."""
    gold, answer = canonical(gold_text), canonical(found)
    right = Verdict("correct", "ok", 1.0, found)
    wrong = Verdict("incorrect", "wrong", 0.0, found)
    if gold.casefold() in _NO_VALUE or not gold:
        return failure(f"gold answer {gold_text[:100]!r} has no value")
    gold_number, number = quantity(gold), quantity(answer)
    if gold_number is not None and number is not None:
        return right if same_quantity(gold_number, number, _slack(places)) else wrong
    if gold_number is not None and gold_number.value.denominator != 1 and "," in answer and " " not in answer:
        # A decimal comma; where the gold is no integer it cannot be a list of two.
        comma = quantity(answer.replace(",", "."))
        if comma is not None:
            return right if same_quantity(gold_number, comma) else wrong
    choice = _choice(gold)
    if choice and choice == _choice(answer):
        return right
    if choice and (said := gold.partition(choice)[2].lstrip(".:) ")):
        return _compare(said, found, places)  # "C. 1-i": the letter, or what it stands for
    if _PROSE.fullmatch(gold) or _FOREIGN.search(gold):
        return right if answer_compare.same_words(gold, answer) else wrong
    same_text = gold.replace(" ", "") == answer.replace(" ", "")
    try:
        gold_tree = tex.parse(gold)
    except tex.Unreadable:
        # Prose, or notation beyond our grammar: equal texts are equal, the rest is for the children.
        return right if same_text and _balanced(gold) else None
    try:
        answer_tree = tex.parse(answer)
        equal = answer_compare.same(gold_tree, answer_tree, _leaf(places))
    except tex.OverBudget as problem:
        return Verdict("incorrect", "refused", 0.0, found, str(problem))
    except tex.Unreadable:
        return None
    except (TooLarge, Undefined) as problem:
        if same_text and isinstance(problem, TooLarge):
            return right
        return _without_value(gold_tree, gold_text, found, problem)
    except answer_compare.Undecided:
        return right if same_text else None
    # A text equal to its gold is right, whatever it states.
    return right if equal or same_text else wrong


def _slack(places: int | None) -> Fraction:
    return Fraction(0) if places is None else Fraction(1, 2 * 10 ** min(max(places, 0), 50))


def _leaf(places: int | None) -> answer_compare.Leaf:
    """Equality of expressions, in so many decimal places where both are rational numbers."""
    if places is None:
        return answer_compare.field_leaf

    def leaf(gold: tuple, answer: tuple) -> bool:
        try:
            return abs(rational(gold) - rational(answer)) <= _slack(places)
        except NoImage:
            return answer_compare.field_leaf(gold, answer)

    return leaf


def _without_value(gold_tree: tuple, gold_text: str, found: str, problem: Exception) -> Verdict:
    """Whose fault a missing value is: gold's is our failure, the answer's makes it wrong."""
    try:
        answer_compare.same(gold_tree, gold_tree, answer_compare.field_leaf)
    except (TooLarge, Undefined) as ours:
        return failure(f"gold answer {gold_text[:100]!r} has no value that can be had: {ours}")
    except answer_compare.Undecided:
        pass
    reason = "refused" if isinstance(problem, TooLarge) else "wrong"
    return Verdict("incorrect", reason, 0.0, found, f"no value: {problem}")


def _choice(text: str) -> str | None:
    """The letter of "B", "(B)", "B.", "(B) 42"; None for anything else."""
    stripped = text.strip()
    if stripped in _CHOICE:
        return stripped
    if _SECOND_CHOICE.search(stripped, 3):
        return None  # "(A) or (B)" is no choice
    if len(stripped) >= 3 and stripped[0] == "(" and stripped[1] in _CHOICE and stripped[2] == ")":
        return stripped[1]
    if len(stripped) >= 2 and stripped[0] in _CHOICE and stripped[1] in ".:)":
        return stripped[0]
    return None


def _balanced(text: str) -> bool:
    plain = text.replace(r"\{", "").replace(r"\}", "")
    return plain.count("{") == plain.count("}")


def _ask(gold: str, answer: str, found: str) -> Verdict:
    """The verdict by computer algebra, in a child that may be killed."""
    word, outcome = _question(gold, answer)
    if outcome is None:
        return failure(word, "unavailable")
    if word == "starved":
        return failure("no CPU was to be had for the comparison", "unavailable")
    if word in ("time_limit", "memory_limit", "crashed", "too large") and not _gold_is_readable(gold):
        return failure(f"gold answer {gold[:100]!r} cannot be compared even with itself: {word}")
    if word == "unreadable gold":
        return failure(f"gold answer {gold[:100]!r} cannot be read")
    measured = {"answer": found, "isolation": outcome.isolation, "cpu_ms": outcome.cpu_ms}
    return _VERDICTS.get(word, _undecided)(word, outcome.detail, measured)


@lru_cache(maxsize=4096)
def _gold_is_readable(gold: str) -> bool:
    return _question(gold, gold)[0] == "equal"


def _question(gold: str, answer: str):
    """(word, outcome) of the children; outcome None and the word a problem where none can be had."""
    from verifiers.sandbox import pool
    from verifiers.sandbox.limits import Limits

    limits = Limits(cpu_s=TIME_LIMIT_S, wall_s=10 * TIME_LIMIT_S, memory=512 << 20)
    question = json.dumps([gold, answer]).encode()
    try:
        outcome = pool.run(
            "math", {"kind": "ask", "entry": "verifiers.symbolic:decide"}, question, limits=limits
        )
    except pool.SlotFailed as problem:
        return str(problem), None
    return outcome.value.decode() if outcome.ending == "done" else outcome.ending, outcome


def _undecided(word: str, detail: str, measured: dict) -> Verdict:
    return Verdict("error", "internal_error", None, detail=f"{word}: {detail}".strip(": "), **measured)


def _incorrect(reason: str):
    return lambda word, detail, measured: Verdict("incorrect", reason, 0.0, detail=word, **measured)


_VERDICTS = {
    "equal": lambda word, detail, measured: Verdict("correct", "ok", 1.0, **measured),
    "different": _incorrect("wrong"),
    "undefined": _incorrect("wrong"),
    "unreadable": _incorrect("unparseable"),
    "too large": _incorrect("refused"),
    "time_limit": _incorrect("time_limit"),
    "memory_limit": _incorrect("memory_limit"),
    "crashed": _incorrect("runtime_error"),
}
