"""Trees of the last rounds that are learned from again, in place of trees of no use: all right, or all wrong.

Their ratios are against the log-probabilities that they were sampled with, so the clip bounds how far an old tree can
move the policy (POPO, 2026). What the policy has moved away from too far is let go.

Shape suffix: N sampled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from reasoner.config import Config
from reasoner.policy.machine import own_device
from reasoner.policy.packing import batches, pack
from reasoner.records import PolicySample
from reasoner.trainers.plain_trees import plain_of_tree, tree_of_plain
from reasoner.trainers.ranks import from_everyone, same_count
from reasoner.tree import Tree


class Replay(Config):
    """Reuse of the last rounds' trees."""

    max_age: int = Field(4, ge=1, description="rounds after which a tree is not learned from any more")
    share: float = Field(
        1.0, gt=0, description="trees that are learned from again, at most, as a share of problems_per_round; they only "
        "fill the places of those left out"
    )  # fmt: skip
    min_effective: float = Field(
        0.8, ge=0, lt=1, description="effective sample size of a tree's tokens under the policy as it is now, as a share "
        "of them, below which the tree is let go"
    )  # fmt: skip


class Key(NamedTuple):
    """The order in which trees are taken, and which tree it is: the same whichever process has it."""

    advantage: float  # mean |advantage| a token, negative
    newness: int  # the round, negative
    problem_id: str
    occurrence: int
    given: int


@dataclass(frozen=True)
class Kept:
    """A judged tree of this process with right and wrong answers, and the round that drew it."""

    tree: Tree
    round: int
    advantage: float

    @property
    def key(self) -> Key:
        tree = self.tree
        return Key(-round(self.advantage, 4), -self.round, tree.problem.id, tree.occurrence, tree.given)


def kept(sample: PolicySample, round: int) -> Kept | None:
    """What is kept of a round's sample: nothing where all of its answers are right, or all wrong."""
    statuses = {v.status == "correct" for v in sample.tree.verdicts.values() if v.status != "error"}
    mass = sum(w.sum() for w in sample.weights.values())
    if len(statuses) < 2 or not mass:
        return None
    total = sum(float((w * np.abs(sample.advantages[i])).sum()) for i, w in sample.weights.items())
    return Kept(sample.tree, round, total / float(mass))


def young(buffer: Sequence[Kept], round: int, config: Replay) -> list[Kept]:
    """Those that are not too old for this round."""
    return [k for k in buffer if round - k.round <= config.max_age]


def chosen(buffer: Sequence[Kept], most: int) -> list[tuple[int, Kept]]:
    """Of all processes' trees the `most` with the largest |advantage|: this process's, with their places among them."""
    order = sorted(key for keys in from_everyone([k.key for k in buffer]) for key in keys)[:most]
    places = {key: place for place, key in enumerate(order)}
    return sorted(((places[k.key], k) for k in buffer if k.key in places), key=lambda found: found[0])


def effective(
    trees: Sequence[Tree], policy: Any, temperature: float, max_tokens: int, blank: Tree
) -> list[float]:
    """Per tree, the effective sample size of its tokens: (Σ r)² / (n Σ r²) of r = p(now) / p(when sampled)."""
    found = [1.0] * len(trees)
    for numbers in same_count(batches(trees, max_tokens), own_device()):
        p = pack([trees[t] for t in numbers] or [blank], own_device())
        with torch.no_grad():
            now_N, _ = policy(
                p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N, temperature=temperature
            )
        begin = 0
        for t in numbers:
            then = [x for n in trees[t].nodes[1:] for x in n.logprobs]
            ratio_N = (now_N[begin : begin + len(then)].double().cpu() - torch.tensor(then).double()).exp()
            found[t] = float(ratio_N.sum() ** 2 / (len(then) * ratio_N.square().sum())) if then else 1.0
            begin += len(then)
    return found


def state_of(buffer: Sequence[Kept]) -> list[dict[str, Any]]:
    """The buffer as a checkpoint holds it."""
    return [{"round": k.round, "advantage": k.advantage, **plain_of_tree(k.tree)} for k in buffer]


def buffer_of(state: Sequence[dict[str, Any]]) -> list[Kept]:
    """What `state_of` made plain."""
    return [Kept(tree_of_plain(s), s["round"], s["advantage"]) for s in state]
