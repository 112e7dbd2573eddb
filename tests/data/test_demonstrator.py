"""The demonstrator's working, by hand."""

import pytest

from reasoner.data.demonstrator import work_out
from verifiers.arithmetic_steps import check_steps


@pytest.mark.parametrize(
    ("expression", "working"),
    [
        ("3-9-5+8", "3-9=-6\n-6-5=-11\n-11+8=-3\n#### -3"),
        ("(3+4)*2-1", "3+4=7\n7*2=14\n14-1=13\n#### 13"),
        ("2--1", "2--1=3\n#### 3"),
        ("0*-9", "0*-9=0\n#### 0"),
        ("4.2+3.8-9.1", "4.2+3.8=8.0\n8.0-9.1=-1.1\n#### -1.1"),
        ("gcd(14,12,6)", "14%12=2\n12%2=0\n2%6=2\n6%2=0\n#### 2"),
        ("lcm(4,6)", "4%6=4\n6%4=2\n4%2=0\n4/2=2\n2*6=12\n#### 12"),
        ("7", "#### 7"),
    ],
)
def test_working(expression, working):
    assert work_out(expression) == working
    assert all(step.right for step in check_steps(working, expression) if step.right is not None)


def test_uneven_division_has_no_working():
    assert work_out("7/3") is None
    assert work_out("1/0") is None


@pytest.mark.parametrize("expression", ["3+", "(3+4", "3 plus 4", "__import__('os')", "3)", "gcd(3"])
def test_other_text_is_an_error(expression):
    with pytest.raises(ValueError):
        work_out(expression)
