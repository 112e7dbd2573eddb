"""Judging the leaves of trees, with verifiers of this file's own that fail once or always."""

import threading
from collections import Counter
from dataclasses import replace

import pytest
from small_models import CORRECT, ERROR, make_tree

from reasoner.registry import UserError
from reasoner.scoring.outcome import judge, judge_while
from reasoner.tree import Problem, Tree, outcome_reward
from verifiers import UnknownVerifier, Verdict

calls: Counter[str] = Counter()
judged = threading.Event()


def flaky(response: str, right: str) -> Verdict:
    """Fails at the first call for each response that says "flaky", at each for one that says "broken"."""
    calls[response] += 1
    if "broken" in response or ("flaky" in response and calls[response] == 1):
        raise OSError(f"no slot, call {calls[response]}")
    return Verdict("correct", "ok") if right in response else Verdict("incorrect", "wrong")


def telling(response: str) -> Verdict:
    """Says that it was called."""
    judged.set()
    return Verdict("correct", "ok")


WORDS = ["the prompt", "right", "flaky right", "flaky", "broken right", "wrong"]


def decode(ids) -> str:
    return " ".join(WORDS[i] for i in ids)


@pytest.fixture
def tree() -> Tree:
    calls.clear()
    hand = make_tree([0], *[(0, 1, [i], [0]) for i in (1, 2, 3, 4, 5)])
    problem = Problem("p", "", f"{__name__}:flaky", {"right": "right"})
    return Tree(problem, hand.nodes)


def test_errors_are_retried_once_and_stay_errors(tree):
    done = []
    statuses = judge([tree], decode, done.append)
    assert {i: v.status for i, v in tree.verdicts.items()} == {
        1: "correct", 2: "correct", 3: "incorrect", 4: "error", 5: "incorrect",
    }  # fmt: skip
    assert statuses == {"correct": 2, "incorrect": 2, "error": 1}
    assert outcome_reward(tree.verdicts[4]) is None
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


def reported(tree: Tree, numbers=None):
    """A grow() that reports the tree's nodes in this order, as if they came back one by one."""
    whole = list(tree.nodes)
    del tree.nodes[1:]

    def grow(on_node) -> None:
        for i in numbers or range(1, len(whole)):
            on_node(0, i, whole[i])
        tree.nodes.extend(whole[1:])

    return grow


def test_a_trajectory_is_judged_while_others_are_decoded(tree):
    judged.clear()
    tree = Tree(Problem("p", "", f"{__name__}:telling", {}), tree.nodes)
    report = reported(tree)

    def grow(on_node) -> None:
        report(on_node)
        assert judged.wait(20), "no verdict came while the engine was at work"

    found = judge_while(grow, [tree], decode)
    assert found.statuses == {"correct": 5} and 0 <= found.wait_share <= 1


def test_judging_while_growing_finds_what_judging_afterwards_finds(tree):
    found = judge_while(reported(tree, [3, 5, 1, 2, 4]), [tree], decode)
    assert list(tree.verdicts) == [1, 2, 3, 4, 5]
    early, tree.verdicts = dict(tree.verdicts), {}
    calls.clear()
    assert judge([tree], decode) == found.statuses == {"correct": 2, "incorrect": 2, "error": 1}
    assert {i: v.status for i, v in tree.verdicts.items()} == {i: v.status for i, v in early.items()}


def test_nodes_that_went_on_get_no_verdict():
    nodes = make_tree([0], (0, 1, [1], [0]), (1, 1, [5], [0]), (0, 1, [5], [0])).nodes
    nodes = [nodes[0], replace(nodes[1], stop_reason="open"), *nodes[2:]]
    tree = Tree(Problem("p", "", f"{__name__}:flaky", {"right": "right wrong"}), nodes[:1])
    calls.clear()

    def two_waves(on_node) -> None:
        for i in (1, 2, 3):
            on_node(0, i, nodes[i])
            tree.nodes.append(nodes[i])

    judge_while(two_waves, [tree], decode)
    assert {i: v.status for i, v in tree.verdicts.items()} == {2: "correct", 3: "incorrect"}
    assert calls == {"right wrong": 1, "wrong": 1}


def test_verifiers_that_keep_failing_stop_the_run():
    nodes = make_tree([0], *[(0, 1, [4], [0])] * 30, *[(0, 1, [1], [0])] * 60).nodes
    tree = Tree(Problem("p", "", f"{__name__}:flaky", {"right": "right"}), nodes)
    with pytest.raises(UserError, match=r"failed twice on 30 of 90 responses.*no slot, call"):
        judge([tree], decode)


@pytest.mark.parametrize(("broken", "right"), [(1, 0), (2, 7), (16, 0)])
def test_a_share_of_failures_stops_the_run_at_any_count(broken, right):
    nodes = make_tree([0], *[(0, 1, [4], [0])] * broken, *[(0, 1, [1], [0])] * right).nodes
    tree = Tree(Problem("p", "", f"{__name__}:flaky", {"right": "right"}), nodes)
    with pytest.raises(UserError, match=rf"failed twice on {broken} of {broken + right} responses"):
        judge([tree], decode)


def test_a_checker_that_cannot_run_is_not_hidden_by_others_that_can():
    broken = Tree(Problem("p", "", f"{__name__}:flaky", {"right": "right"}),
                  make_tree([0], *[(0, 1, [4], [0])] * 4).nodes)  # fmt: skip
    fine = Tree(Problem("q", "", f"{__name__}:telling", {}), make_tree([0], *[(0, 1, [1], [0])] * 96).nodes)
    with pytest.raises(UserError, match=r"flaky' failed twice on 4 of 4 responses"):
        judge([broken, fine], decode)


def undecidable(response: str, right: str) -> Verdict:
    """Reads every answer; cannot decide about those that say "maybe"."""
    if "maybe" in response:
        return Verdict("error", "internal_error", answer=response, detail="undecided")
    return Verdict("correct", "ok") if right in response else Verdict("incorrect", "wrong")


def judged_by(verifier: str, words: list[str], *numbers: tuple[str, list[int]]) -> list[Tree]:
    """Judge trees of (problem, the words of their leaves)."""
    trees = [
        Tree(Problem(name, "", f"{__name__}:{verifier}", {"right": "right"}),
             make_tree([0], *[(0, 1, [i], [0]) for i in leaves]).nodes)
        for name, leaves in numbers
    ]  # fmt: skip
    judge(trees, lambda ids: " ".join(words[i] for i in ids))
    return trees


def test_undecided_answers_are_masked_up_to_an_eighth_of_their_problem():
    words = ["prompt", "right", "maybe", "wrong"]
    # 24 responses of p in two trees: three may stay undecided, in the order of the leaves; q and r are other problems
    p, again, q, _ = judged_by(
        "undecidable",
        words,
        ("p", [2, 2] + [1] * 10),
        ("p", [2, 2, 2] + [3] * 9),
        ("q", [2, 1]),
        ("r", [1] * 20),
    )
    assert [outcome_reward(p.verdicts[i]) for i in (1, 2, 3)] == [None, None, 1.0]
    assert [outcome_reward(again.verdicts[i]) for i in (1, 2, 3, 4)] == [None, 0.0, 0.0, 0.0]
    assert again.verdicts[2].reason == "refused" and "too many" in again.verdicts[2].detail
    assert q.verdicts[1].status == "error"  # at least one may stay


def test_where_no_answer_was_decided_none_is_wrong():
    words = ["prompt", "right", "maybe", "wrong"]
    p, _ = judged_by("undecidable", words, ("p", [2, 2, 2]), ("q", [1] * 30))
    assert [v.status for v in p.verdicts.values()] == ["error"] * 3


def test_an_unknown_verifier_is_told_once_growing_is_over(tree):
    tree = Tree(Problem("p", "", "maths", {}), tree.nodes)
    with pytest.raises(UnknownVerifier, match="did you mean 'math'"):
        judge_while(reported(tree), [tree], decode)


def test_what_growing_raises_is_raised(tree):
    def grow(on_node) -> None:
        on_node(0, 1, tree.nodes[1])
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        judge_while(grow, [tree], decode)


def test_outcome_reward():
    assert outcome_reward(CORRECT) == 1
    assert outcome_reward(Verdict("incorrect", "time_limit")) == 0
    assert outcome_reward(Verdict("no_answer", "unparseable")) == 0
    assert outcome_reward(ERROR) is None
    assert outcome_reward(None) is None
