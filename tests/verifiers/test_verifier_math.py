"""Math answers that text and exact numbers decide, and extraction."""

import pytest

from verifiers import verify
from verifiers.extract import final_answer
from verifiers.math_answer import unreadable


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
        ("So she pays $27 in all. #### 27", "auto", "27"),
        ("#### 3 and so #### 4", "auto", "4"),
        ("#### Final Answer\n\n72\n", "auto", "72"),
        ("#### 5\n####", "auto", "5"),
        ("<answer>72</answer>", "auto", "72"),
        ("so\n<answer>\n 72\n</answer>\nbye", "auto", "72"),
        ("<answer>1</answer> no, <answer>The answer is 2.</answer>", "auto", "2"),
        (r"\boxed{1} <answer>\boxed{2}</answer>", "auto", "2"),
        (r"\boxed{1} <answer>", "auto", "1"),
        ("**Final Answer**\n\n72", "auto", "72"),
        ("## Final Answer:\n$x = 5$\nbye", "auto", "$x = 5$"),
        ("The answer is:\n\n12", "auto", "12"),
        ("The answer is 72 clips, altogether.", "auto", "72"),
        ("The answer is $18, because she sold 9.", "auto", "$18"),
        ("The answer is 8 thousand, about.", "auto", "8 thousand"),
        ("The answer is 5 miles.", "auto", "5 miles"),
        ("The answer is 1, 2 and 3.", "auto", "1, 2 and 3"),
        ("The answer is 5 or 6.", "auto", "5 or 6"),
        (r"The answer is \dfrac{2\pi}{9}.", "last_math", r"\dfrac{2\pi}{9}"),
        (r"and so we get \dfrac{2\pi}{9}.", "last_math", r"\dfrac{2\pi}{9}"),
        ("Answer: D\n" + r"\boxed{A = 5}", "choice", "D"),
        (r"Answer: D, for \boxed{x^2 = B}", "choice", "D"),
        (r"\boxed{\text{(B)}} since A is no answer", "choice", "B"),
        (r"\boxed{C) 12}", "choice", "C"),
        ("It is not A, so I think it's B", "choice", "B"),
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


@pytest.mark.parametrize("rule", ["auto", "last_math", "choice", "code"])
@pytest.mark.parametrize(
    "junk",
    [
        r"\boxed{" * 50_000,
        "{" * 300_000,
        "#### " * 60_000,
        "answer is " * 30_000,
        "$" * 200_000,
        r"\[" * 400_000,
    ],
)
def test_hostile_text_is_read_in_linear_time(junk, rule):
    verdict = verify("math", junk, {"answer": "5", "extract": rule})
    assert verdict.status != "correct"
    assert verdict.cpu_ms < 2000


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("x^2+2x+1", "(x+1)^2"),
        (r"\sqrt{50}", r"5\sqrt{2}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\frac{\sqrt{2}}{\sqrt{3}}", r"\frac{\sqrt{6}}{3}"),
        ("2024^{4046}", "2024^{4046}"),
        (r"\sqrt{-4}", "2i"),
        (r"\{2,1\}", r"\{1,2\}"),
        ("2,1", "1,2"),
        (r"1\pm\sqrt{19}", r"\{1+\sqrt{19},1-\sqrt{19}\}"),
        ("x=5", "5"),
        ("5", "x=5"),
        (r"x\in[-2,7]", r"-2\le x\le 7"),
        ("x>5", r"(5,\infty)"),
        ("-x>-1", "x<1"),
        ("y=-0.5x+0.75", "2x+4y-3=0"),
        ("(p,q)=(3,2)", "(3,2)"),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"),
        (r"\begin{pmatrix}1&\frac12\\0&1\end{pmatrix}", r"\begin{bmatrix}1&0.5\\0&1\end{bmatrix}"),
        ("3x+3y", "3(x+y)"),
        ("9", "9 (apples)"),
        ("6 and 8", r"6 \text{ and } 8"),
        (r"\sqrt{4}=2", "2"),
        (r"1\frac{1}{2}", r"\frac32"),
        ("x²+2x", "x^2+2x"),
        ("⅔", "2/3"),
        ("∛8", "2"),
        ("1/3", r"0.\overline{3}"),
        (r"0.1\overline{6}", r"\frac16"),
        (r"1, 2, \dots, n", r"1, 2, \ldots, n"),
        ("(1,2)", "x=1,y=2"),
        ("x=1,y=2", "(1,2)"),
        ("y=2,x=1", "x=1,y=2"),
        ("(a,b)=(2,3)", "a=2, b=3"),
        (r"\lambda = 3", r"\lambda=3"),
        (r"(\lambda-1)(\lambda+1)", r"\lambda^2-1"),
        (r"y \approx 2.4", "2.4"),
        ("2.4", r"y \approx 2.4"),
        ("a=b=6", "a=b=6"),
        (r"k=\frac{\ln 3}{2}=\ln\sqrt 3", r"k=\frac{\ln 3}{2}=\ln\sqrt 3"),
        (r"x\equiv 10 \pmod 7", r"x \equiv 3 \pmod{7}"),
        (r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R}\setminus\{0\}"),
        (r"x \ne 3", r"(-\infty,3)\cup(3,\infty)"),
        (r"x<1 \text{ or } x>2", r"(-\infty,1)\cup(2,\infty)"),
        (r"x>1 \text{ and } x<2", "(1,2)"),
        (r"[0,1]\cup(1,2]", "[0,2]"),
        ("x>2", r"\{x \mid x > 2\}"),
        ("(2, oo)", r"\{ x : x > 2 \}"),
        (r"\langle 1, 2\rangle", "(1,2)"),
        ("6:8", "3:4"),
        (r"f^{-1}(x)=\frac{x-1}{2}", r"\frac{x-1}{2}"),
        ("10", "The sum is \\boxed{10}, as we said."),
        # by algebra, in the sandbox
        (r"\sec^2(y)", r"\tan^2(y)+1"),
        (r"1+\sqrt{2}", r"\sqrt{3+2\sqrt{2}}"),
        (r"2\sqrt[3]{2}", r"\sqrt[3]{16}"),
        (r"e^{i\pi}", "-1"),
        (r"3\ln 2", r"\ln 8"),
        (r"\sin(\pi/6)", "0.5"),
        (r"\sum_{k=1}^{10} k", r"5 \cdot 11"),
    ],
)
def test_equivalent(answer, gold):
    verdict = verify("math", rf"\boxed{{{answer}}}", {"answer": gold})
    assert verdict.status == "correct", verdict


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3(1/2)", "3.5"),
        ("x^2+1", "x^2+2"),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5}"),
        (r"\sqrt{2}", "1.41421356237309504880168872420969807857"),
        (r"\pi", "3.14159265358979323846264338327950288"),
        (r"\pi+10^{-250}", r"\pi"),
        (r"\sin(x)", r"\cos(x)"),
        ("(2,1)", "(1,2)"),
        ("[0,1]", "[0,1)"),
        ("x<1", "x>1"),
        ("y=2x", "y=3x"),
        (r"\{1,2,3\}", r"\{1,2\}"),
        ("1,1,2", "1,2,3"),
        ("2ab", "2bc"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
        ("204_6", "204_5"),
        ("12:30", "12:31"),
        ("6:15", "12:30"),
        ("4:3", "3:4"),
        (r"y \approx 8", r"y \approx 2.4"),
        (r"y \approx 8", "2.4"),
        ("(2,1)", "x=1,y=2"),
        ("x=2,y=1", "x=1,y=2"),
        (r"1, 2, \ldots, m", r"1, 2, \ldots, n"),
        (r"1, \ldots, 2, n", r"1, 2, \ldots, n"),
        (r"3e^{x}+2", "3e^{x}"),
        ("a=b=7", "a=b=6"),
        (r"x \equiv 4 \pmod{7}", r"x \equiv 3 \pmod{7}"),
        (r"[0,1)\cup(1,2]", "[0,2]"),
        (r"x<1 \text{ or } x\ge 2", r"(-\infty,1)\cup(2,\infty)"),
        (r"0.\overline{33}4", r"\frac13"),
    ],
)
def test_not_equivalent(answer, gold):
    verdict = verify("math", rf"\boxed{{{answer}}}", {"answer": gold})
    assert (verdict.status, verdict.reason) == ("incorrect", "wrong"), verdict


@pytest.mark.parametrize("gold", ["0/0", "nan", r"\frac{1}{", "((((", "1000000000!"])
def test_unreadable_gold_is_our_error(gold):
    assert verify("math", r"\boxed{5}", {"answer": gold}).status == "error"


def test_any_of_several_golds():
    assert verify("math", r"\boxed{0.5}", {"answer": ["one half", "1/2"]}).status == "correct"
    assert verify("math", r"\boxed{0.6}", {"answer": ["3/4", "1/2"]}).status == "incorrect"
    assert verify("math", r"\boxed{0.6}", {"answer": []}).status == "error"


def test_places():
    assert verify("math", r"\boxed{2.67}", {"answer": "8/3", "places": 2}).status == "correct"
    assert verify("math", r"\boxed{2.66}", {"answer": "8/3", "places": 2}).status == "incorrect"
    assert verify("math", r"\boxed{2.67}", {"answer": "8/3"}).status == "incorrect"


@pytest.mark.parametrize(
    "answer",
    [
        "and*", "or", "and", "3%9", "1($3x+2)", "0$0", r"\pm\infty\infty;;m^2", "yx% = 2", r"\sqrt", "{", "}",
        "(", "^", r"\frac", r"\begin{pmatrix}1", "|x", "x_", "5 5", "=", "5=", ",", r"\log_", r"\int",
        "x!!!!", r"\unknown{5}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gold", ["7", r"y=2x+1", r"\sqrt{3}", "(1,2)"])
def test_junk_is_the_candidates_fault(answer, gold):
    verdict = verify("math", answer, {"answer": gold, "extract": "whole"})
    assert verdict.status == "incorrect", verdict


def test_prose_is_compared_as_text():
    assert verify("math", r"\boxed{the second team}", {"answer": "The second team"}).status == "correct"
    assert verify("math", r"\boxed{The first team}", {"answer": "The second team"}).reason == "wrong"


@pytest.mark.parametrize(
    "gold", [["1/2", ""], [], "0/0", "nan", r"\frac{1}{", "((((", "1000000000!", "x" * 3000, r"\mho(a)=0 + )"]
)
def test_golds_that_judge_nobody_are_told(gold):
    assert unreadable(gold)


@pytest.mark.parametrize("gold", ["5", "the second team", r"\sqrt{3+2\sqrt{2}}", "-221_3", "C. 1-i", "(1)(3)", "第一象限",
                                  r"480 + 480\sqrt{3}\text{ feet}", r"\sum_{k=1}^{10} k", 7, ["1/2", "0.5"]])  # fmt: skip
def test_golds_that_can_judge(gold):
    assert unreadable(gold) == ""


def test_what_breaks_the_checker_is_the_candidates_fault():
    verdict = verify("math", r"\boxed{\sum_{k=1}^{9999999999999} \sin(k^k)}", {"answer": "7"})
    assert verdict.status == "incorrect" and verdict.reason in (
        "time_limit",
        "memory_limit",
        "runtime_error",
    ), verdict
