"""Advantages from the tree itself: Monte-Carlo values of its states take the critic's place.

A trajectory is cut into segments at the states where the tree branches. The value of a segment is the
weighted mean return, from its beginning on, of the leaves below it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from reasoner.records import PolicySample
from reasoner.signals.backup import leaf_weights
from reasoner.signals.credit import AdvantageConfig, Step, by_piece, over_leaves, segments_of, steps_of
from reasoner.signals.reward import trajectory_rewards
from reasoner.tree import ROOT, Tree

State = tuple[int, int]


@dataclass
class _Values:
    """Weight and weighted return, from its beginning on, of each segment, named by its first token, and of each state."""

    weight: defaultdict[State, float]
    total: defaultdict[State, float]
    begins: dict[State, set[State]]  # the segments that begin at a state
    weights: dict[int, float]

    def of(self, segments: set[State]) -> float | None:
        """The mean over several segments; None where no leaf below them is judged."""
        weight = sum(self.weight[s] for s in segments)
        return sum(self.total[s] for s in segments) / weight if weight > 0 else None


def _values(tree: Tree, config: AdvantageConfig, weights: dict[int, float]) -> _Values:
    found = _Values(defaultdict(float), defaultdict(float), defaultdict(set), weights)
    for leaf, weight in weights.items():
        rewards = trajectory_rewards(tree, leaf, config.reward)
        if rewards is None:
            continue
        segments, to_go = _to_go(tree, leaf, rewards)
        for segment, value in zip(segments, to_go, strict=True):
            first = segment.spans[0][:2]
            found.weight[first] += weight
            found.total[first] += weight * value
            found.begins[segment.before].add(first)
    return found


def _to_go(tree: Tree, leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray]:
    """The segments of a trajectory and the return from the beginning of each."""
    segments = segments_of(tree, leaf)
    return segments, np.cumsum(by_piece(segments, steps_of(tree, leaf), rewards)[::-1])[::-1]


def sibling_loo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """A segment's return less the mean of its siblings', its own subtree left out.

    The baseline depends on nothing that was drawn from the segment on, so the gradient is unbiased. A segment
    without a judged sibling takes the baseline of the one before it; where there is none, nothing is learned.
    """
    values = _values(tree, config, leaf_weights(tree))

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        segments, to_go = _to_go(tree, leaf, rewards)
        advantages = np.zeros(len(segments))
        baseline = None
        for k, segment in enumerate(segments):
            others = values.of(values.begins[segment.before] - {segment.spans[0][:2]})
            baseline = others if others is not None else baseline
            advantages[k] = to_go[k] - baseline if baseline is not None else 0.0
        return segments, advantages, to_go

    return over_leaves(tree, config, of_leaf)


def spo_tree(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """A segment's value less that of the state before it, its own subtree counted in (Guo et al. 2025, SPO-tree).

    Among B siblings this is (1 - 1/B) of the leave-one-out advantage. Segments whose advantage is 0 carry no weight.
    """
    values = _values(tree, config, leaf_weights(tree))

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        segments, to_go = _to_go(tree, leaf, rewards)
        before = [values.of(values.begins[s.before]) or 0.0 for s in segments]
        return segments, to_go - np.array(before), to_go

    sample = over_leaves(tree, config, of_leaf)
    for node, advantages in sample.advantages.items():
        sample.weights[node][np.abs(advantages) < 1e-12] = 0.0
    return sample


def tree_rl(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """(V(segment) + V(segment) - V(segment before)) / √(leaves below), V the mean of leave-one-out-centred returns.

    TreeRL (Hou et al. 2025, section 3.2): a global and a local advantage. Every leaf weighs the same, so
    where branching is uneven the gradient is not that of the policy's expected return.
    """
    leaves = [leaf for leaf in tree.leaves() if trajectory_rewards(tree, leaf, config.reward) is not None]
    equal = {leaf: 1.0 / len(leaves) for leaf in leaves}
    values = _values(tree, config, equal)
    root = values.of(values.begins[ROOT, len(tree.nodes[ROOT].token_ids)]) or 0.0
    scale = len(leaves) / max(
        1, len(leaves) - 1
    )  # r less the mean of the others is this times r less the mean

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        segments, to_go = _to_go(tree, leaf, rewards)
        advantages = np.zeros(len(segments))
        earned = rewards.sum() - to_go  # before each segment
        parent = 0.0
        for k, segment in enumerate(segments):
            first = segment.spans[0][:2]
            value = scale * (earned[k] + values.total[first] / values.weight[first] - root)
            below = round(values.weight[first] * len(leaves))
            advantages[k] = (2 * value - parent) / np.sqrt(below)
            parent = value
        return segments, advantages, to_go

    return over_leaves(tree, config, of_leaf, equal)


def vineppo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """r + V(after) - V(before) for each step of the chains from the prompt (Kazemnejad et al. 2024, section 4).

    V of a step's end is the mean return of the continuations drawn from exactly there, the chain's own rest
    left out; V of the prompt is that of the other chains. Steps whose end was not continued are joined with
    the next. Continuations only estimate: they carry no loss.
    """
    weights = leaf_weights(tree)
    values = _values(tree, config, weights)
    chains = {leaf: 1.0 / len(tree.children(ROOT)) for leaf in tree.children(ROOT) if leaf in weights}
    prompt = (ROOT, len(tree.nodes[ROOT].token_ids))

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        before = values.of(values.begins[prompt] - {(leaf, 0)})
        steps = steps_of(tree, leaf)
        advantages = np.zeros(len(steps))
        joined, earned = [], 0.0
        for k, step in enumerate(steps):
            joined.append(k)
            earned += rewards[k]
            node, index = step.end
            is_last = k == len(steps) - 1
            after = 0.0 if is_last else values.of(values.begins[node, index + 1] - {(node, index + 1)})
            if after is None:
                continue
            advantages[joined] = earned + after - before if before is not None else 0.0
            joined, earned, before = [], 0.0, after
        return steps, advantages, np.cumsum(rewards[::-1])[::-1]

    return over_leaves(tree, config, of_leaf, chains)
