"""Keep reward models up with the policy: a few updates on what the policy's own trees say, to steps or as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from reasoner.losses import step_bce
from reasoner.policy.labelled import Labelled, idle
from reasoner.policy.packing import batches, layers_cost, num_tokens
from reasoner.policy.split import split_labelled
from reasoner.signals.step_labels import is_from_prompt
from reasoner.trainers.loop import Session, clip_and_step
from reasoner.trainers.policy_config import ImplicitPRM, PRMRefresh
from reasoner.trainers.ranks import same_count, summed
from reasoner.trainers.reward_model import read
from reasoner.tree import Tree, counts


def labelled(tree: Tree) -> Labelled | None:
    """Soft labels (c / n) of the step ends that were continued, and the verdicts at the ends of chains from the prompt.

    None where there are none. A continuation that was drawn inside a chain labels the state that it was drawn from.
    """
    found = Labelled(tree, num_solutions=1)
    for i, node in enumerate(tree.nodes[1:], start=1):
        for end in node.step_ends:
            state = (i, end + 1)
            c = counts(tree, *state)
            is_end = end + 1 == len(node.token_ids) and is_from_prompt(tree, i)
            verdict = tree.verdicts.get(i) if is_end else None
            if verdict is not None and verdict.status != "error":
                found.states.append(state)
                found.labels.append(float(verdict.status == "correct"))
            elif c.n:
                found.states.append(state)
                found.labels.append(c.c / c.n)
    return found if found.states else None


def by_verdict(tree: Tree) -> Labelled | None:
    """The verdicts at the ends of chains, and nothing inside; None where there are none.

    Of a tree that goes on from a given beginning there is none: what was given is no part of the chains' probability.
    """
    found = Labelled(tree, num_solutions=1)
    for leaf in tree.leaves() if not tree.given else []:
        verdict = tree.verdicts.get(leaf)
        if verdict is not None and verdict.status != "error" and tree.nodes[leaf].token_ids:
            found.states.append((leaf, len(tree.nodes[leaf].token_ids)))
            found.labels.append(float(verdict.status == "correct"))
    return found if found.states else None


def refresh(
    prm, optimizer, trees: Sequence[Tree], config: PRMRefresh | ImplicitPRM, tokens_per_batch: int, session: Session,
    accelerator: Accelerator, label: Callable[[Tree], Labelled | None] = labelled, name: str = "prm",
) -> float:  # fmt: skip
    """`config.updates` steps, each the mean binary cross-entropy over its trees' labels on all processes; returns the mean.

    `trees` are this process's share of a round, of which each process draws every num_processes-th from its own number on:
    by its number in the round a tree is in the same update whoever drew it.
    """
    numbered = enumerate(map(label, trees))
    data = [
        (k * accelerator.num_processes + accelerator.process_index, d) for k, d in numbered if d is not None
    ]
    loss_sum = 0.0
    prm.train()
    for update in range(config.updates):
        own = [d for number, d in data if number % config.updates == update]
        (mass,) = summed([sum(len(d.labels) for d in own)], accelerator)
        if not mass:
            continue
        cut = [d for o in own for d in split_labelled(o, tokens_per_batch)]
        of_pass = batches([d.tree for d in cut], tokens_per_batch, cost=layers_cost(prm))
        for numbers in same_count(of_pass, accelerator.device):
            part = [cut[i] for i in numbers] or [idle()]
            labels_S = torch.tensor([y for d in part for y in d.labels], device=accelerator.device)
            losses_S = step_bce(read(prm, part, accelerator.device), labels_S)
            loss = losses_S.sum() * bool(numbers) * accelerator.num_processes / mass
            accelerator.backward(loss)
            loss_sum += float(loss.detach()) / accelerator.num_processes
        clip_and_step([prm], [optimizer], [config.optimizer.max_grad_norm], [True], accelerator)
        session.ledger.add(name, trained=sum(num_tokens(d.tree) for d in own))
    prm.eval()
    return summed([loss_sum], accelerator)[0] / config.updates
