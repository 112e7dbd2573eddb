"""The min-form of process rewards, and step rewards, by hand."""

import math

import pytest

from reasoner.scoring.reward import RewardConfig, min_form, step_rewards


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
