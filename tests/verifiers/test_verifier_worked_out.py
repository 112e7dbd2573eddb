"""Where the gold is a number, a calculation that is left to the checker is no answer."""

import pytest

from reasoner.data.rows import SourceConfig
from reasoner.data.sources import load_items
from verifiers import verify

LEFT = [
    ("15", "6 + 9"), ("15", "(6 + 9)"), ("15", "6 + 9 balls"), ("-3", "-(1+2)"), ("15", "15 + 0"), ("12", r"3 \times 4"),
    ("12", "3*4"), ("10", "150/15"), ("10", r"\frac{150}{15}"), ("10", "10/1"), ("2.5", "150/60"), ("15", "5!/8"),
    ("10", "(4+6)/1"), ("43", "70 - 27"), ("$15", "$6 + $9"), ("1/2", "1/4 + 1/4"),
    ("15", "(6+9)^1"), ("15", r"\sqrt{(6+9)^2}"), ("15", "6+9, 15"), ("15", r"\{6+9\}"), ("15", "x+15-x"), ("15", "6x/x+9"),
    ("15", r"6+\pi+9-\pi"), ("15", r"\frac{30\pi}{2\pi}"), ("15", r"15 \pm 0"), ("15", "30 \\cdot 1/2"), ("15", "15:1"),
    ("15", r"\ln(e^6 e^9)"), ("15", r"\log_2(2^6 \cdot 2^9)"), ("15", r"\sum_{k=1}^{5} k"), ("15", r"\binom{6+9}{1}"),
    ("15", r"\max(6+9, 1)"), ("3", "|6-9|"), ("3", r"\lfloor 7/2 \rfloor"), ("1024", "2^{5+5}"), ("3.5", r"3+\frac12"),
    ("15", "6+9 = 6+9"), ("15", "6+9 = x"), ("2", r"\frac{2\pi}{\pi}"), ("55", r"\sum_{k=1}^{10}k"),
]  # fmt: skip
DONE = [
    ("15", "6+9=15"), ("15", "x = 15"), ("15", "(15)"), ("15", "15 balls"), ("2.5", "5/2"),
    ("1/2", "2/4"), (r"-\frac{3}{4}", r"\frac{3}{-4}"), ("3.5", r"3\frac12"), ("2000", r"2\cdot 10^3"), ("1024", "2^{10}"),
    ("120", "5!"), ("0.5", "50%"), ("8000", "8 thousand"), ("2+3", "6-1"), (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"120^\circ", r"\frac{2\pi}{3}"), ("-1", r"e^{i\pi}"), ("10", r"20 - 10 \approx 10"),
    ("15", "15 = 6+9"), ("15", "6 + 9 = 15 balls"), ("3", "|-3|"), ("3", "27^{1/3}"), ("0.5", r"\sin(\pi/6)"),
    ("3/2", r"\sqrt{9/4}"), ("1/2", "1:2"),
    (r"90^\circ", r"\pi/2"), (r"45^\circ", r"\frac{1}{4}\pi"), ("3", r"\log_2 8"), ("10", r"\binom{5}{2}"), ("0.25", "2^{-2}"),
    ("15", r"\{15\}"), (r"90^\circ", r"0.5\pi"),
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


@pytest.mark.parametrize(("gold", "response", "score"), [
    ("15", "6 + 9 = 14 balls", 0.5), ("15", "So she has 6 + 9 = 14.", 0.5), ("15", "6+9", 0.5), ("15", r"\boxed{6+9=14}", 0.5),
    ("5", "20 / 4 = 6 nuts", 0.5), ("15", "$6 + $9 = $14", 0.5), ("15", "(2 + 3) * 3 = 14", 0.5),
    ("15", "6 * 9 = 54", 0.0), ("15", "15 = 14", 0.0), ("15", "6 * 9 = 15 = 54", 0.0), ("15", "14", 0.0), ("15", "= 14", 0.0),
    ("15", "6 + 9 is what is asked, so it is 14", 0.0), ("x", "6 + 9 = 14", 0.0), ("15", "6 + 9 =" + " " * 300 + "14", 0.0),
])  # fmt: skip
def test_a_right_calculation_with_a_wrong_result_scores_a_half(gold, response, score):
    verdict = verify("math", response, {"answer": gold, "extract": "last_math"})
    assert (verdict.status, verdict.score) == ("incorrect", score)


def test_of_several_golds_the_nearest_scores():
    verdict = verify("math", "6 + 9 = 14", {"answer": ["x", "15", "7"], "extract": "last_math"})
    assert (verdict.status, verdict.score) == ("incorrect", 0.5)


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
