"""Step-DPO pairs of trees typed by hand: where the first wrong step is, how sure, and that nothing is appended."""

import math

import pytest
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.records import PreferencePair
from reasoner.signals.step_pairs import (
    StepPairConfig,
    balanced,
    choices,
    edit_distance,
    prob_greater,
    step_pairs,
)

LOOSE = StepPairConfig(confidence=0.6, min_edits=1, balance=False)
EOS = 99


def decode(ids) -> str:
    return " ".join(map(str, ids))


def tree():
    """Two chains whose first steps are 5 6 (right) and 7 8 (wrong), both continued from the first step's end.

    prompt 1 ┬ 5 6| 10 EOS|    node 1, right; from after 6: nodes 3 right, 4 wrong
             └ 7 8| 11 EOS|    node 2, wrong; from after 8: nodes 5, 6 wrong, 7 our error
    """
    return make_tree(
        [1],
        (0, 1, [5, 6, 10, EOS], [1, 3]),
        (0, 1, [7, 8, 11, EOS], [1, 3]),
        (1, 2, [12, EOS], [1]),
        (1, 2, [13, EOS], [1]),
        (2, 2, [14, EOS], [1]),
        (2, 2, [15, EOS], [1]),
        (2, 2, [16, EOS], [1]),
        verdicts={1: CORRECT, 2: WRONG, 3: CORRECT, 4: WRONG, 5: WRONG, 6: WRONG, 7: ERROR},
    )


def test_choices_count_every_draw_through_a_step():
    found = {state: [(c.token_ids, c.n, c.c) for c in options] for state, options in choices(tree()).items()}
    assert found[(0, 1)] == [((5, 6), 3, 2), ((7, 8), 3, 0)]
    assert found[(1, 2)] == [((12, EOS), 1, 1), ((13, EOS), 1, 0), ((10, EOS), 1, 1)]
    assert found[(2, 2)][-1] == ((11, EOS), 1, 0)


def test_the_first_wrong_step_is_paired_and_no_step_gets_an_end_of_text():
    pairs = step_pairs([tree()], LOOSE, decode)
    first = pairs[0]
    assert (first.prompt_ids, first.chosen_ids, first.rejected_ids) == ([1], [5, 6], [7, 8])
    assert first.margin == pytest.approx(prob_greater(2, 3, 0, 3)) and not first.is_whole
    # after 7 8 nothing came out right, so no pair lies behind the first wrong step
    assert {tuple(p.prompt_ids) for p in pairs} == {(1,), (1, 5, 6)}
    # a step that ended the text keeps the end that was sampled
    assert pairs[1].chosen_ids[-1] == EOS


def test_confidence_is_required():
    assert prob_greater(2, 3, 0, 3) == pytest.approx(0.9286, abs=1e-4)
    assert step_pairs([tree()], StepPairConfig(min_edits=1, balance=False), decode) == []
    loose = StepPairConfig(confidence=0.92, min_edits=1, balance=False)
    assert len(step_pairs([tree()], loose, decode)) == 1


def test_edits_lengths_and_caps():
    assert step_pairs([tree()], LOOSE.model_copy(update={"min_edits": 4}), decode) == []
    assert len(step_pairs([tree()], LOOSE.model_copy(update={"per_problem": 1}), decode)) == 1
    assert len(step_pairs([tree(), tree()], LOOSE.model_copy(update={"per_problem": 3}), decode)) == 3
    long = make_tree([1], (0, 1, [5] * 7, [6]), (0, 1, [7] * 3, [2]), verdicts={1: CORRECT, 2: WRONG})
    assert step_pairs([long], LOOSE, decode) == []
    assert len(step_pairs([long], LOOSE.model_copy(update={"max_length_ratio": 2.5}), decode)) == 1


def test_prob_greater_against_known_values():
    assert prob_greater(0, 0, 0, 0) == pytest.approx(0.5)
    assert prob_greater(3, 7, 3, 7) == pytest.approx(0.5)
    # Beta(2, 1) against Beta(1, 5): 1 - 2 B(2, 6)
    assert prob_greater(1, 1, 0, 4) == pytest.approx(1 - 2 * math.factorial(5) / math.factorial(7))
    for c1, n1, c2, n2 in ((5, 9, 2, 4), (0, 3, 8, 8), (40, 60, 30, 60)):
        assert prob_greater(c1, n1, c2, n2) + prob_greater(c2, n2, c1, n1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("same", "same", 0), ("flaw", "lawn", 2)],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b, enough=20) == distance
    assert edit_distance(a, b, enough=2) == min(2, distance)


def pair(chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair("p", "", "", "", [1], [2] * chosen, [3] * rejected)


def test_balanced_lengths():
    pairs = [pair(3, 2), pair(2, 3), pair(2, 2), pair(5, 2), pair(4, 2), pair(2, 9)]
    kept = balanced(pairs)
    assert [len(p.chosen_ids) for p in kept] == [3, 2, 2, 5, 2]
    assert balanced(pairs[:1]) == [] and balanced([]) == []
