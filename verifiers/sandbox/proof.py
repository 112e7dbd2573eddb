"""Requests with a known end, one right and one wrong of each kind: what the sandbox has to tell apart before it judges.

A machine on which children cannot be started, watched or read would else give every program the same verdict.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from verifiers.sandbox import values
from verifiers.sandbox.limits import Limits, Outcome

LIMITS = Limits(cpu_s=4.0, wall_s=12.0)
TRIES = 3  # a machine too busy to run a program says nothing about it


@dataclass(frozen=True, slots=True)
class Known:
    """A request, and how its outcome has to look."""

    header: dict
    blobs: tuple[bytes, ...]
    holds: Callable[[Outcome], bool]


def _program(code: bytes, printed: bytes) -> Known:
    return Known({"kind": "program"}, (code, b"41\n"), lambda o: o.ending == "done" and o.stdout == printed)


def _call(code: bytes, returned: int) -> Known:
    header = {"kind": "call", "entry": "f"}
    value = values.encode(returned)
    return Known(header, (code, values.encode([41])), lambda o: o.ending == "done" and o.value == value)


def _suite(code: bytes, ending: str) -> Known:
    return Known(
        {"kind": "suite", "entries": ["f"]}, (code, b"", b"assert f(41) == 42"), lambda o: o.ending == ending
    )


def _algebra(answer: str, word: bytes) -> Known:
    question = json.dumps(["x + 1", answer]).encode()
    header = {"kind": "ask", "entry": "verifiers.symbolic:decide"}
    return Known(header, (question,), lambda o: o.ending == "done" and o.value == word)


def _scored(answer: str, is_right: bool) -> Known:
    item = {"question": "q", "answer": "1 2 3", "metadata": {"solution": [1, 2, 3]}}
    arguments = values.encode(["spiral_matrix", json.dumps(item), answer])
    header = {"kind": "scored", "entry": "verifiers.gym_scores:score"}
    full = values.encode(1.0)
    return Known(header, (arguments,), lambda o: o.ending == "done" and (o.value == full) == is_right)


# (kind, entry) → the right and the wrong request.
_KNOWN = {
    ("program", ""): (_program(b"print(int(input()) + 1)", b"42\n"), _program(b"print(input())", b"41\n")),
    ("call", ""): (_call(b"def f(x): return x + 1", 42), _call(b"def f(x): return x", 41)),
    ("suite", ""): (_suite(b"def f(x): return x + 1", "done"), _suite(b"def f(x): return x", "crashed")),
    ("scored", "verifiers.gym_scores:score"): (_scored("1 2 3", True), _scored("3 2 1", False)),
    ("ask", "verifiers.symbolic:decide"): (_algebra("1 + x", b"equal"), _algebra("x + 2", b"different")),
}


def known(kind: str, entry: str) -> Iterator[tuple[str, Known]]:
    """("right", request), ("wrong", request) of a kind; nothing where none is known."""
    yield from zip(("right", "wrong"), _KNOWN.get((kind, entry), ()), strict=False)
