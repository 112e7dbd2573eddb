"""What stands behind a number: units, money, magnitudes and percents, and what is part of the answer instead."""

import gzip
import json

import pytest

from verifiers import verify
from verifiers.units import unit_of


def _is_right(answer: str, gold: str) -> bool:
    verdict = verify("math", rf"\boxed{{{answer}}}", {"answer": gold})
    assert verdict.status in ("correct", "incorrect"), verdict
    return verdict.status == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5x"), ("5", "5 x"), ("5", "5i"), ("11", "11t"), ("7y", "7"), ("4z^3", "4"), ("9", "9 thousand"),
        ("5", "5 dozen"), ("5", "5 squared"), ("5", "5 factorial"), ("5", "5 plus"), ("5", "5 blinks"), ("5", r"5\pi"),
        ("5", "5 m"), ("7 m", "7"), ("x", "x cm y"), (r"\frac{1}{2}", r"\frac{1}{2} x"), ("5", r"5\text{ y}"),
        ("5", r"5\text{ or more}"), (r"\sqrt{2}", r"\sqrt{2} t"), (r"2\text{ m}", "2k"), (r"5\text{ cm}", r"5\text{ m}"),
        (r"5\text{ cm}^2", r"5\text{ cm}^3"), ("60 mph", "60 km/h"), ("3:15 pm", "3:15 am"), (r"\$5", "5 cents"),
        ("25", "0.25"), (r"25\%", "2500"), (r"25\%", r"26\%"),
    ],
)  # fmt: skip
def test_part_of_the_answer(gold, answer):
    assert not _is_right(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"5\text{ cm}^2", "5 cm^2"), (r"5\text{ cm}^2", r"5\text{ square centimeters}"), ("5 cm^2", "5 cm²"),
        (r"5\text{ cm}^2", r"5\,\mathrm{cm}^2"), ("12 ft^3", r"12\text{ cubic feet}"), ("5", r"5\text{ m}"),
        (r"7\text{ m}", "7"), (r"9.8\text{ m/s}^2", r"9.8\,\mathrm{m/s^2}"), ("60 mph", r"60\text{ miles per hour}"),
        ("3.5", r"3.5 \mathrm{eV}"), ("8 thousand", "8000"), (r"\$5\text{ million}", r"\$5,000,000"), ("24", "2 dozen"),
        ("72", r"72\text{ blinks}"), ("72 blinks", "72"), ("72", "72 clips"), (r"\$32", r"\$32 \text{ per hour}"),
        (r"3\pi", r"3\pi \text{ cm}^2"), (r"2\sqrt{3}\text{ m}", r"2\sqrt{3}"), ("3:15 p.m.", "3:15 pm"),
        ("4:30", "4:30 PM"), ("25", r"25\%"), (r"25\%", "25"), (r"25\%", "0.25"), ("0.25", r"25\%"), ("10", "10 units"),
    ],
)  # fmt: skip
def test_said_in_another_way(gold, answer):
    assert _is_right(answer, gold)


def test_units_have_one_spelling():
    for same in (["ft^2", "square feet", "sq ft", "sq. ft.", "feet squared"], ["mph", "miles per hour", "mi/hr"],
                 ["m/s^2", "meters per second squared", "m/s²"], ["dollars per hour", "$/hr", "dollars an hour"]):  # fmt: skip
        assert len({unit_of(written) for written in same}) == 1, same
    assert [unit_of(word) for word in ("y", "t", "plus", "blinks", "", "per", "cm y", "x" * 10_000)] == [
        None
    ] * 8


@pytest.mark.parametrize(
    "behind", [" x", " y", "i", "t", "x", " z", "n", "k", " a", " thousand", " squared", " blob"]
)
def test_words_behind_real_golds(shared_data, behind):
    """At most one in a hundred; zero times x is zero, and a multiple of an equation is the equation."""
    content = gzip.decompress((shared_data / "math" / "MATH_train_problem_answer.jsonl.gz").read_bytes())
    golds = sorted({json.loads(line)["answer"] or "" for line in content.decode().splitlines()} - {""})[::9]
    accepted = [
        gold
        for gold in golds
        if verify("math", rf"\boxed{{{gold}{behind}}}", {"answer": gold}).status == "correct"
    ]
    assert len(golds) > 300 and len(accepted) <= 0.01 * len(golds), accepted
