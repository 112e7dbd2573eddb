"""Where the gold is a number, a calculation that is left to the checker is no answer."""

import pytest

from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from verifiers import verify

LEFT = [
    ("15", "6 + 9"), ("15", "(6 + 9)"), ("15", "6 + 9 balls"), ("-3", "-(1+2)"), ("15", "15 + 0"), ("12", r"3 \times 4"),
    ("12", "3*4"), ("10", "150/15"), ("10", r"\frac{150}{15}"), ("10", "10/1"), ("2.5", "150/60"), ("15", "5!/8"),
    ("10", "(4+6)/1"), ("43", "70 - 27"), ("$15", "$6 + $9"), ("1/2", "1/4 + 1/4"),
]  # fmt: skip
DONE = [
    ("15", "6+9=15"), ("15", "x = 15"), ("15", "(15)"), ("15", "15 balls"), ("2.5", "5/2"),
    ("1/2", "2/4"), (r"-\frac{3}{4}", r"\frac{3}{-4}"), ("3.5", r"3\frac12"), ("2000", r"2\cdot 10^3"), ("1024", "2^{10}"),
    ("120", "5!"), ("0.5", "50%"), ("8000", "8 thousand"), ("2+3", "6-1"), (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"120^\circ", r"\frac{2\pi}{3}"), ("-1", r"e^{i\pi}"), ("10", r"20 - 10 \approx 10"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), LEFT)
def test_what_is_left_to_calculate_is_wrong_and_right_where_that_is_asked_for(gold, answer):
    response = rf"So it is \boxed{{{answer}}}."
    verdict = verify("math", response, {"answer": gold})
    assert verdict.status == "incorrect", verdict
    assert verdict.detail == "a calculation that is not worked out"
    assert verify("math", response, {"answer": gold, "worked_out": False}).status == "correct"


@pytest.mark.parametrize(("gold", "answer"), DONE)
def test_what_is_worked_out_is_right(gold, answer):
    assert verify("math", rf"So it is \boxed{{{answer}}}.", {"answer": gold}).status == "correct"


def test_one_of_several_golds_may_be_the_calculation():
    assert verify("math", r"\boxed{6 + 9}", {"answer": ["15", "6 + 9"]}).status == "correct"
    assert verify("math", "6 + 9", {"answer": "15", "extract": "last_math"}).status == "incorrect"


@pytest.mark.parametrize(("asked", "status"), [({}, "incorrect"), ({"worked_out": False}, "correct")])
def test_a_source_may_ask_for_values_only(tmp_path, asked, status):
    (tmp_path / "sums.jsonl").write_text('{"prompt": "How many are 6 and 9?", "answer": "15"}\n')
    source = SourceConfig.model_validate(
        {"name": "jsonl", "path": str(tmp_path / "sums.jsonl"), "extract": "last_math"}
    )
    (item,) = load_items(source.model_copy(update=asked))
    assert verify(item.problem.verifier, "6 + 9", item.problem.reference).status == status
    assert verify(item.problem.verifier, "6 + 9 = 15", item.problem.reference).status == "correct"
