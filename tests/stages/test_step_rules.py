"""Step rules that look ahead: what they would do to a policy gradient, and that a run which would use them so is refused."""

from dataclasses import replace

import numpy as np
import pytest
from tabular import Tabular, every, grown

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.data.steps import LOOK_AHEAD, RULES, Marking, StepConfig
from reasoner.pipeline import RunConfig, check, run
from reasoner.registry import UserError
from reasoner.search.branch import BranchConfig
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.trainers.policy_config import BY_STEP, OF_THE_WHOLE
from reasoner.tree import ROOT
from tests.stages.test_references import SMOKE, of

POLICY = Tabular.random(depth=4, num_actions=2, seed=2, end=1)  # chains of one to four tokens
STEPS = {
    "count": StepConfig(rule="count", size=2),
    "pieces": StepConfig(rule="pieces", size=2),
    "low_probability": StepConfig(rule="low_probability", size=1, threshold=0.7),
}


def expected(method: str, steps: StepConfig) -> np.ndarray:
    """The expected gradient of two chains where a rule says where steps end, under a critic that is wrong."""
    config, chains = AdvantageConfig(method=method, gamma=1, lam=1), BranchConfig(num_roots=2, num_points=0)
    total = np.zeros_like(POLICY.exact_gradient())
    for chance, tree in every(lambda choose: grown(POLICY, choose, chains)):
        values = {ROOT: [0.3 + 0.5 * POLICY.value(())]}
        for i, node in enumerate(tree.nodes[1:], start=1):
            found = RULES[steps.rule](node.token_ids, node.logprobs_full, (), Marking(steps, "", []))
            ends = sorted({*found, len(node.token_ids) - 1})
            tree.nodes[i] = replace(node, step_ends=tuple(ends))
            values[i] = [0.3 + 0.5 * POLICY.value(node.token_ids[: e + 1]) for e in ends]
        tree.scores["value"] = values
        total += chance * POLICY.surrogate_gradient(ADVANTAGES[method](tree, config))
    return total


@pytest.mark.parametrize("rule", sorted(STEPS))
def test_a_step_level_gradient_is_exact_by_rules_of_the_prefix_only(rule):
    exact = POLICY.exact_gradient()
    off = np.abs(expected("step_ppo", STEPS[rule]) - exact).max() / np.abs(exact).max()
    assert off > 0.02 if rule in LOOK_AHEAD else off < 1e-9


@pytest.mark.parametrize("rule", sorted(STEPS))
def test_what_a_whole_trajectory_earns_is_exact_whatever_the_steps(rule):
    assert expected("rloo", STEPS[rule]) == pytest.approx(POLICY.exact_gradient(), abs=1e-9)


def config(out, *overrides: str) -> RunConfig:
    return validate(RunConfig, apply_overrides(read_yaml(SMOKE), [f"out={out}", *overrides]), "smoke")


@pytest.mark.parametrize("rule", sorted(LOOK_AHEAD))
@pytest.mark.parametrize("method", [*BY_STEP, "ppo", "sibling_loo", "spo_tree", "tree_rl"])
def test_a_gradient_that_hangs_on_what_comes_after_is_refused_before_the_start(tmp_path, rule, method):
    asked = config(tmp_path / "run", f"prompt.steps.rule={rule}", of("ppo", "advantage.method", method))
    with pytest.raises(UserError) as fault:
        run(asked)
    told = str(fault.value)
    assert told.startswith(
        f"stages.ppo: prompt.steps.rule is {rule}, which tells where a step ends by the tokens behind it"
    )
    assert "expected delimiter or count" in told and "\n" not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("method", sorted(ADVANTAGES))
def test_what_hangs_on_no_step_may_have_any_rule(tmp_path, rule, method):
    """Without the PRM's scores in the reward only the methods that go step by step read where steps end."""
    weight = 0.2 if method in OF_THE_WHOLE else 0
    asked = config(
        tmp_path, f"prompt.steps.rule={rule}", of("ppo", "advantage.method", method),
        of("ppo", "advantage.reward.prm_weight", str(weight)), of("ppo", "curriculum", "{}"),
    )  # fmt: skip
    if rule in LOOK_AHEAD and method in BY_STEP:
        with pytest.raises(UserError, match=f"advantage.method {method} begins anew"):
            check(asked)
    else:
        check(asked)


@pytest.mark.parametrize("stage", ["rollout", "ppo"])
@pytest.mark.parametrize("where", ["every_step", "coin"])
@pytest.mark.parametrize("rule", sorted(LOOK_AHEAD))
def test_branching_at_step_ends_that_nobody_tells_while_drawing_is_refused(tmp_path, stage, where, rule):
    asked = config(
        tmp_path, f"prompt.steps.rule={rule}", of(stage, "tree", f"{{where: {where}}}"),
        of("ppo", "advantage.method", "rloo"), of("ppo", "critic", "null"),
    )  # fmt: skip
    with pytest.raises(
        UserError, match=rf"stages\.{stage}\.tree\.where has to know where steps end while chains are drawn"
    ):
        check(asked)
