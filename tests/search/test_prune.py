"""Pruning: each rule by hand, and values that stay unbiased however wrong the rules are."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from markov import MarkovEngine, judge, mark_steps, markov_trees, state_of
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.registry import UserError
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.budgets import BudgetConfig, within
from reasoner.search.chain import fan
from reasoner.search.grow import Branch, Growth, StepStop, grow
from reasoner.search.kary import KaryConfig, kary
from reasoner.search.prune import (
    PruneConfig,
    at_most,
    duplicate,
    loop,
    low_score,
    pruned,
    solved,
    unlikely,
)
from reasoner.signals.backup import leaf_weights, path_weights, pruning_report, unbiased_values
from reasoner.tree import ROOT, Node

NONE = PruneConfig()


def test_upper_bound_by_hand():
    # from 0 of n the value passes v with probability (1 - v) ** (n + 1)
    assert at_most(0, 9, 0.5) == pytest.approx(1 / 512)
    assert at_most(1, 2, 0.5) == pytest.approx(0.75)
    config = PruneConfig(min_value=0.25, confidence=0.9)
    for n in range(12):
        tree = make_tree([1], (0, 1, [5, 6], [0, 1]), *[(1, 1, [7], [0])] * n)
        tree.verdicts.update(dict.fromkeys(range(2, n + 2), WRONG))
        assert unlikely(tree, 1, 1, config) == (0.75 ** (n + 1) < 0.1)  # from 8 failures on
        assert not unlikely(tree, ROOT, 1, config) or n > 7
    tree.verdicts[2] = CORRECT
    assert not unlikely(tree, 1, 1, config)
    tree.verdicts.update(dict.fromkeys(range(2, 13), ERROR))
    assert not unlikely(tree, 1, 1, config)  # what our side failed to judge says nothing
    # a chain that leaves before the state does not count
    tree = make_tree([1], (0, 1, [5, 6, 7], [0, 1, 2]), *[(1, 1, [7], [0])] * 11)
    tree.verdicts.update(dict.fromkeys(range(2, 13), WRONG))
    assert unlikely(tree, 1, 1, config) and not unlikely(tree, 1, 2, config)


def test_duplicates_are_told_by_all_tokens_from_the_prompt():
    tree = make_tree(
        [1], (0, 1, [5, 6], [0, 1]), (0, 1, [5], [0]), (0, 1, [6], [0]), (1, 1, [6], [0]), (3, 1, [6], [0])
    )
    found = [duplicate(tree, *s, NONE) for s in [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1), (ROOT, 1)]]
    assert found == [False, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("ids", "is_loop"),
    [
        ([4, 5, 6, 7] * 3, True),
        ([9, *[4, 5, 6, 7] * 3], True),
        ([*[4, 5, 6, 7] * 3, 9], False),
        ([4, 5, 6, 7] * 2, False),
        ([4] * 11, False),  # three copies, but of fewer than twelve tokens
        ([4] * 12, True),
        ([], False),
    ],
)
def test_loops(ids, is_loop):
    tree = make_tree([1], (0, 1, ids, []))
    assert loop(tree, 1, len(ids), NONE) == is_loop


def test_solved_and_scores():
    tree = make_tree([1], *[(0, 1, [5, 6, 7], [1, 2])] * 5)
    tree.verdicts.update(dict.fromkeys([1, 2, 3], CORRECT))
    assert not solved(tree, ROOT, 1, NONE)
    tree.verdicts[5] = CORRECT
    assert solved(tree, ROOT, 1, NONE)
    tree.scores = {"prm": {1: [0.05, 0.9]}, "orm": {1: [0.5, 0.01]}}
    states = [(ROOT, 1), (1, 1), (1, 2), (1, 3), (2, 2)]
    assert [low_score(tree, *s, NONE) for s in states] == [False, False, True, False, False]
    assert [low_score(tree, *s, PruneConfig(score="orm")) for s in states] == [False, False, False, True, False]  # fmt: skip


def pruned_by_hand(continued: tuple[bool, ...]):
    """Two samples; the first branches at its middle, three planned: the last two pruned at 1/4, `continued` or not."""
    tree = make_tree([1], (0, 1, [5, 6], [0, 1]), (0, 1, [7], [0]), (1, 1, [8], [0]))
    for is_continued in continued:
        reason = "eos" if is_continued else "pruned:loop"
        tree.add(Node(1, 1, (9,) if is_continued else (), stop_reason=reason, propensity=0.25))
    tree.verdicts.update({1: WRONG, 2: CORRECT, 3: CORRECT})
    for i, verdict in ((4, CORRECT), (5, WRONG)):
        if not tree.nodes[i].is_pruned:
            tree.verdicts[i] = verdict
    return tree


def test_values_are_those_of_the_whole_tree_in_the_mean():
    mean = np.zeros(3)
    for continued in product([False, True], repeat=2):
        probability = np.prod([0.25 if x else 0.75 for x in continued])
        tree = pruned_by_hand(continued)
        values = unbiased_values(tree)
        # the state's four draws: its remainder (wrong), one right, and the two that were pruned
        assert values[1][1] == (0 + 1 + 4 * continued[0] + 0) / 4
        weights = leaf_weights(tree)
        by_weights = sum(w * (tree.verdicts[leaf].status == "correct") for leaf, w in weights.items())
        assert values[0][1] == pytest.approx(by_weights)
        mean += probability * np.array([values[1][1], values[0][1], sum(weights.values())])
    assert mean == pytest.approx([2 / 4, (2 / 4 + 1) / 2, 1])


def test_weights_of_what_was_pruned():
    weights = path_weights(pruned_by_hand((True, False)))
    assert [w.tolist() for w in weights[1:]] == [
        [1 / 2, 1 / 8, 1 / 8], [1 / 2, 1 / 2], [1 / 8, 1 / 8], [1 / 2, 1 / 2], [1 / 2],
    ]  # fmt: skip


def test_values_mask_what_is_unknown():
    tree = make_tree([1], *[(0, 1, [5], [0])] * 3)
    assert np.isnan(unbiased_values(tree)[0]).all()
    tree.verdicts.update({1: CORRECT, 2: ERROR})
    assert unbiased_values(tree)[0].tolist() == [1, 1]
    tree.nodes[3] = replace(tree.nodes[3], stop_reason="open")  # a budget ended here: neither right nor wrong
    assert unbiased_values(tree)[0].tolist() == [1, 1]


def test_report_counts_and_measures():
    report = pruning_report([pruned_by_hand((True, True)), pruned_by_hand((True, False))])
    assert report == (10, {"loop": 1}, 3, 3, 2.0) and report.error == pytest.approx(2 / 3)
    empty = pruning_report([make_tree([1], (0, 1, [5], [0]))])
    assert empty[:3] == (1, {}, 0) and np.isnan(empty.error)


def grown(count, policy, num_steps=5, error=0.3, recovery=0.1):
    engine = MarkovEngine(num_steps, error, recovery)
    trees = markov_trees(count)
    growth = Growth(mark_steps, num_steps + 1, step_stop=StepStop(frozenset({1, 2})))
    grow(trees, engine, policy, growth, observe=judge)
    return engine, trees


def test_a_tree_full_of_wrong_pruning_has_the_right_value():
    """A rule that drops every state whose last step is right: the worst there is, and the value is the closed form's."""
    wrong_rule = lambda tree, node, offset: offset > 0 and node != ROOT and state_of(tree, node, offset)[1]  # noqa: E731
    config = PruneConfig(rules=["dead_end"], continue_share=0.5)
    policy = kary(KaryConfig(num_children=3, depth=4))
    engine, trees = grown(600, pruned(policy, config, is_dead_end=wrong_rule))
    _, plain = grown(600, policy)
    assert sum(t.num_sampled for t in trees) < 0.6 * sum(t.num_sampled for t in plain)
    values = np.array([unbiased_values(t)[0][-1] for t in trees])
    error = values.std() / len(values) ** 0.5
    truth = engine.value(0, True)
    assert abs(values.mean() - truth) < 4 * error < 0.08
    # without the propensity the rule would show: right steps are the ones that are missing
    naive = np.mean([np.mean([v.status == "correct" for v in t.verdicts.values()]) for t in trees if t.verdicts])  # fmt: skip
    assert naive < truth - 0.08
    report = pruning_report(trees)
    assert report.planned == sum(len(t.nodes) - 1 for t in trees)
    assert report.dropped["dead_end"] == pytest.approx(report.continued, rel=0.1)
    assert (
        engine.value(1, True) < report.error < engine.value(3, True)
    )  # states after one to three right steps


def test_a_right_rule_errs_as_often_as_wrong_states_recover():
    config = PruneConfig(rules=["dead_end"], continue_share=0.25)
    rule = lambda tree, node, offset: not state_of(tree, node, offset)[1]  # noqa: E731
    policy = tree_of(
        BranchConfig(num_roots=4, where="spread_steps", num_points=1, num_children=4), Growth(mark_steps, 7)
    )
    engine, trees = grown(600, pruned(policy, config, is_dead_end=rule))
    found = pruning_report(trees)
    assert found.continued == pytest.approx(0.25 * (found.continued + found.dropped["dead_end"]), rel=0.15)
    # one point a chain: the third of its six ends, after three steps
    truth = engine.value(3, False)
    noise = (truth * (1 - truth) / found.continued) ** 0.5
    assert abs(found.error - truth) < 4 * noise


def test_lottery_belongs_to_the_place():
    config = PruneConfig(rules=["loop"], loop_tokens=1, repeats=2, continue_share=0.5)
    policy = kary(KaryConfig(num_children=2, depth=3))
    shapes = [[(n.token_ids, n.stop_reason) for t in grown(9, pruned(policy, config, seed))[1] for n in t.nodes]
              for seed in (0, 0, 1)]  # fmt: skip
    assert shapes[0] == shapes[1] != shapes[2]
    assert any(reason == "pruned:loop" for _, reason in shapes[0])


def test_first_rule_that_matches_gives_its_name():
    tree = make_tree([1], (0, 1, [5, 6], [0, 1]), (0, 1, [5], [0]))
    tree.verdicts.update(dict.fromkeys([1, 2], CORRECT))
    config = PruneConfig(rules=["duplicate", "solved"], solved_enough=2, continue_share=1e-9)
    policy = pruned(lambda tree, wave: [Branch(1, 1), Branch(2, 1), Branch(2, 1)], config)
    found = policy(tree, 1)
    assert [b.dropped for b in found] == ["solved", "duplicate", "duplicate"]
    assert {b.propensity for b in found} == {1e-9}


def test_rules_that_do_not_fit():
    with pytest.raises(UserError, match="dead_end needs a verifier"):
        pruned(fan(1), PruneConfig(rules=["dead_end"]))
    with pytest.raises(UserError, match="did you mean loop"):
        pruned(fan(1), PruneConfig(rules=["lop"]))


def test_budgets():
    policy = kary(KaryConfig(num_children=2, depth=5))
    _, whole = grown(4, policy)
    for limit in (1, 5, 14, 60):
        _, trees = grown(4, within(policy, BudgetConfig(max_nodes=limit)))
        assert [len(t.nodes) - 1 for t in trees] == [min(limit, len(t.nodes) - 1) for t in whole]
    _, trees = grown(4, within(policy, BudgetConfig(max_depth=2)))
    assert [len(t.nodes) for t in trees] == [1 + 2 + 4] * 4
    _, trees = grown(4, within(policy, BudgetConfig(max_tokens=6)))
    # waves of 2 and 4 steps fill the budget, the next is not begun
    assert [t.num_sampled for t in trees] == [6] * 4
    assert all(t.leaves() == [] for t in trees)


def test_full_tree():
    _, trees = grown(5, kary(KaryConfig(num_children=3, depth=3)))
    for tree in trees:
        assert len(tree.nodes) == 1 + 3 + 9 + 27
        assert [len(n.token_ids) for n in tree.nodes[1:13]] == [1] * 12
        assert [len(n.token_ids) for n in tree.nodes[13:]] == [4] * 27  # five steps and the end of text
        assert tree.leaves() == list(range(13, 40)) == list(tree.verdicts)
    _, trees = grown(5, kary(KaryConfig(num_children=2, depth=9)))
    assert all(
        len(t.leaves()) == 2**6 and len(t.nodes) == 2**7 - 1 for t in trees
    )  # chains end before the depth


def test_trees_of_one_problem_in_one_round_have_their_own_lots():
    tree = make_tree([1])
    policy = pruned(lambda tree, wave: [Branch(ROOT, 1)] * 40, PruneConfig(rules=["dead_end"], continue_share=0.5),
                    is_dead_end=lambda tree, node, offset: True)  # fmt: skip
    first = [branch.dropped for branch in policy(tree, 0)]
    assert [branch.dropped for branch in policy(tree, 0)] == first
    tree.occurrence = 1
    assert [branch.dropped for branch in policy(tree, 0)] != first
