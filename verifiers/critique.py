"""Critiques of solutions in numbered steps: do they put the first error where it is?"""

import re

from verifiers.verdict import Verdict, failure

NO_ERROR, UNDECIDED = -1, -2
_VERDICT = re.compile(r"^First error:(.*)$", re.MULTILINE)


def read_critique(text: str, num_steps: int) -> int:
    """Where a critique puts the first error, from 0: its last verdict line; UNDECIDED without one, or one out of range."""
    said = [line.strip() for line in _VERDICT.findall(text)][-1:]
    if said == ["none"]:
        return NO_ERROR
    number = int(said[0]) if said and re.fullmatch("[0-9]{1,4}", said[0]) else 0
    return number - 1 if 1 <= number <= num_steps else UNDECIDED


def critique(response: str, first_error: int, num_steps: int) -> Verdict:
    """Correct where the critique's last line `First error: 2` (or `none`) names the first wrong step; what stands before
    it is free.

    Reference keys: first_error (from 0; -1: no step is wrong), num_steps. Without such a line, or with a step that is not
    there: no_answer.
    """
    why = unreadable(first_error, num_steps)
    if why:
        return failure(why)
    found = read_critique(response, num_steps)
    if found == UNDECIDED:
        expected = f"no last line 'First error: …' with 1 to {num_steps}, or none"
        return Verdict("no_answer", "unparseable", detail=expected)
    said = "none" if found == NO_ERROR else str(found + 1)
    if found == first_error:
        return Verdict("correct", "ok", 1.0, said)
    return Verdict("incorrect", "wrong", 0.0, said)


critique.quick = critique


def unreadable(first_error: object = None, num_steps: object = None) -> str:
    """Why a reference can judge no response, "" where it can."""
    if type(num_steps) is int and type(first_error) is int and NO_ERROR <= first_error < num_steps:
        return ""
    return f"first_error is {first_error!r} of num_steps {num_steps!r}, expected whole numbers, from -1 to num_steps - 1"


critique.unreadable = unreadable
