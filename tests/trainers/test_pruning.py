"""Live pruning in on-policy rounds: refused by name where it would bias, drawn and told where it does not."""

import math

import pytest
from test_policy_gradient import QUICK, folder, prm, train

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.search.prune import RULES
from reasoner.stages.needs import check_needs
from reasoner.stages.ppo import PPO
from reasoner.trainers.plain_trees import plain_of_tree, tree_of_plain
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.pruning import UNBIASED
from reasoner.tree import ROOT, Node, Problem, Tree

__all__ = ["folder", "prm"]  # fixtures of this module as well
STEPS = PromptConfig.model_validate({"steps": {"rule": "count", "size": 2}})


def stage(method: str = "step_ppo", **options) -> PolicyGradientStage:
    options = {"tree": {"where": "coin"}, **options}
    return validate(PolicyGradientStage, {"advantage": {"method": method}, **options}, "test")


def odd(text: str, problem: Problem) -> bool:
    """A verifier of unfinished chains that means nothing."""
    return len(text) % 2 == 1


def test_each_rule_says_with_which_methods_it_goes():
    assert set(UNBIASED) == {"dead_end", *RULES}
    for rule, methods in UNBIASED.items():
        for method in methods:
            given = {"curriculum": {}} if method == "shrunk" else {}
            assert stage(method, prune={"rules": [rule]}, **given).prune.rules == [rule]


@pytest.mark.parametrize(
    ("rule", "method"),
    [("dead_end", "grpo"), ("unlikely", "sibling_loo"), ("unlikely", "vineppo"), ("solved", "rloo"),
     ("duplicate", "rloo"), ("low_score", "spo_tree"), ("loop", "tree_rl"), ("test_pruning:odd", "rloo")],
)  # fmt: skip
def test_a_method_that_a_rule_would_bias_is_refused_by_name(rule, method):
    with pytest.raises(
        UserError, match=f"prune.rules with {rule} and advantage.method {method}.*without {rule}"
    ):
        stage(method, prune={"rules": [rule]})


def test_branches_must_not_hang_on_other_chains_where_baselines_do():
    """By entropy one chain's tokens move the threshold by which another branches."""
    rules, entropy = {"rules": ["dead_end"]}, {"where": "entropy"}
    with pytest.raises(UserError, match=r"rloo and tree\.where entropy.*tree\.where every_step or coin"):
        stage("rloo", prune=rules, tree=entropy)
    assert stage("step_ppo", prune=rules, tree=entropy) and stage("rloo", tree=entropy)


@pytest.mark.parametrize(
    "option",
    [{"screen": 2}, {"implicit_prm": {}}, {"overlap": 1, "engine": {"kind": "vllm", "spawn": 1}}, {"shard": {}}],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_what_pruning_does_not_go_with_is_refused_by_name(option):
    with pytest.raises(UserError, match=f"prune.rules with {next(iter(option))}, which do not go together"):
        stage("rloo", prune={"rules": ["low_score"]}, **option)
    assert stage("rloo", **option)


def test_scores_need_a_model_and_verdicts_are_there_anyway(folder, tmp_path):
    raw = {"kind": "ppo", "model": "m", "prune": {"rules": ["unlikely"]}}
    check_needs([validate(PPO, raw, "test")], "delimiter")
    ppo = validate(PPO, {**raw, "prune": {"rules": ["low_score"]}}, "test")
    with pytest.raises(UserError, match=r"prune.score goes by the scores of a PRM, and the stage has none"):
        check_needs([ppo], "delimiter")
    with pytest.raises(UserError, match="low_score reads the prm and there is none; expected prm"):
        train(folder, tmp_path, {"prune": {"rules": ["low_score"]}}, prompt=STEPS)


def test_rounds_are_pruned_charged_and_told(folder, prm, tmp_path):
    """A PRM whose head says nothing scores one half, so that a bar above it is against every branch."""
    common = {"rounds": 3, "drop_uniform": False, "advantage": {"method": "rloo"}}
    plain, pruned = Ledger(), Ledger()
    _, before = train(folder, tmp_path / "plain", common, ledger=plain, prompt=STEPS)
    rules = {"rules": ["dead_end", "unlikely", "low_score"], "min_score": 1.1, "continue_share": 0.25}
    options = common | {"prune": rules, "dead_end": "test_pruning:odd"}
    _, rows = train(folder, tmp_path / "pruned", options, ledger=pruned, prompt=STEPS, prm_path=str(prm))
    assert all(math.isfinite(x) for row in rows for x in row.values())
    dropped, continued = (sum(row[f"ppo/pruned{x}"] for row in rows) for x in ("", "_but_continued"))
    chains = (
        QUICK["problems_per_round"] * 3
    )  # a round's, of which each branches twice where it has an inner step end
    assert 0 < continued < dropped and dropped + continued <= 3 * 2 * chains
    assert sum(row["ppo/generated"] for row in rows) == pruned.total("decoded") < plain.total("decoded")
    assert all(0 < row["ppo/kept_tokens"] <= row["ppo/generated"] for row in rows)
    assert "ppo/generated" not in before[0]
    read = pruned.to_dict()["counts"]["ppo"]["prm"]["scored"]
    assert read > 2 * pruned.total(
        "decoded"
    )  # of what is drawn so far, wave by wave, and once where it is learned from


def test_how_good_the_policy_is_is_told_by_chains_that_nobody_pruned(folder, tmp_path):
    """A branch that is right, or wrong, is not counted: which of them there are hangs on the chain before."""
    verdicts = []
    for share in (0.01, 1.0):
        options = {
            "rounds": 1,
            "advantage": {"method": "rloo"},
            "prune": {"rules": ["dead_end"], "continue_share": share},
            "dead_end": "test_pruning:odd",
        }
        verdicts.append(train(folder, tmp_path / str(share), options, prompt=STEPS)[1][0]["ppo/reward"])
    assert verdicts[0] == verdicts[1]


def test_a_pruned_tree_comes_back_from_a_checkpoint_as_it_was():
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [9])
    tree.add(Node(ROOT, 1, (4, 5), (-0.5, -0.5), step_ends=(0, 1)))
    tree.add(Node(1, 1, (), stop_reason="pruned:loop", propensity=0.25))
    tree.add(Node(1, 1, (6,), (-0.1,), step_ends=(0,), propensity=0.25))
    assert tree_of_plain(plain_of_tree(tree)).nodes == tree.nodes
