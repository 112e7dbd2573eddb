"""What a policy update is made of: judged trees with values and advantages, packed into micro-batches.

Shape suffixes: N sampled tokens, S states that the critic is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.losses import truncated_importance
from reasoner.policy.heads import PolicyNet, ScoreNet
from reasoner.records import PolicySample, SFTExample
from reasoner.signals.packing import Packed, batches, pack
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import same_count, summed
from reasoner.tree import ROOT, Problem, Tree


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

    whole: Any  # what is saved: the causal LM, or its adapter
    policy: Any
    critic: Any | None
    ref: PolicyNet | None
    prm: ScoreNet | None


def is_mixed(tree: Tree) -> bool:
    """True where some judged leaves are right and some are not: the others carry no advantage over their mean."""
    return len({v.status == "correct" for v in tree.verdicts.values() if v.status != "error"}) == 2


def score_values(critic, trees: Sequence[Tree], max_tokens: int) -> None:
    """Set `tree.scores["value"]`: the critic's value at the prompt's end and at every step end."""
    device = next(critic.parameters()).device
    critic.eval()
    for numbers in same_count(batches(trees, max_tokens)):
        of_batch = [trees[t] for t in numbers] or [blank()]
        packed = pack(of_batch, device)
        at = [
            [(i, packed.state(b, i, offset)) for i, offset in _value_states(tree)]
            for b, tree in enumerate(of_batch)
        ]
        flat_S = torch.tensor([f for of_tree in at for _, f in of_tree], device=device)
        with torch.no_grad():
            values = iter(
                critic(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, flat_S).sigmoid().tolist()
            )
        for tree, of_tree in zip(of_batch, at, strict=True):
            scores = tree.scores.setdefault("value", {})
            for node, _ in of_tree:
                scores.setdefault(node, []).append(next(values))
    critic.train()


def _value_states(tree: Tree) -> list[tuple[int, int]]:
    prompt_end = (ROOT, len(tree.nodes[ROOT].token_ids))
    return [prompt_end, *((i, e + 1) for i, n in enumerate(tree.nodes) if i != ROOT for e in n.step_ends)]


def blank() -> Tree:
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
        PolicySample(
            s.tree,
            {i: (x - mean) / (deviation + 1e-4) for i, x in s.advantages.items()},
            s.weights,
            s.targets,
        )
        for s in samples
    ]


def grouped(samples: Sequence[PolicySample], config: PolicyGradientStage) -> list[list[PolicySample]]:
    """Micro-batches of one minibatch; every process makes the same number, empty ones at the end."""
    return [
        [samples[i] for i in numbers]
        for numbers in same_count(batches([s.tree for s in samples], config.tokens_per_batch))
    ]


def prepare(samples: list[PolicySample], models: Models, config: PolicyGradientStage, device) -> Batch:
    """Pack a micro-batch and take the trainer's own log-probabilities of its tokens before any update."""
    trees = [s.tree for s in samples] or [blank()]
    packed = pack(trees, device)
    weights_N = packed.flat([s.weights for s in samples] or [{}])
    sampler_N = packed.flat([{i: np.array(n.logprobs) for i, n in enumerate(t.nodes)} for t in trees])
    with torch.no_grad():
        old_N, _ = models.policy(
            packed.ids_BT, packed.positions_BT, packed.mask_B1TT, packed.source_N, packed.target_N
        )
        ref_N = None
        if models.ref is not None:
            ref_N, _ = models.ref(
                packed.ids_BT, packed.positions_BT, packed.mask_B1TT, packed.source_N, packed.target_N
            )
    targets = [(b, t) for b, s in enumerate(samples) for t in s.targets]
    return Batch(
        packed=packed,
        advantages_N=packed.flat([s.advantages for s in samples] or [{}]),
        weights_N=weights_N,
        importance_N=truncated_importance(old_N, sampler_N, config.importance_limit),
        old_N=old_N,
        ref_N=ref_N,
        state_S=torch.tensor(
            [packed.state(b, t.node, t.offset) for b, t in targets], dtype=torch.long, device=device
        ),
        returns_S=torch.tensor([t.value for _, t in targets], device=device),
        state_weights_S=torch.tensor([t.weight for _, t in targets], device=device),
    )


class OwnChain(NamedTuple):
    """A verified chain of the policy's own, and how much better it was than its problem's average."""

    example: SFTExample
    gain: float


def verified_chains(
    problems: Sequence[Problem], trees: Sequence[Tree], prompting: Prompting
) -> list[OwnChain]:
    """The first verified chain from the prompt of each problem that has one, to be imitated by its gain.

    The gain is 1 less the share of the problem's chains that were right: the (R - V)+ of self-imitation
    learning (Oh et al. 2018, equation 2) with the group's mean for V. A chain that always comes out right
    teaches nothing; the rare success on a hard problem is shown most often.
    """
    found = []
    for problem, tree in zip(problems, trees, strict=True):
        judged = [i for i in tree.children(ROOT) if i in tree.verdicts and tree.verdicts[i].status != "error"]
        right = [i for i in judged if tree.verdicts[i].status == "correct"]
        if right and len(right) < len(judged):
            ids = list(tree.nodes[right[0]].token_ids)
            example = SFTExample(
                problem.id, problem.prompt, prompting.decode(ids), list(tree.nodes[ROOT].token_ids), ids,
                problem.source, problem.licence,
            )  # fmt: skip
            found.append(OwnChain(example, 1 - len(right) / len(judged)))
    return found


def book(
    session: Session, trees: Sequence[Tree], kept: Sequence[Tree], models: Models, config: PolicyGradientStage
) -> None:
    """Count a round's work in the ledger."""
    leaves = sum(len(t.leaves()) for t in trees)
    tokens = sum(t.num_sampled for t in kept)
    session.ledger.add(
        "policy", trajectories_generated=leaves, trajectories_kept=sum(len(t.leaves()) for t in kept),
        verifications=leaves, scored=tokens, trained=tokens * config.epochs,
    )  # fmt: skip
    if models.critic is not None:
        session.ledger.add("critic", trained=tokens * config.epochs, scored=tokens)


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
