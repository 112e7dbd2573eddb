"""On a policy that can be enumerated, the expected surrogate gradient is the exact policy gradient."""

import numpy as np
import pytest
from tabular import Tabular, even, every, fan, pruned, uneven, vines

from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig

POLICY = Tabular.random(depth=3, num_actions=2, seed=1)
EXACT = POLICY.exact_gradient()


def expected_gradient(grow, method: str, critic=None, lam: float = 1, policy: Tabular = POLICY) -> np.ndarray:
    config = AdvantageConfig(method=method, gamma=1, lam=lam)
    total, mass = np.zeros_like(policy.exact_gradient()), 0.0
    for chance, tree in every(grow):
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


@pytest.mark.parametrize("method", ["rloo", "sibling_loo"])
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
