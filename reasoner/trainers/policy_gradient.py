"""On-policy training: trees, rewards, advantages, clipped updates of policy and critic, in one loop.

What differs between methods is a function from a table (signals/advantages). Each token of a tree is
computed once in every pass, and losses are normalised over the global batch, so one process and several
make the same updates.

Shape suffixes: N sampled tokens, S states that the critic is trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.losses import kl_k3, ppo_clip, value_mse
from reasoner.policy.engine import Sampling
from reasoner.policy.local import LocalEngine
from reasoner.policy.models import save
from reasoner.records import SFTExample
from reasoner.registry import UserError, lookup
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.branch import tree_of
from reasoner.search.grow import Growth, grow
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.packing import pack
from reasoner.trainers.loop import Session, by_steps, make_optimizer
from reasoner.trainers.policy_batch import (
    Batch,
    Models,
    OwnChain,
    book,
    describe,
    grouped,
    is_mixed,
    prepare,
    score_values,
    verified_chains,
    whiten,
)
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_models import load_models
from reasoner.trainers.ranks import check_supported, summed
from reasoner.tree import ROOT, Node, Problem, Tree


def train_policy(
    model_path: str,
    prompting: Prompting,
    problems: Sequence[Problem],
    config: PolicyGradientStage,
    session: Session,
    critic_path: str | None = None,
    prm_path: str | None = None,
    demonstrations: Sequence[SFTExample] = (),
) -> None:
    """Train the policy of `model_path` and save it to `session.out`/model, the critic to `session.out`/critic."""
    if not problems:
        raise UserError("no problems to train on; expected at least one, check the problem source")
    method = lookup(ADVANTAGES, config.advantage.method, "advantage method")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    check_supported(accelerator)
    torch.manual_seed(session.seed)
    models, sampler = load_models(model_path, critic_path, prm_path, config)
    total = config.rounds * config.epochs * config.minibatches
    optimizers = [make_optimizer(models.policy, config.optimizer)]
    schedules = [by_steps(optimizers[0], config.optimizer, total)]
    if models.critic is not None:
        optimizers.append(make_optimizer(models.critic, config.critic_optimizer))
        schedules.append(by_steps(optimizers[1], config.critic_optimizer, total))
        models.critic, optimizers[1] = accelerator.prepare(models.critic, optimizers[1])
    models.policy, optimizers[0] = accelerator.prepare(models.policy, optimizers[0])
    for frozen in (models.ref, models.prm):
        if frozen is not None:
            frozen.to(accelerator.device).requires_grad_(False)
    engine = LocalEngine(
        sampler.to(accelerator.device), [prompting.eos_id], config.num_slots,
        max_context=_longest_prompt(problems, prompting) + config.max_tokens, ledger=session.ledger,
    )  # fmt: skip
    own: list[OwnChain] = []
    rng = random.Random(session.seed + accelerator.process_index)
    for round in range(config.rounds):
        chosen = [
            problems[(round * config.problems_per_round + i) % len(problems)]
            for i in range(config.problems_per_round)
        ]
        mine = [
            (i, p) for i, p in enumerate(chosen) if i % accelerator.num_processes == accelerator.process_index
        ]
        engine.load_weights(round)  # the engine runs the trained module itself: only old KV must go
        trees = rollout([p for _, p in mine], engine, prompting, config, session.seed, round)
        statuses = judge(trees, prompting.decode)
        kept = [
            (i, t) for (i, _), t in zip(mine, trees, strict=True) if not config.drop_uniform or is_mixed(t)
        ]
        kept_trees = [t for _, t in kept]
        if models.prm is not None:
            session.ledger.add(
                "prm", scored=score_steps(models.prm, kept_trees, "prm", config.tokens_per_batch)
            )
        if models.critic is not None:
            score_values(models.critic, kept_trees, config.tokens_per_batch)
        samples = [method(t, config.advantage) for t in kept_trees]
        if config.whiten:
            samples = whiten(samples, accelerator)
        own += verified_chains([p for _, p in mine], trees, prompting)
        parts = [
            [s for (i, _), s in zip(kept, samples, strict=True) if i % config.minibatches == m]
            for m in range(config.minibatches)
        ]
        prepared = [
            [prepare(s, models, config, accelerator.device) for s in grouped(p, config)] for p in parts
        ]
        seen: Counter[str] = Counter()
        for _ in range(config.epochs):
            for part in prepared:
                shown = rng.choices(demonstrations, k=config.ptx_batch) if demonstrations else []
                if own and config.self_batch:
                    shown += [c.example for c in rng.choices(own, [c.gain for c in own], k=config.self_batch)]
                stats = update_once(part, shown, models, optimizers, config, accelerator)
                seen.update(stats)
                for schedule in schedules:
                    schedule.step()
        book(session, trees, kept_trees, models, config)
        session.log(describe(trees, statuses, len(kept), seen, config, accelerator), round + 1)
        session.progress(round + 1, config.rounds, "")
    _save(models, prompting, session.out, accelerator)


def _longest_prompt(problems: Sequence[Problem], prompting: Prompting) -> int:
    return max(len(prompting.prompt_ids(p.prompt)) for p in problems)


def rollout(
    problems: Sequence[Problem],
    engine: LocalEngine,
    prompting: Prompting,
    config: PolicyGradientStage,
    seed: int,
    round: int,
) -> list[Tree]:
    """One tree per problem, by place: the same whatever else is in the batch or on another process."""
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    growth = Growth(prompting.mark_steps, config.max_tokens, Sampling(config.temperature), seed, round)
    grow(trees, engine, tree_of(config.tree), growth)
    return trees


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
    logprobs_N, _ = models.policy(p.ids_BT, p.positions_BT, p.mask_B1TT, p.source_N, p.target_N)
    loss = -config.ptx_weight * logprobs_N.sum() / total
    accelerator.backward(loss * accelerator.num_processes)
    return float(loss.detach())


def update_once(
    part: Sequence[Batch],
    shown: Sequence[SFTExample],
    models: Models,
    optimizers: list,
    config: PolicyGradientStage,
    accelerator: Accelerator,
) -> dict[str, float]:
    """One step of policy and critic on a minibatch; sums of the statistics over its tokens, on this process."""
    token_mass, state_mass = summed(
        [sum(float(b.weights_N.sum()) for b in part), sum(float(b.state_weights_S.sum()) for b in part)],
        accelerator,
    )
    ranks = accelerator.num_processes  # DDP and FSDP mean gradients over processes
    seen: Counter[str] = Counter()
    for b in part:
        p = b.packed
        logprobs_N, entropy_N = models.policy(
            p.ids_BT, p.positions_BT, p.mask_B1TT, p.source_N, p.target_N, bool(config.entropy_weight)
        )
        terms = ppo_clip(logprobs_N, b.old_N, b.advantages_N, config.clip_low, config.clip_high)
        per_token_N = terms.loss_N * b.importance_N
        if b.ref_N is not None:
            per_token_N = per_token_N + config.kl_weight * kl_k3(logprobs_N, b.ref_N)
        if entropy_N is not None:
            per_token_N = per_token_N - config.entropy_weight * entropy_N
        loss = (per_token_N * b.weights_N).sum() * ranks / max(token_mass, 1e-8)
        accelerator.backward(loss + 0.0 * logprobs_N.sum())
        if models.critic is not None:
            at_S = b.state_S if len(b.state_S) else b.state_S.new_zeros(1)
            values_S = models.critic(p.ids_BT, p.positions_BT, p.mask_B1TT, at_S).sigmoid()
            value_loss = 0.0 * values_S.sum()
            if len(b.state_S):
                value_loss = value_loss + (
                    value_mse(values_S, b.returns_S) * b.state_weights_S
                ).sum() * ranks / max(state_mass, 1e-8)
            accelerator.backward(value_loss)
            seen["value_loss"] += float(value_loss.detach()) / ranks
        with torch.no_grad():
            seen["loss"] += float(loss.detach()) / ranks
            seen["clipped"] += float((terms.clipped_N * b.weights_N).sum()) / max(token_mass, 1e-8)
            seen["kl_step"] += float((kl_k3(b.old_N, logprobs_N) * b.weights_N).sum()) / max(token_mass, 1e-8)
            seen["kl_sampler"] += float(
                ((b.importance_N - 1 - b.importance_N.log()) * b.weights_N).sum()
            ) / max(token_mass, 1e-8)
    if shown:
        seen["ptx_loss"] += imitate(shown, models, config, accelerator)
    limits = [config.optimizer.max_grad_norm, config.critic_optimizer.max_grad_norm]
    nets = [models.policy, models.critic]
    for net, optimizer, limit in zip(nets, optimizers, limits, strict=False):
        norm = accelerator.clip_grad_norm_(net.parameters(), limit)
        seen["grad_norm"] += float(norm) if net is models.policy else 0.0
        if not torch.isfinite(torch.as_tensor(float(norm))):
            seen["skipped"] += 1
        else:
            optimizer.step()
        optimizer.zero_grad()
    seen["updates"] += 1
    return dict(seen)


def _save(models: Models, prompting: Prompting, out: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        save(models.whole, prompting.tokenizer, out / "model")
        if models.critic is not None:
            accelerator.unwrap_model(models.critic).save(prompting.tokenizer, out / "critic")
    accelerator.wait_for_everyone()
