"""Math answers: is the final answer of a response the reference's?

Cheap and exact readings come first: one spelling of the text, then numbers as Fractions. What they
cannot decide is for the symbolic comparison.
"""

from verifiers.answer_text import MAX_ANSWER_CHARS, canonical, quantity, same_quantity
from verifiers.extract import final_answer
from verifiers.verdict import Verdict, failure


def math(response: str, answer: str | int | float, extract: str = "auto") -> Verdict:
    """Compare the response's final answer with `answer`.

    Reference keys: answer (text or number), extract (a rule of verifiers.extract, default "auto").
    No final answer: no_answer. Gold that cannot be read: error/internal_error.
    """
    gold = str(answer)
    if not gold.strip() or len(gold) > MAX_ANSWER_CHARS:
        return failure(f"gold answer has {len(gold)} characters, expected 1 to {MAX_ANSWER_CHARS}")
    found = final_answer(response, extract)
    if not found:
        return Verdict("no_answer", "unparseable", detail=f"no final answer by rule {extract!r}")
    if len(found) > MAX_ANSWER_CHARS:
        return Verdict("incorrect", "refused", 0.0, found[:200], f"answer of {len(found)} characters")
    equal = _compare_exactly(canonical(gold), canonical(found))
    if equal is None:
        return failure("the texts differ, no plain numbers; symbolic comparison is missing", "unavailable")
    return Verdict("correct", "ok", 1.0, found) if equal else Verdict("incorrect", "wrong", 0.0, found)


def _compare_exactly(gold: str, found: str) -> bool | None:
    """True or False where texts or plain numbers decide, None where they do not."""
    gold_number, number = quantity(gold), quantity(found)
    if gold_number is not None and number is not None:
        return same_quantity(gold_number, number)
    if gold.replace(" ", "") == found.replace(" ", ""):
        return True
    return None
