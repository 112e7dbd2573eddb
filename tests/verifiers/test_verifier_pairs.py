"""Eight hundred pairs of a gold answer and another, equal (=) or not (!), by kinds, typed by hand in answer_pairs.txt."""

from collections.abc import Iterator
from pathlib import Path

from verifiers import verify

# What we don't decide: which integers a condition holds for, the case of a digit beyond 9, the name of a constant.
LEFT_OUT = {
    r"\{ x \in \mathbb{Z} \mid -2 < x < 2 \}", "2a_{16}", r"\frac{1}{3}x^3 + c",
}  # fmt: skip


def pairs() -> Iterator[tuple[str, bool, str, str]]:
    """(kind, equal, gold, answer)"""
    kind = ""
    for line in (Path(__file__).parent / "answer_pairs.txt").read_text(encoding="utf-8").split("\n"):
        if line.startswith("# "):
            kind = line[2:]
        elif line:
            gold, _, answer = line[2:].partition(" || ")
            yield kind, line[0] == "=", gold, answer


def test_hand_typed_pairs():
    judged = [
        (equal, verify("math", rf"So it is \boxed{{{answer}}}.", {"answer": gold}).status, kind, gold, answer)
        for kind, equal, gold, answer in pairs()
        if answer not in LEFT_OUT
    ]
    assert len(judged) > 800 and sum(equal for equal, *_ in judged) > 500
    accepted = [pair for pair in judged if pair[1] == "correct" and not pair[0]]
    assert accepted == []
    rejected = [pair for pair in judged if pair[1] != "correct" and pair[0]]
    assert len(rejected) <= 6, rejected
    # An answer that differs is decided, not put off.
    assert [pair for pair in judged if pair[1] == "error" and not pair[0]] == []
