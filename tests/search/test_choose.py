"""Choices among answers, by hand-typed numbers."""

import pytest

from reasoner.search.answers import answer_classes, read_answer
from reasoner.search.choose import PICKS, PLAIN, PickConfig
from reasoner.tree import Problem

MATH = Problem("p", "", "math", {"answer": "1"})


def pick(name, classes, scores, **config):
    return PICKS[name](classes, scores, PickConfig.model_validate(config))


def test_answers_are_grouped_by_value_not_by_spelling():
    answers = ["1/2", "0.5", None, r"\frac{1}{2}", "2", "x+1", "1+x", " 2"]
    assert answer_classes(MATH, answers) == [0, 0, None, 0, 1, 2, 2, 1]


def test_other_verifiers_group_by_text():
    puzzle = Problem("p", "", "logic", {"puzzle": "countdown"})
    assert answer_classes(puzzle, ["(1+2)*3", "(1 + 2) * 3", "3*(1+2)"]) == [0, 0, 1]


def test_an_answer_is_read_by_the_problems_own_rule():
    boxed = Problem("p", "", "math", {"answer": "1", "extract": "boxed"})
    assert read_answer(boxed, r"\boxed{3} #### 4") == "3"
    assert read_answer(MATH, "no answer in these words at all") is None
    code = Problem("p", "", "code", {"asserts": ["assert f() == 1"]})
    assert read_answer(code, "```python\ndef f(): return 1\n```") == "def f(): return 1\n"


def test_majority_leaves_out_no_answer_and_takes_the_first_of_equals():
    assert pick("majority", [None, None, None, 0], [1] * 4) == (3, 1.0)
    assert pick("majority", [0, 1, 1, 0], [1] * 4) == (0, 0.5)
    assert pick("majority", [None, None], [1] * 2).confidence == 0.0
    assert pick("majority", [], []).index is None


def test_weighted_majority():
    # 0 has .9; 1 has .5 + .5
    assert pick("weighted_majority", [0, 1, 1], [0.9, 0.5, 0.5]) == (1, pytest.approx(1 / 1.9))
    with pytest.raises(ValueError, match="weights must be"):
        pick("weighted_majority", [0], [-1.0])


def test_best_of_prefers_an_answer_to_none():
    assert pick("best_of", [0, 1, None], [0.2, 0.3, 0.9]).index == 1
    assert pick("best_of", [None, None], [0.2, 0.3]).index == 1
    assert pick("best_of", [0, 1], [0.5, 0.5]).index == 0


def test_borda_votes():
    classes, scores = [0, 1, 1, 2], [0.9, 0.5, 0.1, 0.3]
    # ranks 1, 2, 4, 3 of 4: votes 4, 3, 1, 2
    assert pick("borda", classes, scores, power=1).confidence == pytest.approx(4 / 10)
    assert pick("borda", classes, scores, power=0).index == 1  # power 0 is majority
    assert pick("borda", classes, scores, power=2).index == 0  # 16 against 9 + 1


def test_deepconf_lets_only_the_confident_vote():
    classes, scores = [0, 0, 1, 1, 1], [-0.1, -0.2, -3.0, -4.0, -5.0]
    assert pick("deepconf", classes, scores, keep=0.4) == (0, 1.0)
    # weights from 0.5 to 1: 1 + 0.75 against 3 times 0.5
    assert pick("deepconf", classes, [-1.0, -1.1, -1.2, -1.2, -1.2], keep=1.0).index == 0
    assert pick("deepconf", classes, [-1.0] * 5, keep=1.0).index == 2


def test_every_pick_survives_silence():
    for name, rule in PICKS.items():
        assert rule([None, None], [0.1, 0.2], PLAIN).confidence in (0.0, pytest.approx(2 / 3)), name
