"""Written calculations: truth, operands, spans, and what is no calculation."""

import time

import pytest

from verifiers import verify
from verifiers.arithmetic_steps import check_steps


@pytest.mark.parametrize(
    "line",
    [
        "12 + -7 = 5",
        "4.50 - 1.2 = 3.30",
        "(3 + 4) * 2 = 14",
        "17 % 5 = 2",
        "17 % -5 = -3",
        "20% * 50 = 10",
        "1 / 3 * 3 = 1",
        "1,234 * 2 = 2,468",
        "-(3 - 5) = 2",
        "7 = 7 = 14 / 2",
        r"6 \times 7 = 42",
        "6 × 7 = 42",
        "Step 3: 2 - -2 = 4",
        "0.1 + 0.2 = 0.3",
        ".5 * 4 = 2",
        "$3.50 + $1.50 = $5.00",
        "99999999999999999999 + 1 = 100000000000000000000",
    ],
)
def test_right_lines(line):
    (step,) = check_steps(line)
    assert (step.right, step.why) == (True, "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("12 + 7 = 20", "wrong"),
        ("10 / 3 = 3.33", "wrong"),
        ("3 + 4 = 7 = 8", "wrong"),
        ("3 + 4 == 7", "unreadable"),
        ("3 + = 7", "unreadable"),
        ("(3 + 4 = 7", "unreadable"),
        ("1,23 + 1 = 124", "unreadable"),
        ("5 / 0 = 0", "division by zero"),
        ("5 % (3 - 3) = 0", "division by zero"),
        ("2 ** 3 = 8", "unreadable"),
        ("(" * 60 + "1" + ")" * 60 + " = 1", "over budget"),
        ("1 + " * 300 + "1 = 301", "over budget"),
        ("9" * 500 + " + 1 = 1", "over budget"),
        (" * ".join(["9" * 300] * 6) + " = 1", "over budget"),
        ("1 + 1 = " + "2" * 3000, "over budget"),
    ],
)
def test_wrong_lines(line, why):
    (step,) = check_steps(line)
    assert (step.right, step.why) == (False, why)


@pytest.mark.parametrize(
    "line", ["#### 17", r"\boxed{17}", "So there are 3 apples.", "x = 3 + 4", "٣ + ٤ = ٧"]
)
def test_lines_that_are_no_calculation(line):
    (step,) = check_steps(line)
    assert (step.right, step.why) == (None, "no calculation")


def test_spans_hold_the_text():
    response = "\n  3 + 4 = 7 \r\n\n7 * 2 = 15\n#### 15"
    steps = check_steps(response)
    assert [(s.start, s.end, s.right) for s in steps] == [(3, 12, True), (16, 26, False), (27, 34, None)]
    assert all(response[s.start : s.end] == s.text for s in steps)


def test_operands_must_be_known():
    problem = "Compute 12 - 7 + 4.5 * 2."
    good = check_steps("4.5 * 2 = 9\n12 + -7 = 5\n5 + 9 = 14", problem)
    assert [s.right for s in good] == [True, True, True]
    bad = check_steps("12 - 7 = 5\n5 + 3 = 8\n(12 - 7) * 2 = 5 * 2 = 10\n8 - 2 = 6", problem)
    assert [(s.right, s.why) for s in bad] == [(True, ""), (False, "unknown operand"), (True, ""), (True, "")]
    # -12 is not in the text: the minus belongs to 7.
    assert check_steps("-12 + 7 = -5", problem)[0].why == "unknown operand"


def test_a_slip_is_reported_once():
    steps = check_steps("3 + 4 = 8\n8 * 2 = 16", "(3 + 4) * 2")
    assert [s.right for s in steps] == [False, True]


def test_negative_results_are_operands():
    steps = check_steps("3 - 5 = -2\n-2 * 4 = -8", "(3 - 5) * 4")
    assert [s.right for s in steps] == [True, True]


def test_steps_verifier():
    right = "3 + 4 = 7\n7 * 2 = 14\n#### 14"
    assert verify("steps", right, {"answer": "14"}).status == "correct"
    half = verify("steps", "3 + 4 = 8\n7 * 2 = 14\n#### 14", {"answer": "14"})
    assert (half.status, half.reason, half.score) == ("incorrect", "wrong", 0.5)
    assert half.detail == "wrong: 3 + 4 = 8"
    other = verify("steps", right, {"answer": "15"})
    assert (other.status, other.reason, other.score) == ("incorrect", "wrong", 1.0)
    assert verify("steps", "I do not know.", {"answer": "14"}).status == "no_answer"
    assert verify("steps", "3 + 4 = 7\n7 * 1 = 7", {"answer": "7"}).status == "no_answer"
    assert verify("steps", "3 + 5 = 8", {"problem": "3 + 4"}).detail == "unknown operand: 3 + 5 = 8"


def test_twenty_thousand_lines_a_second():
    lines = "\n".join(f"{n} + {n + 1} = {2 * n + 1}\n({n} + 1.5) * 2 = {2 * n + 3}" for n in range(5000))
    started = time.process_time()
    steps = check_steps(lines)
    seconds = time.process_time() - started
    assert len(steps) == 10_000 and all(s.right for s in steps)
    assert 10_000 / seconds > 20_000


def test_a_line_that_begins_with_an_equals_sign_goes_on_from_the_line_before():
    right = [s.right for s in check_steps("=7*2-1\n=14-1\n=13\n#### 13", "(3+4)*2-1")]
    assert right == [True, True, True, None]
    slip = [s.right for s in check_steps("=7*2-1\n=15-1\n=14\n#### 14", "(3+4)*2-1")]
    assert slip == [True, False, True, None]  # each line against the one before: one slip is reported once
    assert [s.right for s in check_steps("=4", None)] == [None]


def test_gcd_and_lcm_are_calculations():
    text = "gcd(48,18)=6\nlcm(4,6)=12\ngcd(12,8,6)=2\ngcd(48,18)=5\ngcd(4.5,3)=1\ngcd(4)=4"
    assert [s.right for s in check_steps(text)] == [True, True, True, False, False, False]
    assert [s.right for s in check_steps("=gcd(18,12)\n=gcd(12,6)\n=6", "gcd(48,18)")] == [True, True, True]
