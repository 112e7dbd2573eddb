"""What a reward model's loss is a mean of: the labelled states one by one, or pairs of alternative steps.

Shape suffixes: S labelled states, M terms of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from reasoner.losses import step_bce, step_mse
from reasoner.policy.labelled import Labelled, State

NONE = -1


class Term(NamedTuple):
    """The logit of state `left`, less that of state `right` (NONE: nothing), against `target` in [0, 1]."""

    left: int
    right: int
    target: float
    weight: float


class StepLoss(NamedTuple):
    """`terms` lists what is compared in one tree; `value(margins_M, targets_M)` is the loss of each term."""

    terms: Callable[[Labelled], list[Term]]
    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    compares: bool = False  # alternatives with each other: a group of them cannot be divided


def each_state(labelled: Labelled) -> list[Term]:
    return [Term(i, NONE, label, labelled.weight(i)) for i, label in enumerate(labelled.labels)]


def each_state_hard(labelled: Labelled) -> list[Term]:
    """Any label above 0 is good: the threshold that serves best (Zhang et al. 2025, section 3.1.4)."""
    return [Term(i, NONE, float(label > 0), labelled.weight(i)) for i, label in enumerate(labelled.labels)]


def sibling_pairs(labelled: Labelled) -> list[Term]:
    """Pairs of steps that continue one prefix and differ in label; a prefix counts once, however many pairs it has.

    The target is P(left is better) = (1 + p - q) / 2 (Luo et al. 2024, section 3.4), 1 for labels 1 and 0.
    """
    groups: dict[State, dict[State, list[int]]] = {}
    for i, (group, state) in enumerate(zip(labelled.groups, labelled.states, strict=True)):
        groups.setdefault(group, {}).setdefault(state, []).append(i)
    terms = []
    for states in groups.values():
        steps = [(at[0], sum(labelled.labels[i] for i in at) / len(at)) for at in states.values()]
        pairs = [(i, j, p, q) for i, p in steps for j, q in steps if p > q]
        terms += [Term(i, j, (1 + p - q) / 2, 1 / len(pairs)) for i, j, p, q in pairs]
    return terms


LOSSES: dict[str, StepLoss] = {
    "bce": StepLoss(each_state, step_bce),
    "hard_bce": StepLoss(each_state_hard, step_bce),
    "mse": StepLoss(each_state, step_mse),
    "ranking": StepLoss(sibling_pairs, step_bce, compares=True),
}


def mass(loss: StepLoss, batch: Sequence[Labelled]) -> float:
    """The weight of all terms of a batch, by which its sum is divided."""
    return sum(term.weight for labelled in batch for term in loss.terms(labelled))


def weighted_sum(loss: StepLoss, logits_S: torch.Tensor, batch: Sequence[Labelled]) -> torch.Tensor:
    """Σ weight · value over the terms of a batch whose labelled states have the given logits, in order."""
    terms: list[Term] = []
    first = 0
    for labelled in batch:
        terms += [
            Term(t.left + first, t.right + first if t.right != NONE else NONE, t.target, t.weight)
            for t in loss.terms(labelled)
        ]
        first += len(labelled.states)
    if not terms:
        return 0.0 * logits_S.sum()
    left, right, target, weight = zip(*terms, strict=True)
    padded = torch.cat([logits_S, logits_S.new_zeros(1)])  # NONE, the last, is a logit of 0
    margins_M = padded[list(left)] - padded[list(right)]
    values_M = loss.value(margins_M, margins_M.new_tensor(target))
    return (values_M * margins_M.new_tensor(weight)).sum()
