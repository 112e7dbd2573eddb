"""Stored trees under other options: identities that hold whatever the policy, on trees typed by hand."""

import io

import pytest
import yaml
from rich.console import Console
from small_models import CORRECT, WRONG, branching_tree, make_tree, save_small_qwen

from reasoner.evals.advantage_replay import Comparison, compare_variants, comparison_table
from reasoner.registry import UserError
from reasoner.store import write_trees


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_small_qwen(folder / "models/sft/model", ["1 + 2 = 3\n"] * 9, 300)
    flat = make_tree(
        [1, 2], *[(0, 2, [10 + i, 20 + i, 30], [1, 2]) for i in range(4)],
        verdicts={1: CORRECT, 2: WRONG, 3: WRONG, 4: CORRECT},
    )  # fmt: skip
    easy = make_tree([1], (0, 1, [5], [0]), (0, 1, [6], [0]), verdicts={1: CORRECT, 2: CORRECT})
    write_trees(folder / "trees/verify", [branching_tree(), flat, easy])
    stages = [
        {"kind": "rollout", "name": "rollout", "model": "sft"},
        {"kind": "verify", "name": "verify"},
        {"kind": "ppo", "name": "ppo", "advantage": {"method": "rloo"}},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return folder


def test_the_run_against_itself_and_scaled_rewards(run):
    own, again, doubled, turned = compare_variants(
        run, ["gamma=1.0", "reward.outcome_weight=2", "method=dr_grpo"], "verify"
    )
    assert own.variant == "own"
    for row in (own, again):
        assert (row.correlation, row.same_sign, row.return_gap) == pytest.approx((1, 1, 0))
        assert row.gradient_cosine == pytest.approx(1, abs=1e-5)
    assert doubled.gradient_cosine == pytest.approx(1, abs=1e-5)
    assert doubled.gradient_norm == pytest.approx(2 * own.gradient_norm, rel=1e-4)
    assert doubled.deviation == pytest.approx(2 * own.deviation)
    assert own.gradient_norm > 1e-3
    # leave-one-out and the group's mean as baselines: tokens that several leaves share may turn where these nearly cancel
    assert 0.9 < turned.same_sign < 1 and 0.8 < turned.gradient_cosine < 1 - 1e-6


def test_a_critic_that_the_run_lacks_is_the_mean_outcome(run):
    critic = compare_variants(run, ["method=step_ppo,lam=1.0"], "verify")[1]
    assert critic.gradient_norm > 1e-3 and -1 <= critic.gradient_cosine <= 1
    assert critic.return_gap == pytest.approx(0, abs=1e-6)  # with lambda 1 both predict the outcome itself


def test_bad_input_is_named(run, tmp_path):
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        compare_variants(tmp_path, [])
    with pytest.raises(UserError, match="expected one of"):
        compare_variants(run, ["method=nothing"])
    with pytest.raises(UserError, match="no orm stage"):
        compare_variants(run, ["reward.orm_weight=0.1"])
    with pytest.raises(UserError, match="no tree in verify"):
        compare_variants(run, [], num_trees=0)


def test_the_comparison_keeps_names_and_numbers_in_80_columns():
    name = "method=vineppo,reward.prm_weight=0,gamma=0.9"
    row = Comparison(name, -0.123, 0.456, 0.789, 0.5, 0.321, 12.3, 0.654)
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table([row]))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert name in "".join(line[:20].strip() for line in shown.splitlines())
    assert {"-0.123", "0.456", "0.789", "0.321", "12.3", "0.654", "50"} <= set(shown.split())
