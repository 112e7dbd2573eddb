"""Paths, leaves, step ends, scores and counts of a tree typed by hand."""

import pytest
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree

from reasoner.tree import ROOT, Counts, Node, Span, StepEnd, counts


def test_token_ids_follow_branches_in_the_middle_of_nodes():
    tree = branching_tree()
    assert tree.token_ids(0) == [1, 2, 3]
    assert tree.token_ids(1) == [1, 2, 3, 10, 11, 12, 13, 14, 15]
    assert tree.token_ids(1, 2) == [1, 2, 3, 10, 11]
    assert tree.token_ids(5) == [1, 2, 3, 10, 11, 12, 13, 30, 31, 50]
    assert tree.token_ids(6) == [1, 2, 3, 10, 11, 12, 40, 60, 61]
    assert tree.completion_ids(6) == [10, 11, 12, 40, 60, 61]
    assert tree.completion_ids(6, 0) == [10, 11, 12, 40]
    assert tree.completion_ids(0) == []


def test_path_holds_the_span_of_each_node():
    tree = branching_tree()
    assert tree.path(0) == [Span(0, 0, 3)]
    assert tree.path(6) == [Span(0, 0, 3), Span(1, 0, 3), Span(4, 0, 1), Span(6, 0, 2)]
    assert tree.path(5, 0) == [Span(0, 0, 3), Span(1, 0, 4), Span(3, 0, 2), Span(5, 0, 0)]


def test_leaves_and_children():
    tree = branching_tree()
    assert tree.leaves() == [1, 2, 4, 5, 6]  # 3 goes on in 5 from its last token; 1 and 4 only branch inside
    assert tree.children(0) == [1, 2]
    assert tree.children(1) == [3, 4]
    assert tree.children(1, 3) == [4]
    assert tree.children(1, 6) == []
    assert make_tree([1]).leaves() == []
    assert tree.num_sampled == 6 + 3 + 2 + 3 + 1 + 2


def test_step_ends_stop_at_the_branch():
    tree = branching_tree()
    assert tree.step_ends(1) == [StepEnd(1, 1, 0), StepEnd(1, 3, 1), StepEnd(1, 5, 2)]
    assert tree.step_ends(5) == [StepEnd(1, 1, 0), StepEnd(1, 3, 1), StepEnd(3, 1, 0), StepEnd(5, 0, 0)]
    # the step of tokens 12 and 40 begins in node 1 and ends in node 4
    assert tree.step_ends(4) == [StepEnd(1, 1, 0), StepEnd(4, 0, 0), StepEnd(4, 2, 1)]
    assert tree.step_ends(6) == [StepEnd(1, 1, 0), StepEnd(4, 0, 0), StepEnd(6, 1, 0)]


def test_path_scores_read_each_step_end_once():
    tree = branching_tree()
    tree.scores["prm"] = {1: [0.1, 0.2, 0.3], 2: [0.4, 0.5], 3: [0.6], 4: [0.7, 0.8], 5: [0.9], 6: [1.0]}
    assert tree.path_scores("prm", 1) == [0.1, 0.2, 0.3]
    assert tree.path_scores("prm", 5) == [0.1, 0.2, 0.6, 0.9]
    assert tree.path_scores("prm", 6) == [0.1, 0.7, 1.0]


def test_trajectories_are_the_leaves():
    tree = branching_tree()
    views = {t.leaf: t for t in tree.trajectories()}
    assert list(views) == [1, 2, 4, 5, 6]
    assert views[6].completion_ids == [10, 11, 12, 40, 60, 61]
    assert views[5].verdict is ERROR
    assert views[4].step_ends == tree.step_ends(4)
    # only draws straight from the prompt are independent samples of a completion
    assert [leaf for leaf, t in views.items() if t.is_independent] == [1, 2]


def test_counts_take_independent_draws_from_exactly_one_state():
    tree = make_tree([1, 2], (0, 2, [5, 6, 7, 8], [1, 3]), *[(1, 2, [9], [0])] * 4, (1, 3, [9], [0]))
    tree.verdicts.update({1: CORRECT, 2: CORRECT, 3: WRONG, 4: ERROR, 6: CORRECT})  # 5 was not judged
    assert counts(tree, 1, 2) == Counts(n=2, c=1, errors=1)
    assert counts(tree, 1, 3) == Counts(n=1, c=1, errors=0)
    assert counts(tree, ROOT, 2) == Counts(n=1, c=1, errors=0)
    assert counts(tree, 1, 1) == Counts(n=0, c=0, errors=0)


def test_counts_leave_out_what_a_search_chose():
    tree = make_tree([1], (0, 1, [5], [0]))
    chosen = tree.add(Node(ROOT, 1, (6,), step_ends=(0,), drawn="search"))
    tree.verdicts.update({1: WRONG, chosen: CORRECT})
    assert counts(tree, ROOT, 1) == Counts(n=1, c=0, errors=0)
    assert [t.is_independent for t in tree.trajectories()] == [True, False]


@pytest.mark.parametrize(
    ("parent", "offset", "message"),
    [
        (7, 0, "parent is 7, expected one of the 7 nodes"),
        (-1, 0, "parent is -1, expected one of the 7 nodes"),
        (2, 4, "offset is 4, expected 0 to its parent's 3 tokens"),
        (2, -1, "offset is -1, expected 0 to its parent's 3 tokens"),
    ],
)
def test_a_node_must_continue_something_that_is_there(parent, offset, message):
    tree = branching_tree()
    with pytest.raises(ValueError, match=message):
        tree.add(Node(parent, offset, (9,)))
    assert len(tree.nodes) == 7
    assert tree.add(Node(2, 3, (9,))) == 7


def test_what_is_not_finished_ends_no_trajectory():
    tree = make_tree([1])
    for reason in ("eos", "length", "nan", "open", "cancelled", "pruned:loop"):
        tree.add(Node(ROOT, 1, () if reason == "pruned:loop" else (5,), step_ends=(), stop_reason=reason))
    assert tree.leaves() == [1, 2, 3]
    assert [n.is_pruned for n in tree.nodes] == [False] * 6 + [True]
    tree.add(Node(4, 1, (6,), step_ends=(0,)))
    assert tree.leaves() == [1, 2, 3, 7]
