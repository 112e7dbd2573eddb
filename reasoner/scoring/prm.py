"""Scores from reward models: one pass over packed trees gives a number at every step end, each shared prefix once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reasoner.policy.heads import ScoreNet, check_scores
from reasoner.policy.packing import batches, layers_cost, num_tokens, pack
from reasoner.scoring.published import PublishedPRM, score_published
from reasoner.tree import ROOT, Tree


def score_steps(
    net: ScoreNet | PublishedPRM, trees: Sequence[Tree], name: str, max_tokens: int = 8192
) -> int:
    """Set `tree.scores[name]` to the probability that the net gives at each step's last token; returns tokens scored."""
    if isinstance(net, PublishedPRM):
        return score_published(net, trees, name, max_tokens)
    for t, at, values in _run(net, trees, name, max_tokens, _step_ends):
        scores = trees[t].scores.setdefault(name, {})
        for (node, _), value in zip(at, values, strict=True):
            scores.setdefault(node, []).append(value)
    return sum(map(num_tokens, trees))


def score_leaves(net: ScoreNet, trees: Sequence[Tree], max_tokens: int = 8192) -> list[dict[int, float]]:
    """Per tree the probability at the end of each leaf's trajectory (an outcome reward model's reading)."""
    found: list[dict[int, float]] = [{} for _ in trees]
    for t, at, values in _run(net, trees, "orm", max_tokens, _leaf_ends):
        found[t] = {node: value for (node, _), value in zip(at, values, strict=True)}
    return found


def _step_ends(tree: Tree) -> list[tuple[int, int]]:
    """The states that end with the last token of a step: the one place where a PRM is read, trained or used."""
    return [(i, e + 1) for i, n in enumerate(tree.nodes) if i != ROOT for e in n.step_ends]


def _leaf_ends(tree: Tree) -> list[tuple[int, int]]:
    return [(leaf, len(tree.nodes[leaf].token_ids)) for leaf in tree.leaves()]


def _run(net: ScoreNet, trees: Sequence[Tree], name: str, max_tokens: int, states):
    device = next(net.parameters()).device
    cost = layers_cost(net)
    for numbers in batches(trees, max_tokens, cost=cost):
        packed = pack([trees[t] for t in numbers], device, cost=cost)
        at = [states(trees[t]) for t in numbers]
        flat = [packed.state(i, node, offset) for i, of_tree in enumerate(at) for node, offset in of_tree]
        with torch.inference_mode():
            logits_S = net(
                packed.ids_BT,
                packed.positions_BT,
                packed.tour_B2T,
                torch.tensor(flat, device=device, dtype=torch.long),
                packed.source_N,
                packed.target_N,
            )
        values = iter(check_scores(logits_S, name).sigmoid().tolist())
        for t, of_tree in zip(numbers, at, strict=True):
            yield t, of_tree, [next(values) for _ in of_tree]
