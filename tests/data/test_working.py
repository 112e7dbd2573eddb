"""The truth of written steps against what is still to be done, by hand."""

import pytest

from reasoner.data.working import check_working


@pytest.mark.parametrize(
    ("expression", "response", "right"),
    [
        ("9+8+5-7", "9+8=17\n17+5=22\n22-7=15\n#### 15", [True, True, True, True]),
        ("9+8+5-7", "9+5=14\n14-7=7\n#### 7", [True, True, False]),  # the 8 is left
        ("9+8+5-7", "9+8=16\n16+5=21\n21-7=14\n#### 14", [False, False, False, False]),
        ("9+8+5-7", "9+8=17\n17+4=21\n#### 21", [True, False, False]),  # there is no 4
        ("2+7-0", "2+7=9\n#### 9", [True, True]),  # what is left changes nothing
        ("6*7*6", "6*7=42\n#### 42", [True, False]),
        ("6*7*6", "6*7=42\n42+6=48\n#### 48", [True, False, False]),
        ("7-8", "#### -1", [True]),
        ("7-8", "#### 1", [False]),
        ("0-5-3", "0-5=-5\n-5-3=-8\n#### -8", [True, True, True]),
        ("4.2+3.8-9.1", "4.2+3.8=8.0\n8.0-9.1=-1.1\n#### -1.1", [True, True, True]),
        ("gcd(14,12,6)", "14%12=2\n12%2=0\n2%6=2\n6%2=0\n#### 2", [True] * 5),
        ("gcd(14,12,6)", "14%12=2\n12%2=0\n#### 2", [True, True, False]),
        ("lcm(4,6)", "4%6=4\n6%4=2\n4%2=0\n4/2=2\n2*6=12\n#### 12", [True] * 6),
        ("(3+4)*2-1", "3+4=7\n7*2=14\n14-1=13\n#### 13", [True] * 4),
        ("3+4", "it is 7\n#### 7", [False, False]),
        ("3+4", "3+4=7=7\n#### 7", [False, False]),
    ],
)
def test_right_steps(expression, response, right):
    steps = check_working(response, expression)
    assert [s.right for s in steps] == right
    assert all(response[s.start : s.end] == s.text for s in steps)


def test_other_problems_are_an_error():
    with pytest.raises(ValueError):
        check_working("3+4=7", "How many apples are 3 and 4?")
