"""Math answers that text and exact numbers decide, and extraction."""

import pytest

from verifiers import verify
from verifiers.extract import final_answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7.140", "7.14"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("5", "5.0"),
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac12", "1/2"),
        (r"-\frac{3}{6}", "-1/2"),
        (r"\frac{-1}{2}", "-0.5"),
        (r"1\frac{1}{2}", "1.5"),
        ("2 1/2", "5/2"),
        (r"6.02\times10^{23}", "6.02e23"),
        ("$5$", "5"),
        (r"\$5.00", "5"),
        (r"5\text{ cm}", "5"),
        ("5 cm", "5 centimeters"),
        (r"50\%", "50%"),
        (r"50\%", "0.5"),
        ("50", r"50\%"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90 degrees"),
        ("5.", "5"),
        (r"\text{(B)}", "(B)"),
        ("Friday", "Friday"),
        ("５", "5"),
        ("0", "-0.0"),
    ],
)
def test_equal(answer, gold):
    verdict = verify("math", rf"Thus \boxed{{{answer}}}.", {"answer": gold})
    assert (verdict.status, verdict.reason) == ("correct", "ok"), verdict


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("6", "5"),
        ("0.5000001", "1/2"),
        ("0.00000034", "0.00000012"),
        ("0.0", "0.000000001"),
        ("0.333333", "1/3"),
        (r"3\%", "3"),
        ("10 m", "10 cm"),
        ("5 miles", "5 km"),
        ("5 euros", r"\$5"),
        ("-5", "5"),
        ("12,34", "1234"),
    ],
)
def test_different(answer, gold):
    verdict = verify("math", rf"Thus \boxed{{{answer}}}.", {"answer": gold})
    assert verdict.status != "correct", verdict


@pytest.mark.parametrize(
    ("response", "rule", "expected"),
    [
        (r"\boxed{\frac{1}{2}}", "auto", r"\frac{1}{2}"),
        (r"\boxed{4} wait, no: \boxed{5}", "auto", "5"),
        (r"\boxed{\boxed{5}}", "auto", r"\boxed{5}"),
        (r"\boxed{5} and then \boxed{6", "auto", "5"),
        (r"\fbox{7}", "auto", "7"),
        (r"\boxed 9", "auto", "9"),
        (r"\boxed{\{1,2\}}", "auto", r"\{1,2\}"),
        ("a\n#### 1,234\n", "auto", "1,234"),
        ("#### 3\n#### 4", "auto", "4"),
        ("The answer is 5. Or so I think.", "auto", "5"),
        ("The final answer is: 7.5", "auto", "7.5"),
        ("**Answer:** 12", "auto", "12"),
        ("12", "auto", "12"),
        ("I have counted all of them twice", "auto", None),
        ("", "auto", None),
        ("maybe 1, 2, 3\nor 4", "auto", None),
        (r"<think>\boxed{3}</think> \boxed{4}", "auto", "4"),
        (r"<think>\boxed{3}</think> I give up on this one", "auto", None),
        (r"\boxed{3}" + "\n#### 4", "hashes", "4"),
        ("#### 4", "boxed", None),
        ("text\n```python\nprint(1)\n```\nmore", "code", "print(1)\n"),
        ("```\nx\n```\n```bash\nls\n```", "code", "x\n"),
        ("```python\nprint(1)", "code", None),
    ],
)
def test_extraction(response, rule, expected):
    assert final_answer(response, rule) == expected


def test_no_final_answer_is_no_answer():
    verdict = verify("math", "Let me think about that for a while, and then again.", {"answer": "5"})
    assert (verdict.status, verdict.reason) == ("no_answer", "unparseable")


@pytest.mark.parametrize(
    "junk", [r"\boxed{" * 50_000, "{" * 300_000, "#### " * 60_000, "answer is " * 30_000, "$" * 200_000]
)
def test_hostile_text_is_read_in_linear_time(junk):
    verdict = verify("math", junk, {"answer": "5"})
    assert verdict.status != "correct"
    assert verdict.cpu_ms < 2000
