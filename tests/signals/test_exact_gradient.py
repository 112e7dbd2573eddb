"""On a policy that can be enumerated, the expected surrogate gradient is the exact policy gradient."""

from functools import cache

import numpy as np
import pytest
from tabular import Tabular, even, every, fan, grown, pruned, uneven, vines

from reasoner.search import places
from reasoner.search.branch import WHOLE_CHAIN, BranchConfig
from reasoner.search.places import RULES
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.tree import ROOT, Tree

POLICY = Tabular.random(depth=3, num_actions=2, seed=1)
EXACT = POLICY.exact_gradient()


def expected_gradient(grow, method: str, critic=None, lam: float = 1, policy: Tabular = POLICY) -> np.ndarray:
    config = AdvantageConfig(method=method, gamma=1, lam=lam)
    total, mass = np.zeros_like(policy.exact_gradient()), 0.0
    for chance, tree in every(grow):
        tree.scores["pass_rate"] = {ROOT: [0.2]}
        if critic is not None:
            critic(tree)
        total += chance * policy.surrogate_gradient(ADVANTAGES[method](tree, config))
        mass += chance
    assert mass == pytest.approx(1)
    return total


def wrong_critic(tree) -> None:
    """Values that are a function of the state, and wrong."""
    POLICY.score_exactly(tree)
    shifted = {i: [0.3 + 0.5 * v for v in values] for i, values in tree.scores["value"].items()}
    tree.scores["value"] = tree.scores["token_value"] = shifted


def test_the_exact_gradient_is_that_of_the_value():
    gradient = []
    for prefix, logits in POLICY.logits.items():
        for a in range(len(logits)):
            values = []
            for step in (1e-5, -1e-5):
                moved = {p: x.copy() for p, x in POLICY.logits.items()}
                moved[prefix][a] += step
                values.append(Tabular(POLICY.depth, moved, POLICY.right).value(()))
            gradient.append((values[0] - values[1]) / 2e-5)
    assert pytest.approx(gradient, abs=1e-9) == EXACT
    assert np.abs(EXACT).max() > 0.01


@pytest.mark.parametrize("method", ["rloo", "sibling_loo", "shrunk"])
@pytest.mark.parametrize(
    "grow", [lambda c: fan(POLICY, c, 2), lambda c: uneven(POLICY, c), lambda c: pruned(POLICY, c)],
    ids=["fan", "uneven", "pruned"],
)  # fmt: skip
def test_leave_one_out_is_unbiased(grow, method):
    assert expected_gradient(grow, method) == pytest.approx(EXACT, abs=1e-9)


@pytest.mark.parametrize("method", ["step_ppo", "ppo"])
@pytest.mark.parametrize(
    "grow", [lambda c: fan(POLICY, c, 1), lambda c: uneven(POLICY, c)], ids=["chain", "uneven"]
)
def test_a_critic_that_is_wrong_leaves_lambda_1_unbiased(grow, method):
    assert expected_gradient(grow, method, wrong_critic) == pytest.approx(EXACT, abs=1e-9)


def test_a_wrong_critic_biases_lambda_0():
    found = expected_gradient(lambda c: fan(POLICY, c, 1), "step_ppo", wrong_critic, lam=0)
    assert np.abs(found - EXACT).max() > 1e-3


def test_vineppo_is_unbiased():
    policy = Tabular.random(depth=2, num_actions=3, seed=4)
    found = expected_gradient(lambda c: vines(policy, c), "vineppo", policy=policy)
    assert found == pytest.approx(policy.exact_gradient(), abs=1e-9)


@pytest.mark.parametrize(("method", "grow", "share"), [
    ("dr_grpo", lambda c: fan(POLICY, c, 3), 2 / 3),  # the mean holds the trajectory itself: 1 - 1/3 is left
    ("spo_tree", lambda c: even(POLICY, c, 2, 2), 1 / 2),  # and 1 - 1/2 of two siblings
])  # fmt: skip
def test_a_mean_that_counts_its_own_shrinks_the_gradient(method, grow, share):
    assert expected_gradient(grow, method) == pytest.approx(share * EXACT, abs=1e-9)


def test_pruning_without_its_propensity_is_biased():
    def grow(choose):
        tree = pruned(POLICY, choose)
        for i, node in enumerate(tree.nodes):
            object.__setattr__(tree.nodes[i], "propensity", 1.0)
            assert node.propensity == 1.0
        return tree

    assert np.abs(expected_gradient(grow, "rloo") - EXACT).max() > 1e-3


RAGGED = Tabular.random(depth=3, num_actions=2, seed=2, end=1)  # chains of one to three tokens
RULED = {
    "none": {"num_points": 0},
    "one": {"num_points": 1},
    "two": {"num_points": 2},
    "again": {"num_points": 1, "num_rounds": 2},
    "two children": {"num_points": 1, "num_children": 2},
}


@pytest.fixture(scope="module", autouse=True)
def first_chains_branch_too():
    """Chains of three tokens are too short for the share that is right for long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "FIRST_RATE", 1.0)
        yield


@cache
def all_trees(
    where: str, shape: str = "one", is_ragged: bool = False, seed: int = 0
) -> tuple[tuple[float, Tree], ...]:
    config = BranchConfig(num_roots=2, where=where, **({"num_children": 1} | RULED[shape]))
    policy = RAGGED if is_ragged else POLICY
    found = tuple(every(lambda choose: grown(policy, choose, config, seed)))
    assert sum(chance for chance, _ in found) == pytest.approx(1)
    for _, tree in found:
        policy.score_exactly(tree)
        shifted = {i: [0.3 + 0.5 * v for v in values] for i, values in tree.scores["value"].items()}
        tree.scores["pass_rate"] = {ROOT: [0.2]}  # a prediction that is wrong
        tree.scores["value"] = tree.scores["token_value"] = shifted  # a critic that is wrong
    return found


def under_a_rule(
    method: str, where: str, shape: str = "one", is_ragged: bool = False, seed: int = 0
) -> np.ndarray:
    config = AdvantageConfig(method=method, gamma=1, lam=1)
    policy = RAGGED if is_ragged else POLICY
    trees = all_trees(where, shape, is_ragged, seed)
    return sum(chance * policy.surrogate_gradient(ADVANTAGES[method](tree, config)) for chance, tree in trees)  # pyright: ignore[reportReturnType]


UNBIASED = ["rloo", "shrunk", "sibling_loo", "step_ppo", "ppo", "vineppo"]


@pytest.mark.parametrize("is_ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("where", RULES)
@pytest.mark.parametrize("method", UNBIASED)
def test_the_real_rules_leave_the_gradient_exact(method, where, is_ragged):
    exact = RAGGED.exact_gradient() if is_ragged else EXACT
    assert under_a_rule(method, where, is_ragged=is_ragged) == pytest.approx(exact, abs=1e-9)
    assert any(len(tree.nodes) > 3 for _, tree in all_trees(where, is_ragged=is_ragged))


@pytest.mark.parametrize("shape", ["two", "again", "two children"])
@pytest.mark.parametrize("where", RULES)
@pytest.mark.parametrize("method", UNBIASED)
def test_also_with_more_points_rounds_and_children(method, where, shape):
    found = under_a_rule(method, where, shape, is_ragged=True)
    assert found == pytest.approx(RAGGED.exact_gradient(), abs=1e-9)
    sizes = [max(len(tree.nodes) for _, tree in all_trees(where, s, True)) for s in ("one", shape)]
    assert sizes[0] > 3 and (sizes[1] > sizes[0] or where == "entropy")  # of so short a chain few states stand out


@pytest.mark.parametrize("seed", range(1, 5))
def test_whatever_the_coins_say(seed):
    assert under_a_rule("rloo", "coin", is_ragged=True, seed=seed) == pytest.approx(
        RAGGED.exact_gradient(), abs=1e-9
    )


@pytest.mark.parametrize("where", RULES)
def test_siblings_counted_in_still_halve_it(where):
    """Two of them at every state that branches, wherever the rule branches."""
    for is_ragged, exact in ((False, EXACT), (True, RAGGED.exact_gradient())):
        found = under_a_rule("spo_tree", where, is_ragged=is_ragged)
        assert found == pytest.approx(0.5 * exact, abs=1e-9)


@pytest.mark.parametrize("where", ["spread_steps", "highest_entropy"])
@pytest.mark.parametrize("method", ["rloo", "sibling_loo", "step_ppo"])
def test_rules_that_look_at_the_whole_chain_are_biased(method, where):
    assert where in WHOLE_CHAIN
    exact = RAGGED.exact_gradient()
    assert np.abs(under_a_rule(method, where, is_ragged=True) - exact).max() > 0.02 * np.abs(exact).max()
