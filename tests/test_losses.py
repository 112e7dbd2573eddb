"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from reasoner.losses import kl_k3, ppo_clip, step_bce, truncated_importance, value_mse, weighted_mean

T = torch.tensor


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped", "slope"),
    [
        (1.1, 2.0, -2.2, False, -2.0),
        (1.5, 2.0, -2.4, True, 0.0),  # held at 1.2
        (0.5, 2.0, -1.0, False, -2.0),  # below the clip but the minimum is the free one
        (0.5, -2.0, 1.6, True, 0.0),  # held at 0.8
        (0.9, -2.0, 1.8, False, 2.0),
        (1.5, -2.0, 3.0, False, 2.0),
        (1.5, 0.0, 0.0, False, 0.0),
    ],
)
def test_ppo_clip(ratio, advantage, loss, is_clipped, slope):
    old = T([-1.0])
    logprobs = (old + math.log(ratio)).requires_grad_()
    terms = ppo_clip(logprobs, old, T([advantage]))
    assert terms.loss_N.item() == pytest.approx(loss, abs=1e-6)
    assert terms.clipped_N.tolist() == [is_clipped]
    terms.loss_N.sum().backward()
    assert logprobs.grad.item() == pytest.approx(slope * ratio, abs=1e-6)  # d ratio / d logprob = ratio


def test_ppo_clip_has_a_clip_for_each_side():
    logprobs = T([1.25, 1.35, 0.85, 0.75]).log()
    terms = ppo_clip(logprobs, torch.zeros(4), T([1.0, 1.0, -1.0, -1.0]), clip_low=0.2, clip_high=0.3)
    assert terms.loss_N.tolist() == pytest.approx([-1.25, -1.3, 0.85, 0.8], abs=1e-6)
    assert terms.clipped_N.tolist() == [False, True, False, True]


def test_ppo_clip_at_ratio_one_is_the_plain_policy_gradient():
    logprobs = T([-0.5, -3.0, -0.1], requires_grad=True)
    advantages = T([1.5, -2.0, 0.0])
    terms = ppo_clip(logprobs, logprobs.detach(), advantages)
    assert terms.loss_N.tolist() == pytest.approx([-1.5, 2.0, 0.0])
    assert not terms.clipped_N.any()
    terms.loss_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.5, 2.0, 0.0])


def test_kl_k3():
    # with p(token) = 1/2 the other gives it 1/4, 1/2 and 1
    found = kl_k3(T([0.5, 0.5, 0.5]).log(), T([0.25, 0.5, 1.0]).log())
    expected = [0.5 - 1 + math.log(2), 0.0, 2 - 1 - math.log(2)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_kl_k3_is_unbiased():
    p, other = T([0.7, 0.2, 0.1], dtype=torch.float64), T([0.3, 0.3, 0.4], dtype=torch.float64)
    kl = (p * (p / other).log()).sum()
    assert (p * kl_k3(p.log(), other.log())).sum().item() == pytest.approx(kl.item(), abs=1e-12)


def test_value_mse():
    values = T([1.0, 0.0, 0.25], requires_grad=True)
    losses = value_mse(values, T([0.0, 0.0, 1.0]))
    assert losses.tolist() == pytest.approx([0.5, 0.0, 0.28125])
    losses.sum().backward()
    assert values.grad.tolist() == pytest.approx([1.0, 0.0, -0.75])


def test_step_bce_takes_soft_labels_and_skips_nan():
    # p = 1/2, 3/4, 3/4, 3/4
    logits = T([0.0, math.log(3), math.log(3), math.log(3), 5.0], requires_grad=True)
    losses = step_bce(logits, T([1.0, 1.0, 0.0, 0.5, math.nan]))
    soft = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    expected = [math.log(2), -math.log(0.75), math.log(4), soft, 0.0]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)
    losses.sum().backward()
    assert logits.grad.tolist() == pytest.approx([-0.5, -0.25, 0.75, 0.25, 0.0], abs=1e-6)  # p - label


def test_truncated_importance():
    trainer = T([0.5, 0.5, 0.1]).log().requires_grad_()
    weights = truncated_importance(trainer, T([0.25, 0.1, 0.2]).log(), limit=3.0)
    assert weights.tolist() == pytest.approx([2.0, 3.0, 0.5], abs=1e-6)
    assert not weights.requires_grad


def test_weighted_mean_is_over_the_given_total():
    assert weighted_mean(T([1.0, 2.0, 4.0]), T([1.0, 0.5, 0.0]), 4.0).item() == pytest.approx(0.5)
    assert weighted_mean(torch.zeros(0), torch.zeros(0), 4.0).item() == 0
