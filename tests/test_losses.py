"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from reasoner.losses import (
    KL,
    Sequences,
    cispo,
    gspo,
    kl_k1,
    kl_k2,
    kl_k3,
    ppo_clip,
    step_bce,
    truncated_importance,
    value_mse,
    weighted_mean,
)

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


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    logprobs = T([1.5, 0.5, 1.1]).log().requires_grad_()
    terms = cispo(logprobs, torch.zeros(3), T([2.0, -1.0, 1.0]), clip_low=0.2, clip_high=0.3)
    expected = [-1.3 * 2 * math.log(1.5), 0.8 * math.log(0.5), -1.1 * math.log(1.1)]
    assert terms.loss_N.tolist() == pytest.approx(expected, abs=1e-6)
    assert terms.clipped_N.tolist() == [True, True, False]
    terms.loss_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-2.6, 0.8, -1.1], abs=1e-6)


def pairs(*rows: tuple[int, int, float]) -> Sequences:
    """(token, trajectory, share) rows."""
    token, sequence, share = (list(x) for x in zip(*rows, strict=True))
    return Sequences(T(token), T(sequence), T(share).float(), T(sequence).bincount().float())


def test_gspo_on_two_sequences():
    # ratios of tokens 2 and 1/2, and 4: of sequences 1 and 4
    logprobs = T([2.0, 0.5, 4.0]).log().requires_grad_()
    terms = gspo(
        logprobs, torch.zeros(3), T([1.0, 1.0, 1.0]), 0.2, 0.2, pairs((0, 0, 1), (1, 0, 1), (2, 1, 1))
    )
    assert terms.loss_N.tolist() == pytest.approx([-1.0, -1.0, -1.2], abs=1e-6)
    assert terms.clipped_N.tolist() == [0, 0, 1]
    terms.loss_N.sum().backward()
    # d exp(mean) / d logprob = ratio / length, twice since both tokens carry the sequence's ratio
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -1.0, 0.0], abs=1e-6)


def test_gspo_averages_over_the_sequences_that_share_a_token():
    # token 0 is shared: with token 1 the ratio is √(1 · 4) = 2, with token 2 it is 1
    logprobs = T([1.0, 4.0, 1.0]).log()
    shares = pairs((0, 0, 0.25), (1, 0, 1), (0, 1, 0.75), (2, 1, 1))
    terms = gspo(logprobs, torch.zeros(3), T([1.0, 1.0, 1.0]), 0.2, 9.0, shares)
    assert terms.loss_N.tolist() == pytest.approx([-(0.25 * 2 + 0.75), -2.0, -1.0], abs=1e-6)


@pytest.mark.parametrize("loss", [ppo_clip, cispo])
def test_the_first_update_is_the_plain_policy_gradient_whatever_the_loss(loss):
    logprobs = T([-0.5, -3.0, -0.1], requires_grad=True)
    terms = loss(logprobs, logprobs.detach(), T([1.5, -2.0, 0.0]))
    terms.loss_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.5, 2.0, 0.0])
    assert not terms.clipped_N.any()


def test_the_first_update_of_gspo_is_the_plain_policy_gradient_of_each_sequence():
    logprobs = T([-0.5, -3.0, -0.1], requires_grad=True)
    shares = pairs((0, 0, 1), (1, 0, 1), (2, 1, 1))
    terms = gspo(logprobs, logprobs.detach(), T([1.5, 1.5, -2.0]), 0.2, 0.2, shares)
    terms.loss_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.5, -1.5, 2.0])


def test_kl_estimates_by_hand():
    p, other = T([0.5, 0.5]).log(), T([0.25, 1.0]).log()
    assert kl_k1(p, other).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert kl_k2(p, other).tolist() == pytest.approx([0.5 * math.log(2) ** 2] * 2)


def test_gradients_of_the_kl_estimators():
    """Expected gradients over tokens drawn from p: k1 none, k2 that of KL(p ‖ q), k3 that of KL(q ‖ p)."""
    logits = T([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    q = T([0.2, 0.5, 0.3], dtype=torch.float64)

    def gradient(value):
        (found,) = torch.autograd.grad(value(logits.log_softmax(-1)), logits)
        return found.tolist()

    drawn = logits.softmax(-1).detach()
    found = {name: gradient(lambda p, kl=kl: (drawn * kl(p, q.log())).sum()) for name, kl in KL.items()}
    assert found["k1"] == pytest.approx([0, 0, 0], abs=1e-12)
    assert found["k2"] == pytest.approx(gradient(lambda p: (p.exp() * (p - q.log())).sum()), abs=1e-12)
    assert found["k3"] == pytest.approx(gradient(lambda p: (q * (q.log() - p)).sum()), abs=1e-12)
