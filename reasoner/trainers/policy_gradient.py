"""On-policy training: trees, rewards, advantages, clipped updates of policy and critic, in one loop.

What differs between methods is a function from a table (signals/advantages). Each token of a tree is
computed once in every pass, and losses are normalised over the global batch, so one process and several
make the same updates.

Shape suffixes: N sampled tokens, S states that the critic is trained on.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field

from reasoner.config import Config
from reasoner.data.prompting import Prompting
from reasoner.losses import kl_k3, ppo_clip, truncated_importance, value_mse
from reasoner.policy.adapters import LoRA, load_merged, load_trainable
from reasoner.policy.engine import Sampling
from reasoner.policy.heads import PolicyNet, ScoreNet
from reasoner.policy.local import LocalEngine
from reasoner.policy.models import save
from reasoner.records import PolicySample, SFTExample
from reasoner.registry import UserError, lookup
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, grow
from reasoner.signals.advantages import ADVANTAGES, AdvantageConfig
from reasoner.signals.packing import Packed, batches, pack
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.trainers.ranks import check_supported, same_count, summed
from reasoner.tree import ROOT, Node, Problem, Tree


class PolicyGradientStage(Config):
    """PPO on trees of rollouts; the defaults are step-level PPO with a critic."""

    rounds: int = Field(20, ge=1, description="rollouts followed by updates")
    problems_per_round: int = Field(64, ge=1, description="problems rolled out in a round, over all processes")
    tree: BranchConfig = BranchConfig()
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    advantage: AdvantageConfig = AdvantageConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-6)
    critic_optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    minibatches: int = Field(2, ge=1, description="updates per pass over a round's problems")
    epochs: int = Field(1, ge=1, description="passes over a round's problems")
    clip_low: float = Field(0.2, gt=0, description="PPO's clip below 1")
    clip_high: float = Field(0.2, gt=0, description="PPO's clip above 1; larger than clip_low is DAPO's clip-higher")
    kl_weight: float = Field(0.0, ge=0, description="weight of KL(policy ‖ the policy at the start), estimator k3")
    entropy_weight: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    ptx_weight: float = Field(0.0, ge=0, description="weight of imitating demonstrations beside (InstructGPT's PPO-ptx)")
    ptx_batch: int = Field(32, ge=1, description="demonstrations per update and process")
    imitate_self: bool = Field(False, description="imitate the policy's own verified chains as well (self-imitation)")
    importance_limit: float = Field(2.0, gt=0, description="bound of the weight between trainer and sampler")
    drop_uniform: bool = Field(True, description="leave out trees whose judged answers are all right or all wrong")
    whiten: bool = Field(True, description="scale advantages to mean 0 and deviation 1 over the round")
    tokens_per_batch: int = Field(4096, ge=1, description="packed positions in one forward pass")
    num_slots: int = Field(128, ge=1, description="sequences that the engine decodes at once")
    lora: LoRA | None = Field(None, description="train a LoRA adapter instead of all weights")


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a round with all that the updates need; flat tensors as in Packed."""

    packed: Packed
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    importance_N: torch.Tensor
    old_N: torch.Tensor
    ref_N: torch.Tensor | None
    state_S: torch.Tensor
    returns_S: torch.Tensor
    state_weights_S: torch.Tensor


@dataclass
class Models:
    """The networks of a run; `critic`, `ref` and `prm` are None where the method or the reward does without."""

    whole: Any  # what is saved: the causal LM, or its PEFT wrapper
    policy: Any
    critic: Any | None
    ref: PolicyNet | None
    prm: ScoreNet | None


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
    models, sampler = _load(model_path, critic_path, prm_path, config)
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
    shown_from = list(demonstrations)
    rng = random.Random(session.seed + accelerator.process_index)
    for round in range(config.rounds):
        chosen = [problems[(round * config.problems_per_round + i) % len(problems)] for i in range(config.problems_per_round)]
        mine = [(i, p) for i, p in enumerate(chosen) if i % accelerator.num_processes == accelerator.process_index]
        engine.load_weights(round)  # the engine runs the trained module itself: only old KV must go
        trees = rollout([p for _, p in mine], engine, prompting, config, session.seed, round)
        statuses = judge(trees, prompting.decode)
        kept = [(i, t) for (i, _), t in zip(mine, trees, strict=True) if not config.drop_uniform or is_mixed(t)]
        kept_trees = [t for _, t in kept]
        if models.prm is not None:
            session.ledger.add("prm", scored=score_steps(models.prm, kept_trees, "prm", config.tokens_per_batch))
        if models.critic is not None:
            score_values(models.critic, kept_trees, config.tokens_per_batch)
        samples = [method(t, config.advantage) for t in kept_trees]
        if config.whiten:
            samples = whiten(samples, accelerator)
        if config.imitate_self:
            shown_from += verified_chains([p for _, p in mine], trees, prompting)
        parts = [
            [s for (i, _), s in zip(kept, samples, strict=True) if i % config.minibatches == m]
            for m in range(config.minibatches)
        ]
        prepared = [[prepare(s, models, config, accelerator.device) for s in grouped(p, config)] for p in parts]
        seen: Counter[str] = Counter()
        for _ in range(config.epochs):
            for part in prepared:
                shown = rng.choices(shown_from, k=config.ptx_batch) if config.ptx_weight else []
                stats = update_once(part, shown, models, optimizers, config, accelerator)
                seen.update(stats)
                for schedule in schedules:
                    schedule.step()
        book(session, trees, kept_trees, models, config)
        session.log(describe(trees, statuses, len(kept), seen, config, accelerator), round + 1)
        session.progress(round + 1, config.rounds, "")
    _save(models, prompting, session.out, accelerator)


def _load(model_path: str, critic_path: str | None, prm_path: str | None, config: PolicyGradientStage):
    """The networks, and the causal LM that samples: the trained one itself, so that no weights are copied."""
    whole, lm = load_trainable(model_path, config.lora)
    critic = None
    if config.advantage.method == "step_ppo":
        critic = ScoreNet.load(Path(critic_path)) if critic_path else ScoreNet(load_merged(model_path))
        critic.lm.requires_grad_(True)
    ref = PolicyNet(copy.deepcopy(lm)) if config.kl_weight else None
    prm = ScoreNet.load(Path(prm_path)).eval() if prm_path and config.advantage.reward.prm_weight else None
    return Models(whole, PolicyNet(lm), critic, ref, prm), lm


def _longest_prompt(problems: Sequence[Problem], prompting: Prompting) -> int:
    return max(len(prompting.prompt_ids(p.prompt)) for p in problems)


def rollout(
    problems: Sequence[Problem], engine: LocalEngine, prompting: Prompting, config: PolicyGradientStage, seed: int, round: int
) -> list[Tree]:
    """One tree per problem, by place: the same whatever else is in the batch or on another process."""
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    growth = Growth(prompting.mark_steps, config.max_tokens, Sampling(config.temperature), seed, round)
    grow(trees, engine, tree_of(config.tree), growth)
    return trees


def is_mixed(tree: Tree) -> bool:
    """True where some judged leaves are right and some are not: the others carry no advantage over their mean."""
    return len({v.status == "correct" for v in tree.verdicts.values() if v.status != "error"}) == 2


def book(session: Session, trees: Sequence[Tree], kept: Sequence[Tree], models: Models, config: PolicyGradientStage) -> None:
    """Count a round's work in the ledger."""
    leaves = sum(len(t.leaves()) for t in trees)
    tokens = sum(t.num_sampled for t in kept)
    session.ledger.add(
        "policy", trajectories_generated=leaves, trajectories_kept=sum(len(t.leaves()) for t in kept),
        verifications=leaves, scored=tokens, trained=tokens * config.epochs,
    )  # fmt: skip
    if models.critic is not None:
        session.ledger.add("critic", trained=tokens * config.epochs, scored=tokens)


def score_values(critic, trees: Sequence[Tree], max_tokens: int) -> None:
    """Set `tree.scores["value"]`: the critic's value at the prompt's end and at every step end."""
    device = next(critic.parameters()).device
    critic.eval()
    for numbers in same_count(batches(trees, max_tokens)):
        of_batch = [trees[t] for t in numbers] or [_blank()]
        packed = pack(of_batch, device)
        at = [
            [(i, packed.state(b, i, offset)) for i, offset in _value_states(tree)] for b, tree in enumerate(of_batch)
        ]
        flat_S = torch.tensor([f for of_tree in at for _, f in of_tree], device=device)
        with torch.no_grad():
            values = iter(critic(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, flat_S).sigmoid().tolist())
        for tree, of_tree in zip(of_batch, at, strict=True):
            scores = tree.scores.setdefault("value", {})
            for node, _ in of_tree:
                scores.setdefault(node, []).append(next(values))
    critic.train()


def _value_states(tree: Tree) -> list[tuple[int, int]]:
    prompt_end = (ROOT, len(tree.nodes[ROOT].token_ids))
    return [prompt_end, *((i, e + 1) for i, n in enumerate(tree.nodes) if i != ROOT for e in n.step_ends)]


def _blank() -> Tree:
    """A prompt of one token: keeps a process that has run out of trees in step with the others."""
    return Tree.of_prompt(Problem("", "", "", {}), [0])


def whiten(samples: Sequence[PolicySample], accelerator: Accelerator) -> list[PolicySample]:
    """Advantages with weighted mean 0 and deviation 1 over the round's tokens on all processes."""
    a = np.concatenate([x for s in samples for x in s.advantages.values()] or [np.zeros(0)])
    w = np.concatenate([x for s in samples for x in s.weights.values()] or [np.zeros(0)])
    mass, first, second = summed([w.sum(), (w * a).sum(), (w * a * a).sum()], accelerator)
    if mass == 0:
        return list(samples)
    mean = first / mass
    deviation = max(1e-8, (second / mass - mean * mean)) ** 0.5
    return [
        PolicySample(s.tree, {i: (x - mean) / (deviation + 1e-4) for i, x in s.advantages.items()}, s.weights, s.targets)
        for s in samples
    ]


def grouped(samples: Sequence[PolicySample], config: PolicyGradientStage) -> list[list[PolicySample]]:
    """Micro-batches of one minibatch; every process makes the same number, empty ones at the end."""
    return [[samples[i] for i in numbers] for numbers in same_count(batches([s.tree for s in samples], config.tokens_per_batch))]


def prepare(samples: list[PolicySample], models: Models, config: PolicyGradientStage, device) -> Batch:
    """Pack a micro-batch and take the trainer's own log-probabilities of its tokens before any update."""
    trees = [s.tree for s in samples] or [_blank()]
    packed = pack(trees, device)
    weights_N = packed.flat([s.weights for s in samples] or [{}])
    sampler_N = packed.flat([{i: np.array(n.logprobs) for i, n in enumerate(t.nodes)} for t in trees])
    with torch.no_grad():
        old_N, _ = models.policy(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, packed.source_N, packed.target_N)
        ref_N = None
        if models.ref is not None:
            ref_N, _ = models.ref(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, packed.source_N, packed.target_N)
    targets = [(b, t) for b, s in enumerate(samples) for t in s.targets]
    return Batch(
        packed=packed,
        advantages_N=packed.flat([s.advantages for s in samples] or [{}]),
        weights_N=weights_N,
        importance_N=truncated_importance(old_N, sampler_N, config.importance_limit),
        old_N=old_N,
        ref_N=ref_N,
        state_S=torch.tensor([packed.state(b, t.node, t.offset) for b, t in targets], dtype=torch.long, device=device),
        returns_S=torch.tensor([t.value for _, t in targets], device=device),
        state_weights_S=torch.tensor([t.weight for _, t in targets], device=device),
    )


def verified_chains(problems: Sequence[Problem], trees: Sequence[Tree], prompting: Prompting) -> list[SFTExample]:
    """The first chain from the prompt that was verified, of each problem that has one (Oh et al. 2018, self-imitation)."""
    found = []
    for problem, tree in zip(problems, trees, strict=True):
        right = [i for i in tree.children(ROOT) if i in tree.verdicts and tree.verdicts[i].status == "correct"]
        if right:
            ids = list(tree.nodes[right[0]].token_ids)
            found.append(
                SFTExample(problem.id, problem.prompt, prompting.decode(ids), list(tree.nodes[ROOT].token_ids), ids,
                           problem.source, problem.licence)
            )  # fmt: skip
    return found


def imitate(examples: Sequence[SFTExample], models: Models, config: PolicyGradientStage, accelerator: Accelerator) -> float:
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
    part: Sequence[Batch], shown: Sequence[SFTExample], models: Models, optimizers: list, config: PolicyGradientStage, accelerator: Accelerator
) -> dict[str, float]:
    """One step of policy and critic on a minibatch; sums of the statistics over its tokens, on this process."""
    token_mass, state_mass = summed(
        [sum(float(b.weights_N.sum()) for b in part), sum(float(b.state_weights_S.sum()) for b in part)], accelerator
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
                value_loss = value_loss + (value_mse(values_S, b.returns_S) * b.state_weights_S).sum() * ranks / max(state_mass, 1e-8)
            accelerator.backward(value_loss)
            seen["value_loss"] += float(value_loss.detach()) / ranks
        with torch.no_grad():
            seen["loss"] += float(loss.detach()) / ranks
            seen["clipped"] += float((terms.clipped_N * b.weights_N).sum()) / max(token_mass, 1e-8)
            seen["kl_step"] += float((kl_k3(b.old_N, logprobs_N) * b.weights_N).sum()) / max(token_mass, 1e-8)
            seen["kl_sampler"] += float(((b.importance_N - 1 - b.importance_N.log()) * b.weights_N).sum()) / max(token_mass, 1e-8)
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


def describe(trees, statuses, kept, seen: Counter, config, accelerator: Accelerator) -> dict[str, float]:
    """A round's metrics, over all processes."""
    leaves = [(t, leaf) for t in trees for leaf in t.leaves()]
    lengths = [len(t.completion_ids(leaf)) for t, leaf in leaves]
    steps = [len(t.step_ends(leaf)) for t, leaf in leaves]
    entropy = [e for t in trees for n in t.nodes[1:] for e in n.entropy]
    names = ["loss", "value_loss", "clipped", "kl_step", "kl_sampler", "ptx_loss"]
    totals = summed(
        [statuses["correct"], statuses["error"], len(leaves), sum(lengths), sum(steps), sum(entropy), len(entropy),
         kept, *(seen[n] for n in names)],
        accelerator,
    )  # fmt: skip
    correct, errors, n, length, step, ent, tokens, kept = totals[:8]
    updates = seen["updates"]
    found = {"reward": correct / max(1, n - errors), "errors": errors, "length": length / n, "num_steps": step / n,
             "entropy": ent / max(1, tokens), "kept": kept, "grad_norm": seen["grad_norm"] / updates,
             "skipped": seen["skipped"]}  # fmt: skip
    found |= {name: total / updates for name, total in zip(names, totals[8:], strict=True)}
    return {f"ppo/{k}": v for k, v in found.items()}


def _save(models: Models, prompting: Prompting, out: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        save(models.whole, prompting.tokenizer, out / "model")
        if models.critic is not None:
            accelerator.unwrap_model(models.critic).save(prompting.tokenizer, out / "critic")
    accelerator.wait_for_everyone()


