"""Puzzles, checked by their rules: Countdown, 24, brackets; other families by reasoning-gym's scorers.

An expression of a response is parsed by verifiers.tex and computed in exact fractions; nothing of
it is evaluated by Python. reasoning-gym's scorers do evaluate what they score, so they run in the
sandbox only.
"""

import json
import re
from collections import Counter
from fractions import Fraction
from inspect import signature

from verifiers import tex
from verifiers.answer_text import canonical
from verifiers.extract import final_answer
from verifiers.fields import NoImage, TooLarge, Undefined
from verifiers.verdict import Verdict, failure

_MAX_CHARS = 500
_PAIRS = {")": "(", "]": "[", "}": "{", ">": "<"}
_MAX_NUMBERS = 12


def logic(response: str, puzzle: str, extract: str = "auto", **rules) -> Verdict:
    """Check the solution of a puzzle by the puzzle's own rules.

    Reference keys: puzzle ("countdown", "brackets", or a reasoning-gym family), extract (a rule of
    verifiers.extract). countdown: numbers, target, use_all (default True; 24 is countdown with
    target 24). bracket_sum: expression, target. brackets: prefix (the response completes it). Another
    family: entry (reasoning-gym's item, as JSON text or dict); full credit alone is correct, the score is the scorer's.
    """
    found = final_answer(response, extract)
    if not found:
        return Verdict("no_answer", "unparseable", detail=f"no final answer by rule {extract!r}")
    check = RULES.get(puzzle)
    if check is not None:
        return check(found, **rules)
    return _reasoning_gym(found, puzzle, **rules)


def countdown(found: str, numbers: list[int], target: int, use_all: bool = True) -> Verdict:
    """An expression over the given numbers, each used once, that makes the target exactly."""
    if not numbers or len(numbers) > _MAX_NUMBERS:
        return failure(f"countdown with {len(numbers)} numbers, expected 1 to {_MAX_NUMBERS}")
    if len(found) > _MAX_CHARS:
        return _wrong(found, "refused", f"expression of {len(found)} characters")
    # "2 * 3 * 4 = 24": what follows the equals sign has to be the target, and is no part of it.
    text = canonical(found)
    left, sign, right = text.partition("=")
    if sign and right.strip() not in (str(target), f"{target}.0"):
        return _wrong(found, "wrong", "the written result is not the target")
    used: list[Fraction] = []
    try:
        value = _compute(tex.parse(left.strip()), used)
    except Undefined:
        return _wrong(found, "wrong", "division by zero")
    except (tex.OverBudget, TooLarge) as problem:
        return _wrong(found, "refused", str(problem))
    except (tex.Unreadable, NoImage) as problem:
        return _wrong(found, "unparseable", str(problem))
    have = Counter(Fraction(number) for number in numbers)
    spent = Counter(used)
    if spent - have or (use_all and have - spent):
        return _wrong(found, "wrong", "not the given numbers, each once")
    if value != target:
        return _wrong(found, "wrong", f"makes {value}, not {target}")
    return Verdict("correct", "ok", 1.0, found)


def bracket_sum(found: str, expression: str, target: int) -> Verdict:
    """The expression with one pair of brackets put into it, and nothing else changed, makes the target."""
    if len(found) > _MAX_CHARS or len(expression) > _MAX_CHARS:
        return _wrong(found, "refused", f"expression of {max(len(found), len(expression))} characters")
    text, sign, right = re.sub(r"[×·]", "*", found).strip("$` ").partition("=")
    if sign and right.strip() != str(target):
        return _wrong(found, "wrong", "the written result is not the target")
    if text.count("(") != 1 or text.count(")") != 1:
        return _wrong(found, "wrong", "not exactly one pair of brackets")
    if "".join(re.sub(r"[()]", " ", text).split()) != "".join(expression.split()):
        return _wrong(found, "wrong", "something else than brackets was changed")
    try:
        value = _compute(tex.parse(text.strip()), [])
    except (tex.OverBudget, TooLarge) as problem:
        return _wrong(found, "refused", str(problem))
    except (tex.Unreadable, NoImage, Undefined) as problem:
        return _wrong(found, "unparseable", str(problem))
    if value != target:
        return _wrong(found, "wrong", f"makes {value}, not {target}")
    return Verdict("correct", "ok", 1.0, found)


def _compute(tree: tuple, used: list[Fraction]) -> Fraction:
    """The exact value of + - * / over numbers, which are noted in `used`."""
    kind = tree[0]
    if kind == "num":
        used.append(tree[1])
        if len(used) > _MAX_NUMBERS:
            raise TooLarge("more numbers than the puzzle can have")
        return tree[1]
    if kind == "neg":
        return -_compute(tree[1], used)
    if kind not in ("add", "mul", "div"):
        raise NoImage(f"{kind} is no operation of this puzzle")
    left, right = _compute(tree[1], used), _compute(tree[2], used)
    if kind == "add":
        return left + right
    if kind == "mul":
        return left * right
    if right == 0:
        raise Undefined("division by zero")
    return left / right


def brackets(found: str, prefix: str) -> Verdict:
    """Brackets that close everything that the prefix leaves open, and nothing else (Dyck language)."""
    tail = re.sub(r"\s", "", found)
    start = re.sub(r"\s", "", prefix)
    if not start or set(start) - set("()[]{}<>"):
        return failure(f"brackets with prefix {prefix[:50]!r}, expected brackets")
    if len(tail) > 10_000 or set(tail) - set("()[]{}<>"):
        return _wrong(found, "unparseable", "something else than brackets")
    whole = tail if tail.startswith(start) else start + tail
    expected = []
    for bracket in whole:
        if bracket in _PAIRS:
            if not expected or expected.pop() != _PAIRS[bracket]:
                return _wrong(found, "wrong", f"{bracket!r} closes nothing")
        else:
            expected.append(bracket)
    if expected:
        return _wrong(found, "wrong", f"{len(expected)} brackets stay open")
    return Verdict("correct", "ok", 1.0, found)


def _wrong(found: str, reason: str, detail: str) -> Verdict:
    return Verdict("incorrect", reason, 0.0, found[:500], detail)


RULES = {"countdown": countdown, "brackets": brackets, "bracket_sum": bracket_sum}


def _reasoning_gym(found: str, family: str, entry: dict | str) -> Verdict:
    """The family's own scorer, in the sandbox; full credit alone is correct."""
    from verifiers.sandbox import pool, values
    from verifiers.sandbox.limits import Limits

    if len(found) > 20_000:
        return _wrong(found, "refused", f"answer of {len(found)} characters")
    item = entry if isinstance(entry, str) else json.dumps(entry, default=str)
    arguments = values.encode([family, item, found])
    try:
        outcome = pool.run(
            "puzzles", {"kind": "scored", "entry": "verifiers.gym_scores:score"}, arguments,
            limits=Limits(cpu_s=4.0, wall_s=12.0, memory=1 << 30),
        )  # fmt: skip
    except pool.SlotFailed as problem:
        return failure(str(problem), "unavailable")
    if outcome.ending == "starved":
        return failure("the scorer was runnable and did not get the CPU")
    if outcome.ending != "done":
        # The scorer runs the candidate's text, so what kills it is the candidate's doing, unless
        # the scorer says that it does not know the family or cannot read the item.
        reason = "runtime_error" if outcome.ending == "crashed" else outcome.ending
        return _wrong(found, reason, outcome.stderr.decode("utf-8", "replace").strip()[-200:])
    reply = values.decode(outcome.value)
    if isinstance(reply, str):
        return failure(f"reasoning-gym: {reply}"[:300])
    if not isinstance(reply, float | int) or isinstance(reply, bool) or not 0 <= reply <= 1:
        return _wrong(found, "security", f"the score is {str(reply)[:50]}")
    measured = {"isolation": outcome.isolation, "cpu_ms": outcome.cpu_ms}
    if reply == 1:
        return Verdict("correct", "ok", 1.0, found, **measured)
    return Verdict("incorrect", "wrong", float(reply), found, **measured)


def unreadable(puzzle: str, extract: str = "auto", **rules) -> str:
    """Why a puzzle can judge no solution, "" where it can; what a family's own scorer cannot read shows when it is asked."""
    check = RULES.get(puzzle)
    try:
        if check is None:
            signature(_reasoning_gym).bind("", puzzle, **rules)
            return ""
        verdict = check("1", **rules)
    except (TypeError, ValueError) as problem:
        return f"puzzle {puzzle!r}: {problem}"
    return verdict.detail if verdict.status == "error" else ""


logic.unreadable = unreadable  # pyright: ignore[reportFunctionMemberAccess]
