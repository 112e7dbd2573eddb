"""Judging the leaves of trees, with verifiers of this file's own that fail once or always."""

from collections import Counter

import pytest
from small_models import CORRECT, ERROR, make_tree

from reasoner.scoring.outcome import judge, outcome_reward
from reasoner.tree import Problem, Tree
from verifiers import Verdict

calls: Counter[str] = Counter()


def flaky(response: str, right: str) -> Verdict:
    """Fails at the first call for each response that says "flaky", at each for one that says "broken"."""
    calls[response] += 1
    if "broken" in response or ("flaky" in response and calls[response] == 1):
        raise OSError(f"no slot, call {calls[response]}")
    return Verdict("correct", "ok") if right in response else Verdict("incorrect", "wrong")


WORDS = ["the prompt", "right", "flaky right", "flaky", "broken right", "wrong"]


def decode(ids) -> str:
    return " ".join(WORDS[i] for i in ids)


@pytest.fixture
def tree() -> Tree:
    calls.clear()
    hand = make_tree([0], *[(0, 1, [i], [0]) for i in (1, 2, 3, 4, 5)])
    problem = Problem("p", "", f"{__name__}:flaky", {"right": "right"})
    return Tree(problem, hand.nodes)


def test_errors_are_retried_once_and_then_refused(tree):
    done = []
    statuses = judge([tree], decode, done.append)
    assert {i: v.status for i, v in tree.verdicts.items()} == {
        1: "correct", 2: "correct", 3: "incorrect", 4: "incorrect", 5: "incorrect",
    }  # fmt: skip
    assert statuses == {"correct": 2, "incorrect": 3}
    assert tree.verdicts[4].reason == "refused"
    assert "call 1" in tree.verdicts[4].detail and "call 2" in tree.verdicts[4].detail
    assert tree.verdicts[3].reason == "wrong"
    # the prompt is not part of what is judged
    assert calls == {"right": 1, "flaky right": 2, "flaky": 2, "broken right": 2, "wrong": 1}
    assert done == [1, 2, 3, 4, 5]


def test_judged_leaves_are_left_alone(tree):
    tree.verdicts.update({1: ERROR, 5: CORRECT})
    judge([tree], decode)
    assert tree.verdicts[1] is ERROR and tree.verdicts[5] is CORRECT
    assert calls.keys() == {"flaky right", "flaky", "broken right"}
    assert judge([tree], decode) == {}


def test_each_tree_has_its_own_reference(tree):
    other = Tree(Problem("q", "", tree.problem.verifier, {"right": "wrong"}), tree.nodes[:2] + tree.nodes[5:])
    judge([tree, other], decode)
    assert (tree.verdicts[1].status, tree.verdicts[5].status) == ("correct", "incorrect")
    assert (other.verdicts[1].status, other.verdicts[2].status) == ("incorrect", "correct")


def test_a_nodes_text_is_the_whole_completion():
    tree = make_tree([0], (0, 1, [5, 5], [0, 1]), (1, 1, [1], [0]))
    tree = Tree(Problem("p", "", f"{__name__}:flaky", {"right": "wrong right"}), tree.nodes)
    judge([tree], decode)
    assert {i: v.status for i, v in tree.verdicts.items()} == {1: "incorrect", 2: "correct"}


def test_outcome_reward():
    assert outcome_reward(CORRECT) == 1
    assert outcome_reward(Verdict("incorrect", "time_limit")) == 0
    assert outcome_reward(Verdict("no_answer", "unparseable")) == 0
    assert outcome_reward(ERROR) is None
    assert outcome_reward(None) is None
