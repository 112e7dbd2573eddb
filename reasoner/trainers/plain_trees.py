"""Judged trees as a checkpoint holds them: plain values, and long lists as tensors of their own types, exactly.

References are not asked for again, and of scores only what was known before a tree was drawn is kept: the others are
computed anew where the tree is learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from reasoner.tree import Node, Problem, Tree
from verifiers import Verdict

# a node's lists with one number a token or step
LEARNED = {"token_ids": torch.int64, "logprobs": torch.float64, "step_ends": torch.int64}
MEASURED = {"logprobs_full": torch.float64, "entropy": torch.float64}  # read once, when a tree is new
KNOWN_BEFORE = "pass_rate"


def plain_of_tree(tree: Tree, is_new: bool = False) -> dict[str, Any]:
    """The tree; `is_new`: with what is measured of new ones."""
    lists = LEARNED | MEASURED if is_new else LEARNED
    return {
        "occurrence": tree.occurrence, "given": tree.given,
        "problem": {**asdict(tree.problem), "reference": {}},
        "nodes": [_plain(n, lists) for n in tree.nodes],
        "verdicts": {i: asdict(v) for i, v in tree.verdicts.items()},
        "scores": {name: of for name, of in tree.scores.items() if name == KNOWN_BEFORE},
    }  # fmt: skip


def tree_of_plain(state: Mapping[str, Any]) -> Tree:
    """The tree of which `plain_of_tree` made this."""
    nodes = [Node(**_read(n)) for n in state["nodes"]]
    verdicts = {i: Verdict(**v) for i, v in state["verdicts"].items()}
    return Tree(
        Problem(**state["problem"]),
        nodes,
        verdicts,
        dict(state["scores"]),
        state["occurrence"],
        state["given"],
    )


def _plain(node: Node, lists: Mapping[str, torch.dtype]) -> dict[str, Any]:
    rest = {
        name: getattr(node, name)
        for name in ("parent", "offset", "stop_reason", "weights_version", "adapter", "propensity", "drawn")
    }
    return rest | {name: torch.tensor(getattr(node, name), dtype=kind) for name, kind in lists.items()}


def _read(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(x.tolist()) if isinstance(x, torch.Tensor) else x for name, x in node.items()}
