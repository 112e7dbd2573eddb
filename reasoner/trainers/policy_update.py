"""One update of policy and critic on a minibatch, normalised over all processes.

Shape suffixes: N sampled tokens, S states that the critic is trained on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from reasoner.losses import (
    KL,
    PPOTerms,
    cispo,
    gspo,
    kl_k3,
    ppo_clip,
    truncated_importance,
    value_mse,
    value_of,
)
from reasoner.policy.packing import pack
from reasoner.records import SFTExample
from reasoner.registry import UserError, lookup
from reasoner.signals.reward import return_range
from reasoner.trainers.gates import check_gap, sampler_gap
from reasoner.trainers.loop import clip_and_step
from reasoner.trainers.policy_batch import Batch, Models
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import summed
from reasoner.tree import ROOT, Node, Problem, Tree
from reasoner.watchdog import beat


def _gspo(logprobs_N: torch.Tensor, old_N: torch.Tensor, b: Batch, config: PolicyGradientStage) -> PPOTerms:
    assert b.sequences is not None
    return gspo(logprobs_N, old_N, b.advantages_N, config.clip_low, config.clip_high, b.sequences)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Batch, PolicyGradientStage], PPOTerms]] = {
    "ppo_clip": lambda logprobs_N, old_N, b, c: ppo_clip(
        logprobs_N, old_N, b.advantages_N, c.clip_low, c.clip_high
    ),
    "gspo": _gspo,
    "cispo": lambda logprobs_N, old_N, b, c: cispo(
        logprobs_N, old_N, b.advantages_N, c.clip_low, c.clip_high
    ),
}


def update_once(
    part: Sequence[Batch],
    shown: Sequence[SFTExample],
    models: Models,
    optimizers: Sequence,
    config: PolicyGradientStage,
    accelerator: Accelerator,
    ceiling: float = math.inf,
    twice: Callable[[torch.Tensor, Sequence], bool] | None = None,
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """One step of policy and critic on a minibatch; the policy takes none with a gradient norm beyond the ceiling.

    Returns sums of the statistics over its tokens, and the trainer's log-probabilities before the round less the
    sampler's, both of this process. If these are too far apart, nothing is updated (UserError).

    Where nothing asks the policy to move (no token weighs, or all advantages are 0) it is not stepped, since
    an optimizer's momentum would move it all the same, and the update counts as `empty`. One whose gradient
    is no number is not taken and counts as `skipped`. `twice` is told each micro-batch's loss once its gradient is there,
    and gets the first one's twice: that gradient is the first time thrown away.
    """
    loss_fn = lookup(LOSSES, config.loss, "loss")
    total, signal, state_mass = summed(
        [
            sum(b.total for b in part),
            sum(float((b.weights_N * b.advantages_N.abs()).sum()) for b in part),
            sum(float(b.state_weights_S.sum()) for b in part),
        ],
        accelerator,
    )
    pulls = bool(total) and bool(config.kl_weight or config.entropy_weight)
    teaches = [bool(signal or pulls or shown), models.critic is not None and state_mass > 0]
    if not any(teaches):
        return {"empty": 1}, []
    ranks = accelerator.num_processes  # DDP and FSDP mean gradients over processes
    seen: defaultdict[str, float] = defaultdict(float)
    gaps: list[torch.Tensor] = []
    for b in (*part[: twice is not None], *part):
        beat()
        p = b.packed
        logprobs_N, entropy_N = models.policy(
            p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N, bool(config.entropy_weight),
            config.temperature,
        )  # fmt: skip
        old_N = logprobs_N.detach() if b.old_N is None else b.old_N
        if not b.is_again:
            gaps.append((old_N - b.sampler_N)[b.weights_N > 0])
        terms = loss_fn(logprobs_N, old_N, b, config)
        per_token_N = terms.loss_N * truncated_importance(old_N, b.sampler_N, config.importance_limit)
        if b.ref_N is not None:
            kl_N = lookup(KL, config.kl_estimator, "KL estimator")(logprobs_N, b.ref_N)
            per_token_N = per_token_N + config.kl_weight * kl_N
        if entropy_N is not None:
            per_token_N = per_token_N - config.entropy_weight * entropy_N
        loss = (per_token_N * b.weights_N).sum() * ranks / max(total, 1e-8)
        accelerator.backward(loss + 0.0 * logprobs_N.sum())
        if models.critic is not None:
            seen["value_loss"] += _critic_backward(b, models.critic, state_mass, config, accelerator)
        if twice is not None and twice(loss, optimizers):
            seen.clear()
            gaps.clear()
            continue
        with torch.no_grad():
            share_N = b.weights_N / max(total, 1e-8)
            seen["loss"] += float(loss.detach()) / ranks
            seen["clipped"] += float((terms.clipped_N * share_N).sum())
            if b.ref_N is not None:
                seen["kl_ref"] += float((kl_k3(logprobs_N, b.ref_N) * share_N).sum())
    if shown:
        seen["ptx_loss"] += imitate(shown, models, config, accelerator)
    check_gap(sampler_gap(gaps, accelerator), config.sampler_limit)
    count = len(optimizers)
    limits = [config.optimizer.max_grad_norm, config.critic_optimizer.max_grad_norm][:count]
    took = clip_and_step(
        [models.policy, models.critic][:count], optimizers, limits, teaches[:count], accelerator, ceiling
    )
    seen["grad_norm"], seen["stepped"] = took[0]
    seen["skipped"] += sum(not math.isfinite(norm) for norm, _ in took)
    seen["empty"] += not teaches[0]
    seen["updates"] += 1
    return dict(seen), gaps


def kl_moved(
    parts: Sequence[Sequence[Batch]], models: Models, config: PolicyGradientStage, accelerator: Accelerator
) -> float:
    """How far a round's updates have moved the policy from what sampled, in nats a token: mean k3 of KL(sampler ‖ policy).

    Measured after the last update, on the first micro-batch of each process.
    """
    sums = [0.0, 0.0]
    for batch, logprobs_N in _as_it_is_now(parts, models, config):
        moved_N = kl_k3(batch.sampler_N, logprobs_N) * batch.weights_N
        sums = [float(moved_N.sum()), float(batch.weights_N.sum())]
    moved, mass = summed(sums, accelerator)
    return moved / mass if mass else 0.0


def still_effective(
    parts: Sequence[Sequence[Batch]], models: Models, config: PolicyGradientStage, accelerator: Accelerator
) -> float:
    """The effective sample size of a round's tokens under the policy as it is now, as a share of them.

    (Σ w r)² / (Σ w Σ w r²) with r = p(now) / p(when sampled), on the first micro-batch of each process.
    """
    sums = [0.0, 0.0, 0.0]
    for batch, logprobs_N in _as_it_is_now(parts, models, config):
        ratio_N = (logprobs_N - batch.sampler_N).double().exp()
        w = batch.weights_N.double()
        sums = [float(x.sum()) for x in (w, w * ratio_N, w * ratio_N.square())]
    mass, first, second = summed(sums, accelerator)
    return first * first / (mass * second) if mass else 1.0


def _as_it_is_now(
    parts: Sequence[Sequence[Batch]], models: Models, config: PolicyGradientStage
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """The first micro-batch that the round has drawn, if any, and the policy's log-probabilities of its tokens."""
    for batch in [b for part in parts for b in part if not b.is_again][:1]:
        p = batch.packed
        with torch.no_grad():
            logprobs_N, _ = models.policy(
                p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N, temperature=config.temperature
            )
        yield batch, logprobs_N


def _critic_backward(
    b: Batch, critic, state_mass: float, config: PolicyGradientStage, accelerator: Accelerator
) -> float:
    """Add the gradient of the value loss of a micro-batch; returns this process's share of it."""
    p = b.packed
    at_S = b.state_S if len(b.state_S) else b.state_S.new_zeros(1)
    logits_S = critic(p.ids_BT, p.positions_BT, p.tour_B2T, at_S, p.source_N, p.target_N)
    values_S = value_of(logits_S, return_range(config.advantage.reward))
    loss = 0.0 * values_S.sum()
    if len(b.state_S):
        errors = (value_mse(values_S, b.returns_S) * b.state_weights_S).sum()
        loss = loss + errors * accelerator.num_processes / max(state_mass, 1e-8)
    accelerator.backward(loss)
    return float(loss.detach()) / accelerator.num_processes


def imitate(
    examples: Sequence[SFTExample], models: Models, config: PolicyGradientStage, accelerator: Accelerator
) -> float:
    """Add the gradient of the examples' negative log-likelihood, a mean over their tokens on all processes."""
    (total,) = summed([sum(len(e.completion_ids) for e in examples)], accelerator)
    trees = []
    for e in examples:
        tree = Tree.of_prompt(Problem(e.problem_id, "", "", {}), e.prompt_ids)
        tree.add(Node(ROOT, len(e.prompt_ids), tuple(e.completion_ids)))
        trees.append(tree)
    p = pack(trees, accelerator.device)
    logprobs_N, _ = models.policy(p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N)
    loss = -config.ptx_weight * logprobs_N.sum() / total
    accelerator.backward(loss * accelerator.num_processes)
    return float(loss.detach())


@contextmanager
def fitting(config: PolicyGradientStage) -> Iterator[None]:
    """A batch that does not fit the device's memory is a UserError that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise UserError(
            f"the device ran out of memory with tokens_per_batch={config.tokens_per_batch}; expected a batch that fits: "
            "lower it, or set gradient_checkpointing=true; the last checkpoint stays"
        ) from problem
