"""What all advantage estimators share: options, trajectories cut into steps or segments, averages over shared tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.records import PolicySample, StateTarget
from reasoner.signals.backup import leaf_weights
from reasoner.signals.reward import RewardConfig, trajectory_rewards
from reasoner.tree import ROOT, Tree


class AdvantageConfig(Config):
    """How rewards become advantages."""

    method: Annotated[str, Entry("advantage method", "reasoner.signals.advantages:ADVANTAGES")] = Field(
        default="step_ppo",
        description="with a critic: step_ppo | ppo; of groups: rloo | grpo | dr_grpo | maxrl | shrunk | "
        "grpo_process; of trees: sibling_loo | vineppo | spo_tree | tree_rl; or module:function",
    )
    prior: float = Field(
        default=4.0,
        gt=0,
        description="of shrunk: how many draws the pass rate that curriculum predicts weighs in the baseline",
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount across steps; inside a step it is 1")
    lam: float = Field(
        default=0.95, ge=0, le=1, description="GAE's lambda across steps; inside a step it is 1"
    )
    reward: RewardConfig = RewardConfig()
    normalise: Literal["tokens", "sequences", "constant"] = Field(
        default="tokens",
        description="tokens: the mean over tokens (DAPO) | sequences: each trajectory weighs the same (GRPO) | "
        "constant: the sum over tokens by the longest completion (Dr.GRPO, unbiased)",
    )
    mask_truncated: bool = Field(
        default=False,
        description="no loss on trajectories that the token limit cut (DAPO's overlong filtering)",
    )
    mask_duplicates: bool = Field(
        default=False, description="no loss on a trajectory whose tokens an earlier one of the tree has"
    )


@dataclass(frozen=True)
class Step:
    """A piece of one trajectory: its token spans (node, start, end), and the state before it as (node, offset)."""

    spans: list[tuple[int, int, int]]
    before: tuple[int, int]
    end: tuple[int, int]  # node and index of the last token

    @property
    def num_tokens(self) -> int:
        return sum(end - start for _, start, end in self.spans)


def steps_of(tree: Tree, leaf: int) -> list[Step]:
    """The steps of a trajectory in order; a step may begin in an ancestor of the node where it ends."""
    cuts = {i: [e + 1 for e in node.step_ends] for i, node in enumerate(tree.nodes)}
    return _cut(tree, leaf, cuts)


def tokens_of(tree: Tree, leaf: int) -> list[Step]:
    """Each token as a step of its own."""
    return _cut(tree, leaf, {i: range(1, len(n.token_ids) + 1) for i, n in enumerate(tree.nodes)})


def segments_of(tree: Tree, leaf: int) -> list[Step]:
    """A trajectory cut at the states where the tree branches: what its leaves share is one segment."""
    cuts: dict[int, set[int]] = {}
    for node in tree.nodes[1:]:
        cuts.setdefault(node.parent, set()).add(node.offset)
    ends = {i: [*sorted(cuts.get(i, ())), len(n.token_ids)] for i, n in enumerate(tree.nodes)}
    return _cut(tree, leaf, ends)


def _cut(tree: Tree, leaf: int, cuts: Mapping[int, list[int] | range]) -> list[Step]:
    """Cut after the given numbers of tokens of each node; an end of the trajectory without a cut is left out."""
    found: list[Step] = []
    spans: list[tuple[int, int, int]] = []
    before = (ROOT, len(tree.nodes[ROOT].token_ids))
    for node, _, end in tree.path(leaf)[1:]:
        start = 0
        for cut in cuts[node]:
            if cut > end:
                break
            if cut > start:
                spans.append((node, start, cut))
            if not spans:
                continue
            found.append(Step(spans, before, (node, cut - 1)))
            spans, before, start = [], (node, cut), cut
        if start < end:
            spans.append((node, start, end))
    return found


def by_piece(pieces: list[Step], steps: list[Step], rewards: np.ndarray) -> np.ndarray:
    """Rewards of steps, each given to the piece of another cutting that holds the step's last token."""
    ends = np.cumsum([p.num_tokens for p in pieces])
    at = np.searchsorted(ends, np.cumsum([s.num_tokens for s in steps]))
    return np.bincount(at, weights=rewards, minlength=len(pieces))


def trained_leaves(tree: Tree, config: AdvantageConfig) -> set[int]:
    """The leaves that carry loss, if they are judged: all but those that the options mask."""
    found: set[int] = set()
    texts: set[tuple[int, ...]] = set()
    for leaf in tree.leaves():
        if config.mask_truncated and tree.nodes[leaf].stop_reason == "length":
            continue
        if config.mask_duplicates:
            ids = tuple(tree.completion_ids(leaf))
            if ids in texts:
                continue
            texts.add(ids)
        found.add(leaf)
    return found


# the pieces of a trajectory with, for each, its advantage and the return from the state before it
OfLeaf = Callable[[int, np.ndarray], tuple[list[Step], np.ndarray, np.ndarray]]


def over_leaves(
    tree: Tree,
    config: AdvantageConfig,
    of_leaf: OfLeaf,
    weights: Mapping[int, float] | None = None,
    bootstraps: bool = False,
) -> PolicySample:
    """Average the leaves' advantages and returns over shared tokens and states, by path weight unless told otherwise.

    `of_leaf(leaf, rewards per step)` is asked for the leaves that are judged, not empty, and weigh something; with
    `bootstraps`, for those too that the token limit cut and nobody judged.
    """
    sampled = range(1, len(tree.nodes))
    advantage = {i: np.zeros(len(tree.nodes[i].token_ids)) for i in sampled}
    mass = {i: np.zeros(len(tree.nodes[i].token_ids)) for i in sampled}
    returns: dict[tuple[int, int], list[float]] = {}
    weights = leaf_weights(tree) if weights is None else weights
    trained = trained_leaves(tree, config)
    for leaf in tree.leaves():
        rewards = trajectory_rewards(tree, leaf, config.reward, bootstraps)
        weight = weights.get(leaf, 0.0) if leaf in trained else 0.0
        if rewards is None or weight == 0:
            continue
        pieces, advantages, piece_returns = of_leaf(leaf, rewards)
        per_token = weight
        if config.normalise == "sequences":
            per_token = weight / sum(p.num_tokens for p in pieces)
        for piece, a, g in zip(pieces, advantages, piece_returns, strict=True):
            for node, start, end in piece.spans:
                advantage[node][start:end] += per_token * a
                mass[node][start:end] += per_token
            total = returns.setdefault(piece.before, [0.0, 0.0])
            total[0] += weight * g
            total[1] += weight
    for i in sampled:
        np.divide(advantage[i], mass[i], out=advantage[i], where=mass[i] > 0)
    targets = [StateTarget(node, offset, g / w, w) for (node, offset), (g, w) in returns.items() if w > 0]
    return PolicySample(tree, advantage, mass, targets)
