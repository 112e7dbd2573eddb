"""Advantages of hand-typed trees: step-level GAE, leave-one-out, and the averages over shared tokens."""

from itertools import product

import numpy as np
import pytest
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree

from reasoner.signals.advantages import ADVANTAGES, CRITIC
from reasoner.signals.backup import leaf_weights
from reasoner.signals.credit import AdvantageConfig, Step, steps_of
from reasoner.signals.gae import step_ppo
from reasoner.signals.group import rloo
from reasoner.signals.reward import RewardConfig
from reasoner.tree import ROOT, Node, Problem, Tree

UNDISCOUNTED = AdvantageConfig(gamma=1, lam=1)


def chain(verdict, stop_reason: str = "eos") -> Tree:
    """Three steps of 2, 1 and 3 tokens; values 0.5, 0.6 and 0.8 before them, and 0.9 after the last."""
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1, 2])
    tree.add(Node(ROOT, 2, (5, 6, 7, 8, 9, 10), step_ends=(1, 2, 5), stop_reason=stop_reason))
    tree.verdicts[1] = verdict
    tree.scores["value"] = {ROOT: [0.5], 1: [0.6, 0.8, 0.9]}
    return tree


def valued_tree() -> Tree:
    tree = branching_tree()
    tree.scores["value"] = {
        ROOT: [0.5], 1: [0.4, 0.7, 0.1], 2: [0.2, 0.1], 3: [0.1], 4: [0.3, 0.1], 5: [0.1], 6: [0.1],
    }  # fmt: skip
    return tree


def test_steps_begin_in_ancestors():
    assert steps_of(branching_tree(), 6) == [
        Step([(1, 0, 2)], before=(0, 3), end=(1, 1)),
        Step([(1, 2, 3), (4, 0, 1)], before=(1, 2), end=(4, 0)),
        Step([(6, 0, 2)], before=(4, 1), end=(6, 1)),
    ]
    assert steps_of(branching_tree(), 5) == [
        Step([(1, 0, 2)], before=(0, 3), end=(1, 1)),
        Step([(1, 2, 4)], before=(1, 2), end=(1, 3)),
        Step([(3, 0, 2)], before=(1, 4), end=(3, 1)),
        Step([(5, 0, 1)], before=(3, 2), end=(5, 0)),
    ]


def test_gae_over_three_steps():
    sample = step_ppo(chain(CORRECT), AdvantageConfig(gamma=0.9, lam=0.5))
    # deltas: 0.9 · 0.6 - 0.5 = 0.04, 0.9 · 0.8 - 0.6 = 0.12, 1 - 0.8 = 0.2; each adds 0.45 of the next
    a1, a2, a3 = 0.1345, 0.21, 0.2
    assert sample.advantages[1].tolist() == pytest.approx([a1, a1, a2, a3, a3, a3])
    assert sample.weights[1].tolist() == [1] * 6
    assert [(t.node, t.offset, t.weight) for t in sample.targets] == [(0, 2, 1), (1, 2, 1), (1, 3, 1)]
    assert [t.value for t in sample.targets] == pytest.approx([a1 + 0.5, a2 + 0.6, a3 + 0.8])


@pytest.mark.parametrize("stop_reason", ["eos", "length", "context"])
@pytest.mark.parametrize(("verdict", "last"), [(CORRECT, 1 - 0.8), (WRONG, 0 - 0.8)])
def test_a_judged_outcome_is_terminal_however_the_trajectory_ended(verdict, last, stop_reason):
    # deltas 0.04 and 0.12 as above; at the end the outcome less V, and nothing for what would have followed
    found = step_ppo(chain(verdict, stop_reason), AdvantageConfig(gamma=0.9, lam=0.5))
    a2 = 0.12 + 0.45 * last
    assert found.advantages[1][[0, 2, 5]].tolist() == pytest.approx([0.04 + 0.45 * a2, a2, last])
    assert found.targets[-1].value == pytest.approx(last + 0.8)


def test_only_a_cut_that_nobody_judged_bootstraps():
    tree = chain(CORRECT, "length")
    tree.verdicts.clear()
    config = AdvantageConfig(gamma=0.9, lam=0.5)
    # the last delta is 0.9 · 0.9 - 0.8 = 0.01: V stands for the outcome that nobody has seen
    assert step_ppo(tree, config).advantages[1][[0, 2, 5]].tolist() == pytest.approx([0.096025, 0.1245, 0.01])
    for verdict, stop_reason in ((ERROR, "length"), (None, "eos")):  # our failure, and an end that is no cut
        tree = chain(verdict, stop_reason)
        if verdict is None:
            tree.verdicts.clear()
        assert step_ppo(tree, config).weights[1].tolist() == [0] * 6


@pytest.mark.parametrize("method", sorted(ADVANTAGES))
def test_no_method_pays_for_the_token_limit(method):
    """A cut changes nothing where the outcome was judged, and without a critic nothing where it was not."""
    samples = []
    for stop_reason, verdict in product(("eos", "length"), (CORRECT, None)):
        tree = make_tree([1], *[(0, 1, [5, 6], [0, 1])] * 3, verdicts={1: CORRECT, 2: WRONG, 3: WRONG})
        tree.scores["value"] = tree.scores["token_value"] = {ROOT: [0.5]} | {i: [0.6, 0.7] for i in (1, 2, 3)}
        tree.scores["pass_rate"] = {ROOT: [0.4]}
        object.__setattr__(tree.nodes[3], "stop_reason", stop_reason)
        if verdict is None:
            del tree.verdicts[3]
        samples.append(ADVANTAGES[method](tree, AdvantageConfig(method=method)))
    judged, unjudged, judged_cut, unjudged_cut = samples
    for a, b in ((judged, judged_cut), *([(unjudged, unjudged_cut)] if method not in CRITIC else [])):
        for i in (1, 2, 3):
            assert a.advantages[i].tolist() == b.advantages[i].tolist()
            assert a.weights[i].tolist() == b.weights[i].tolist()
    assert (unjudged_cut.weights[3].sum() > 0) == (method in CRITIC)


def test_process_rewards_enter_in_min_form():
    tree = chain(CORRECT)
    tree.scores["prm"] = {1: [0.0, 1.0, 0.0]}
    reward = RewardConfig(prm_weight=1.0, prm_temperature=1 / np.log(2))  # -2/5, 0, -2/5
    sample = step_ppo(tree, AdvantageConfig(gamma=1, lam=1, reward=reward))
    assert sample.advantages[1][[0, 2, 5]].tolist() == pytest.approx([0.2 - 0.5, 0.6 - 0.6, 0.6 - 0.8])


@pytest.mark.parametrize("leaf", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("outcome", [CORRECT, WRONG])
def test_undiscounted_advantages_are_the_reward_less_the_value_at_the_root(leaf, outcome):
    """Σ of step advantages telescopes at λ = 0; at λ = 1 the first is that sum and each is R - V(before)."""
    tree = valued_tree()
    tree.verdicts = dict.fromkeys(tree.leaves(), ERROR) | {leaf: outcome}  # one chain alone, on any path
    reward = float(outcome is CORRECT)
    steps = steps_of(tree, leaf)
    ends = [step.end for step in steps]
    deltas = step_ppo(tree, AdvantageConfig(gamma=1, lam=0)).advantages
    assert sum(deltas[node][index] for node, index in ends) == pytest.approx(reward - 0.5)
    whole = step_ppo(tree, UNDISCOUNTED).advantages
    before = [0.5, *tree.path_scores("value", leaf)[:-1]]
    assert [whole[node][index] for node, index in ends] == pytest.approx([reward - v for v in before])
    for step in steps:  # γ = λ = 1 inside a step: each of its tokens has the step's advantage
        tokens = np.concatenate([whole[node][start:end] for node, start, end in step.spans])
        assert tokens == pytest.approx(whole[step.end[0]][step.end[1]])


@pytest.mark.parametrize(("prior", "rate", "baselines"), [
    (1, 0.8, [1.8 / 3, 1.8 / 3, 2.8 / 3]),  # of a right draw: the other right one, the wrong one, and 0.8 once
    (4, 0.5, [3 / 6, 3 / 6, 4 / 6]),
])  # fmt: skip
def test_a_baseline_is_drawn_towards_the_predicted_pass_rate(prior, rate, baselines):
    tree = make_tree([1], *[(0, 1, [5, 6], [1])] * 4, verdicts={1: CORRECT, 2: CORRECT, 3: WRONG, 4: ERROR})
    tree.scores["pass_rate"] = {ROOT: [rate]}
    found = ADVANTAGES["shrunk"](tree, AdvantageConfig(method="shrunk", prior=prior))
    expected = [r - b for r, b in zip([1, 1, 0], baselines, strict=True)]
    assert [found.advantages[i].tolist() for i in (1, 2, 3)] == [pytest.approx([a, a]) for a in expected]
    assert found.weights[4].sum() == 0


def test_one_draw_alone_is_held_against_the_predicted_pass_rate():
    tree = make_tree([1], (0, 1, [5, 6], [1]), verdicts={1: CORRECT})
    tree.scores["pass_rate"] = {ROOT: [0.3]}
    config = AdvantageConfig(method="shrunk", reward=RewardConfig(outcome_weight=2))
    assert ADVANTAGES["shrunk"](tree, config).advantages[1].tolist() == pytest.approx([1.4, 1.4])


def test_what_is_seldom_right_weighs_most():
    tree = make_tree([1], *[(0, 1, [5], [0])] * 4, verdicts={1: CORRECT, 2: WRONG, 3: WRONG, 4: WRONG})
    found = ADVANTAGES["maxrl"](tree, AdvantageConfig(method="maxrl"))
    assert [found.advantages[i][0] for i in (1, 2, 3, 4)] == pytest.approx([3, -1, -1, -1])
    for same, verdict in ((0, WRONG), (0, CORRECT)):
        tree.verdicts = dict.fromkeys((1, 2, 3, 4), verdict)
        assert ADVANTAGES["maxrl"](tree, AdvantageConfig(method="maxrl")).advantages[1][0] == same


def test_shared_tokens_get_the_weighted_mean_and_errors_weigh_nothing():
    sample = step_ppo(valued_tree(), UNDISCOUNTED)  # outcomes: 1 and 4 right, 2 and 6 wrong, 5 our error
    expected = {
        # chains 1, 4 and 6 share the first three tokens; chain 1 alone is judged after that
        1: [2 / 3 - 0.5, 2 / 3 - 0.5, 2 / 3 - 0.4, 1 - 0.4, 1 - 0.7, 1 - 0.7],
        2: [0 - 0.5, 0 - 0.2, 0 - 0.2],
        3: [0, 0],
        4: [1 / 2 - 0.4, 1 - 0.3, 1 - 0.3],
        5: [0],
        6: [0 - 0.3, 0 - 0.3],
    }
    weights = {1: [3, 3, 3, 1, 1, 1], 2: [4, 4, 4], 3: [0, 0], 4: [2, 1, 1], 5: [0], 6: [1, 1]}
    for node, values in expected.items():
        assert sample.advantages[node].tolist() == pytest.approx(values)
        assert (8 * sample.weights[node]).tolist() == weights[node]
    targets = {(t.node, t.offset): (t.value, t.weight) for t in sample.targets}
    assert targets.keys() == {(0, 3), (1, 2), (1, 4), (2, 1), (4, 1)}
    assert targets[0, 3] == pytest.approx((2 / 7, 7 / 8))
    assert targets[1, 2] == pytest.approx((2 / 3, 3 / 8))
    assert targets[1, 4] == pytest.approx((1, 1 / 8))
    assert targets[2, 1] == pytest.approx((0, 1 / 2))
    assert targets[4, 1] == pytest.approx((1 / 2, 1 / 4))


def test_rloo_on_a_fan():
    tree = make_tree(
        [1], *[(0, 1, [5, 6], [0, 1])] * 4, verdicts={1: CORRECT, 2: WRONG, 3: WRONG, 4: CORRECT}
    )
    found = rloo(tree, AdvantageConfig(method="rloo")).advantages
    for leaf, advantage in {1: 2 / 3, 2: -2 / 3, 3: -2 / 3, 4: 2 / 3}.items():
        assert found[leaf].tolist() == pytest.approx([advantage] * 2)


def test_rloo_on_uneven_branches():
    tree = branching_tree()
    assert leaf_weights(tree) == {1: 1 / 8, 2: 1 / 2, 4: 1 / 8, 5: 1 / 8, 6: 1 / 8}
    sample = rloo(tree, AdvantageConfig(method="rloo"))
    # leaves 1, 4 and 6 share tokens, so the one other is leaf 2, which is wrong; for leaf 2: 0 - (2/8) / (3/8)
    right, second, last = 1, -2 / 3, 0
    assert sample.advantages[1].tolist() == pytest.approx([(2 * right + last) / 3] * 3 + [right] * 3)
    assert sample.advantages[2].tolist() == pytest.approx([second] * 3)
    assert sample.advantages[3].tolist() == [0, 0] and sample.weights[3].tolist() == [0, 0]
    assert sample.advantages[4].tolist() == pytest.approx([(right + last) / 2, right, right])
    assert sample.advantages[5].tolist() == [0] and sample.weights[5].tolist() == [0]
    assert sample.advantages[6].tolist() == pytest.approx([last] * 2)


def test_rloo_of_errors_and_of_one_chain():
    tree = make_tree([1], *[(0, 1, [5], [0])] * 3, verdicts={1: CORRECT, 2: ERROR, 3: WRONG})
    sample = rloo(tree, AdvantageConfig(method="rloo"))
    assert [sample.advantages[i].tolist() for i in (1, 2, 3)] == [[1], [0], [-1]]
    assert sample.weights[2].tolist() == [0]
    alone = rloo(chain(CORRECT), AdvantageConfig(method="rloo"))
    assert alone.advantages[1].tolist() == [0] * 6
    tree.verdicts[3] = ERROR  # one judged chain has no other to compare with
    assert rloo(tree, AdvantageConfig(method="rloo")).advantages[1].tolist() == [0]


@pytest.mark.parametrize("method", [rloo, step_ppo])
def test_an_empty_completion_weighs_nothing(method):
    tree = make_tree([1], *[(0, 1, [5], [0])] * 2, (0, 1, [], []), verdicts={1: CORRECT, 2: WRONG, 3: WRONG})
    tree.scores["value"] = {ROOT: [0.5], 1: [0.5], 2: [0.5], 3: []}
    sample = method(tree, UNDISCOUNTED)
    scale = 1 if method is rloo else 0.5
    assert [sample.advantages[i].tolist() for i in (1, 2, 3)] == [[scale], [-scale], []]
