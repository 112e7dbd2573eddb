"""The min-form of process rewards, and step rewards, by hand."""

import math

import pytest
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.registry import UserError
from reasoner.signals.reward import (
    RewardConfig,
    doubts,
    length_cost,
    min_form,
    progress,
    return_range,
    step_rewards,
    trajectory_rewards,
)
from verifiers import Verdict


def test_min_form_by_hand():
    # at temperature 1 / ln 2 the weights are 2^-score: 1/2 and 1, that is 1/3 and 2/3
    assert min_form([1.0, 0.0], 1 / math.log(2)).tolist() == pytest.approx([0.0, -2 / 3])
    # 2^-0 : 2^-1 : 2^-0 = 2/5, 1/5, 2/5
    assert min_form([0.0, 1.0, 0.0], 1 / math.log(2)).tolist() == pytest.approx([-2 / 5, 0.0, -2 / 5])
    assert min_form([0.3], 0.1).tolist() == pytest.approx([-0.7])
    assert min_form([], 0.1).tolist() == []


def test_min_form_tends_to_the_minimum():
    scores = [0.9, 0.4, 0.7, 0.95]
    assert min_form(scores, 1e-3).tolist() == pytest.approx([0.0, -0.6, 0.0, 0.0], abs=1e-9)
    sums = [min_form(scores, t).sum() for t in (10, 1, 0.1, 0.01)]
    assert sums == sorted(sums, reverse=True) and sums[-1] == pytest.approx(0.4 - 1, abs=1e-9)
    assert sums[0] == pytest.approx(sum(scores) / 4 - 1, abs=0.01)  # a mean when soft


def test_min_form_cannot_be_raised_by_more_good_steps():
    short, long = min_form([0.4, 0.9], 0.05).sum(), min_form([0.4] + [0.9] * 50, 0.05).sum()
    assert short <= 0 and long <= 0
    assert long - short < 0.01


def test_min_form_survives_extreme_scores():
    assert min_form([0.0, 1.0], 1e-9).tolist() == [-1.0, 0.0]


def test_step_rewards():
    outcome_alone = step_rewards(1.0, None, 3, RewardConfig())
    assert outcome_alone.tolist() == [0.0, 0.0, 1.0]
    # by default the PRM has no weight
    assert step_rewards(1.0, [0.1, 0.2, 0.3], 3, RewardConfig()).tolist() == [0.0, 0.0, 1.0]
    both = RewardConfig(outcome_weight=2.0, prm_weight=0.5, prm_temperature=1 / math.log(2))
    assert step_rewards(1.0, [0.0, 1.0, 0.0], 3, both).tolist() == pytest.approx([-0.2, 0.0, 1.8])
    assert step_rewards(0.0, [0.0, 1.0, 0.0], 3, both).tolist() == pytest.approx([-0.2, 0.0, -0.2])


def test_progress_under_a_best_of_two_prover():
    # 1 - (1 - v)^2: 0.5 → 3/4, 0.75 → 15/16, 0.25 → 7/16
    found = progress([0.75, 0.25], start=0.5, best_of=2)
    assert found.tolist() == pytest.approx([15 / 16 - 3 / 4, 7 / 16 - 15 / 16])
    # a prover that is the policy itself: differences of its values, which telescope
    assert progress([0.75, 0.25, 0.6], 0.5, 1).sum() == pytest.approx(0.1)


def test_filler_and_repeats_pay_in_the_sum_alone():
    """A PRM that likes filler: ten more steps of 0.9 behind a flawed one."""
    short, padded = [0.9, 0.2], [0.9, 0.2] + [0.9] * 10
    gains = {}
    for form in ("sum", "min", "progress", "difference"):
        config = RewardConfig(prm_weight=1.0, prm_form=form)
        total = [step_rewards(0.0, s, len(s), config, start=0.5).sum() for s in (short, padded)]
        gains[form] = total[1] - total[0]
    assert gains["sum"] == pytest.approx(9.0)
    assert abs(gains["min"]) < 0.01
    assert max(gains["progress"], gains["difference"]) < 0.71  # the last score less the first, once


def test_length_cost():
    config = RewardConfig(length_free=10, length_span=4)
    assert [length_cost(n, config) for n in (0, 10, 11, 14, 99)] == [0, 0, 0.25, 1, 1]


def fused(verdict, **options):
    tree = make_tree([1], (0, 1, [5, 6, 7, 8], [1, 3]), verdicts={1: verdict})
    tree.scores["prm"] = {0: [0.5], 1: [0.8, 0.6]}
    tree.scores["orm"] = {1: [0.1, 0.7]}
    rewards = trajectory_rewards(tree, 1, RewardConfig(**options))
    return None if rewards is None else pytest.approx(rewards.tolist())


def test_trajectory_rewards():
    assert fused(CORRECT) == [0, 1]
    assert fused(ERROR) is None
    assert fused(CORRECT, prm_weight=2, prm_form="difference") == [0.6, 1 - 0.4]
    assert fused(CORRECT, orm_weight=0.1) == [0, 1 + 0.1 * 0.2]
    assert fused(Verdict("no_answer", "unparseable"), format_weight=0.3) == [0, -0.3]
    assert fused(WRONG, format_weight=0.3) == [0, 0]
    assert fused(WRONG, length_weight=0.5, length_free=2, length_span=4) == [0, -0.25]


def test_a_small_orm_weight_never_overrules_the_verifier():
    config = RewardConfig(orm_weight=0.9)
    right = make_tree([1], (0, 1, [5], [0]), verdicts={1: CORRECT})
    wrong = make_tree([1], (0, 1, [5], [0]), verdicts={1: WRONG})
    right.scores["orm"], wrong.scores["orm"] = {1: [0.0]}, {1: [1.0]}
    assert trajectory_rewards(right, 1, config).sum() > trajectory_rewards(wrong, 1, config).sum()
    assert doubts(config) == []


def test_a_verifiers_partial_credit_is_paid_where_it_is_asked_for():
    config = RewardConfig(partial_weight=0.8)
    of = {}
    for name, verdict in (
        ("right", CORRECT), ("half", Verdict("incorrect", "wrong", 0.5)), ("nothing", Verdict("incorrect", "wrong", 0.0)),
        ("unscored", Verdict("incorrect", "wrong")), ("silent", Verdict("no_answer", "unparseable", 0.5)),
    ):  # fmt: skip
        tree = make_tree([1], (0, 1, [5, 6], [0, 1]), verdicts={1: verdict})
        of[name] = trajectory_rewards(tree, 1, config).tolist()
        assert trajectory_rewards(tree, 1, RewardConfig()).sum() == (name == "right")
    assert of == {"right": [0, 1], "half": [0, 0.4], "nothing": [0, 0], "unscored": [0, 0], "silent": [0, 0]}
    assert doubts(config) == [] and "partial_weight is not below" in doubts(RewardConfig(partial_weight=1.0))[0]
    assert return_range(RewardConfig(partial_weight=2.0)) == (0, 2)


def test_doubts():
    assert doubts(RewardConfig(prm_weight=0.1)) == []
    assert "outcome_weight is 0" in doubts(RewardConfig(outcome_weight=0, prm_weight=1))[0]
    assert "sum" in doubts(RewardConfig(prm_weight=1, prm_form="sum"))[0]
    assert "overrule" in doubts(RewardConfig(orm_weight=1))[0]
    with pytest.raises(UserError, match="nothing is rewarded"):
        doubts(RewardConfig(outcome_weight=0))
    with pytest.raises(UserError, match="did you mean min"):
        doubts(RewardConfig(prm_form="mim"))
