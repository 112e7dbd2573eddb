"""Lay trees out as packed rows in which every token stands once: the batch of policy, critic, PRM and ORM alike.

A token sees its ancestors only (an ancestor mask), at the position that it has in its trajectory. A branch
point's hidden state predicts several next tokens, so targets name the packed index of their predecessor.

Shape suffixes: B rows, T packed positions, N sampled tokens of all trees in order (tree, node, token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reasoner.tree import NO_PARENT, Tree


@dataclass(frozen=True)
class Packed:
    """A batch of trees. Flat indices count positions row by row: row · T + column."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor  # True where a position may be seen
    target_N: torch.Tensor  # flat index of each sampled token
    source_N: torch.Tensor  # flat index of the token before it on its path
    starts: list[list[int]]  # per tree and node, the flat index of the node's first token
    trees: Sequence[Tree]

    def state(self, tree: int, node: int, offset: int) -> int:
        """Flat index of the last token of the state (node, offset)."""
        nodes = self.trees[tree].nodes
        while offset == 0:
            node, offset = nodes[node].parent, nodes[node].offset
        return self.starts[tree][node] + offset - 1

    def flat(self, values: Sequence[dict[int, np.ndarray]]) -> torch.Tensor:
        """Per-token numbers given per tree and node, in the order of N, as float32."""
        parts = [
            np.asarray(values[t][i], dtype=np.float32)
            for t, tree in enumerate(self.trees)
            for i in range(1, len(tree.nodes))
        ]
        joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return torch.from_numpy(joined).to(self.ids_BT.device)


def num_tokens(tree: Tree) -> int:
    return sum(len(n.token_ids) for n in tree.nodes)


def batches(trees: Sequence[Tree], max_tokens: int, row_tokens: int = 256) -> list[list[int]]:
    """Split tree numbers into batches of at most `max_tokens` packed positions, similar sizes together."""
    order = sorted(range(len(trees)), key=lambda t: num_tokens(trees[t]))
    found: list[list[int]] = []
    current: list[int] = []
    for t in order:
        width = max(row_tokens, num_tokens(trees[t]))
        rows = sum(num_tokens(trees[u]) for u in current) // width + 1
        if current and (rows + 1) * width > max_tokens:
            found.append(current)
            current = []
        current.append(t)
    if current:
        found.append(current)
    return found


def pack(
    trees: Sequence[Tree], device: torch.device | str = "cpu", row_tokens: int = 256, pad_id: int = 0
) -> Packed:
    """Pack whole trees into rows of at least `row_tokens` positions, first fit by decreasing size."""
    sizes = [num_tokens(t) for t in trees]
    width = max([row_tokens, *sizes]) if len(trees) > 1 else max(sizes, default=1)
    rows: list[int] = []  # positions used
    place: list[tuple[int, int]] = [(0, 0)] * len(trees)
    for t in sorted(range(len(trees)), key=lambda t: -sizes[t]):
        row = next((r for r, used in enumerate(rows) if used + sizes[t] <= width), len(rows))
        if row == len(rows):
            rows.append(0)
        place[t] = (row, rows[row])
        rows[row] += sizes[t]
    width = max(rows, default=1)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width, width), dtype=bool)
    mask[:, np.arange(width), np.arange(width)] = True  # padding sees itself, so that no softmax is empty
    targets: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    starts: list[list[int]] = []
    for t, tree in enumerate(trees):
        row, at = place[t]
        block = slice(at, at + sizes[t])
        starts.append(_lay_out(tree, row * width + at, ids[row, block], positions[row, block], mask[row, block, block],
                               targets, sources))  # fmt: skip
    return Packed(
        ids_BT=torch.from_numpy(ids).to(device),
        positions_BT=torch.from_numpy(positions).to(device),
        mask_B1TT=torch.from_numpy(mask)[:, None].to(device),
        target_N=torch.from_numpy(_joined(targets)).to(device),
        source_N=torch.from_numpy(_joined(sources)).to(device),
        starts=starts,
        trees=trees,
    )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _lay_out(tree: Tree, base: int, ids, positions, mask, targets: list, sources: list) -> list[int]:
    """Write one tree into its block of a row; returns the flat index of each node's first token."""
    begin: list[int] = []  # of each node, within the block
    depth: list[int] = []  # position of each node's first token
    before: list[np.ndarray] = []  # what each node's first token sees beside itself
    before_index: list[int] = []  # the token before each node's first, within the block
    at = 0
    for node in tree.nodes:
        length = len(node.token_ids)
        if node.parent == NO_PARENT:
            depth.append(0)
            before.append(np.zeros(len(ids), dtype=bool))
            before_index.append(-1)
        else:
            p = node.parent
            depth.append(depth[p] + node.offset)
            seen = before[p].copy()
            seen[begin[p] : begin[p] + node.offset] = True
            before.append(seen)
            before_index.append(begin[p] + node.offset - 1 if node.offset else before_index[p])
        begin.append(at)
        own = slice(at, at + length)
        ids[own] = node.token_ids
        positions[own] = np.arange(depth[-1], depth[-1] + length)
        mask[own] = before[-1]
        mask[own, own] = np.tri(length, dtype=bool)
        if node.parent != NO_PARENT:
            index = np.arange(at, at + length)
            targets.append(base + index)
            source = index - 1
            if length:
                source[0] = before_index[-1]
            sources.append(base + source)
        at += length
    return [base + b for b in begin]
