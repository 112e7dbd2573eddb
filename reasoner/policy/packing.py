"""Lay trees out as packed rows: the batch of policy, critic, PRM and ORM alike.

A token sees its ancestors only (an ancestor mask), at the position that it has in its trajectory. A branch
point's hidden state predicts several next tokens, so targets name the packed index of their predecessor.
Every sampled token stands once. Attention is paid over the whole width of a row, so a tree whose branches are
long beside its prompt is laid out in several pieces, each with the prompt before it, where that costs less.

Shape suffixes: B rows, T packed positions, N sampled tokens of all trees in order (tree, node, token).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reasoner.tree import NO_PARENT, ROOT, Tree

# positions whose attention costs as much as all else that a token passes through; measured on a CPU at width 128
LAYERS_COST = 512
PAIR_COST = 1.7  # time of a multiplication in attention, that of one in a linear layer being 1; gives the number above
ALONE = -1  # of a prompt's first token, and of padding, which sees itself so that no softmax is empty


@dataclass(frozen=True)
class Packed:
    """A batch of trees. Flat indices count positions row by row: row · T + column."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    tour_B2T: torch.Tensor  # who sees whom, by the numbers of a walk: attention.tree_mask
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


def layers_cost(net: Any) -> int:
    """LAYERS_COST of the model in a network with a head: by the multiplications of a layer. A wide one makes tokens dear."""
    lm = getattr(getattr(net, "module", net), "lm", None)
    if lm is None:
        return LAYERS_COST
    config = lm.config.get_text_config()
    heads, width = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    of_token = 2 * width * head_dim * (heads + key_heads) + 3 * width * inner
    return round(of_token / (2 * heads * head_dim * PAIR_COST))


def num_tokens(tree: Tree) -> int:
    return sum(len(n.token_ids) for n in tree.nodes)


def pieces(tree: Tree, cost: int | None = None) -> list[list[int]]:
    """The tree's nodes as one piece or several: whole branches of the root, by which layout costs least."""
    of_token = LAYERS_COST if cost is None else cost
    prompt = len(tree.nodes[ROOT].token_ids)
    branch = [ROOT] * len(tree.nodes)  # of the root, in which a node is
    for i, node in enumerate(tree.nodes[1:], start=1):
        branch[i] = branch[node.parent] or i
    sizes: dict[int, int] = {}
    for i, node in enumerate(tree.nodes[1:], start=1):
        sizes[branch[i]] = sizes.get(branch[i], 0) + len(node.token_ids)
    best, least = [list(sizes)], math.inf
    longest = max(sizes.values(), default=0)
    for room in {sum(sizes.values()), *(longest * k for k in (1, 2, 4))}:
        parts = _first_fit(list(sizes), sizes, room)
        widths = [prompt + sum(sizes[x] for x in part) for part in parts]
        takes = sum(widths) * (of_token + max(widths, default=0))
        if takes < least:
            best, least = parts, takes
    if len(best) < 2:
        return [list(range(len(tree.nodes)))]
    of = {x: number for number, part in enumerate(best) for x in part}
    found = [[ROOT] for _ in best]
    for i in range(1, len(tree.nodes)):
        found[of[branch[i]]].append(i)
    return found


def _first_fit(items: Sequence[int], sizes: Mapping[int, int], room: int) -> list[list[int]]:
    """Bins of at most `room`, filled first fit by decreasing size; an item that is larger has a bin of its own."""
    bins: list[list[int]] = []
    used: list[int] = []
    for item in sorted(items, key=lambda x: -sizes[x]):
        at = next((b for b, u in enumerate(used) if u + sizes[item] <= room), len(bins))
        if at == len(bins):
            bins.append([])
            used.append(0)
        bins[at].append(item)
        used[at] += sizes[item]
    return bins


def _size(tree: Tree, nodes: Sequence[int]) -> int:
    return sum(len(tree.nodes[i].token_ids) for i in nodes)


def batches(
    trees: Sequence[Tree], max_tokens: int, row_tokens: int = 256, cost: int | None = None
) -> list[list[int]]:
    """Split tree numbers into batches of at most `max_tokens` packed positions, similar sizes together.

    `cost` is the model's layers_cost, as in `pack`.
    """
    sizes = [[_size(tree, nodes) for nodes in pieces(tree, cost)] for tree in trees]
    found: list[list[int]] = []
    current: list[int] = []
    total = count = 0
    for t in sorted(range(len(trees)), key=lambda t: (max(sizes[t]), sum(sizes[t]))):
        total, count = total + sum(sizes[t]), count + len(sizes[t])
        if current and _most_positions(total, count, max(sizes[t]), row_tokens) > max_tokens:
            found.append(current)
            current, total, count = [], sum(sizes[t]), len(sizes[t])
        current.append(t)
    if current:
        found.append(current)
    return found


def pack(
    trees: Sequence[Tree], device: torch.device | str = "cpu", row_tokens: int = 256, pad_id: int = 0,
    cost: int | None = None,
) -> Packed:  # fmt: skip
    """Pack trees into rows of about `row_tokens` positions, or as many as the largest piece has."""
    parts = [(t, nodes) for t, tree in enumerate(trees) for nodes in pieces(tree, cost)]
    sizes = {i: _size(trees[t], nodes) for i, (t, nodes) in enumerate(parts)}
    rows = _fill(sizes, row_tokens, LAYERS_COST if cost is None else cost)
    width = max((sum(sizes[i] for i in row) for row in rows), default=1)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    before = np.full((len(rows), width), ALONE, dtype=np.int32)
    laid: list[dict[int, _Laid]] = [{} for _ in trees]
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            t, nodes = parts[i]
            block = slice(at, at + sizes[i])
            found = _lay_out(trees[t], nodes, r * width + at, ids[r, block], positions[r, block])
            for node in found.values():
                behind = node.sources - r * width  # before the piece's own begin: that of another tree
                before[r, node.targets - r * width] = np.where(behind < at, ALONE, behind)
            laid[t] = found | laid[t]  # the prompt's place is that in the first piece
            at += sizes[i]
    sampled = [of_tree[i] for of_tree in laid for i in range(1, len(of_tree))]
    return Packed(
        ids_BT=torch.from_numpy(ids).to(device),
        positions_BT=torch.from_numpy(positions).to(device),
        tour_B2T=torch.from_numpy(np.stack([_tour(before_T) for before_T in before])).to(device),
        target_N=torch.from_numpy(_joined([x.targets for x in sampled])).to(device),
        source_N=torch.from_numpy(_joined([x.sources for x in sampled])).to(device),
        starts=[[of_tree[i].start for i in range(len(of_tree))] for of_tree in laid],
        trees=trees,
    )


def _most_positions(total: int, count: int, widest: int, row_tokens: int) -> int:
    """A bound of what `_fill` takes for `count` pieces of `total` tokens: first fit leaves no two rows half empty."""
    width = max(row_tokens, widest)
    return max((total // width + 1) * width, min(count, 2 * total // max(1, widest) + 1) * widest)


def _fill(sizes: Mapping[int, int], row_tokens: int, of_token: int) -> list[list[int]]:
    """Pieces by row: rows as wide as the widest piece, or about `row_tokens`, whichever costs less."""
    widest = max(sizes.values(), default=1)
    layouts = [_first_fit(list(sizes), sizes, room) for room in {widest, max(widest, row_tokens)}]

    def takes(rows: list[list[int]]) -> int:
        width = max((sum(sizes[i] for i in row) for row in rows), default=1)
        return len(rows) * width * (of_token + width)

    return min(layouts, key=takes)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _tour(before_T: np.ndarray) -> np.ndarray:
    """[2, T]: each token's number in a walk that goes on to what follows a token before it turns to the rest, and the
    number after those of all that follow it. `before_T` is the column of the token that each follows, ALONE if none.
    """
    width = len(before_T)
    begins_T = before_T != np.arange(-1, width - 1)  # where a run of tokens, each behind the last, begins
    begins_T[:1] = True
    starts = np.flatnonzero(begins_T).tolist()
    runs = list(zip(starts, [*starts[1:], width], before_T[starts].tolist(), strict=True))
    # tokens of the runs that branch off behind each; ALONE is the last place
    branches_T = np.zeros(width + 1, np.int32)
    for start, stop, before in reversed(runs):
        branches_T[before] += stop - start + branches_T[start:stop].sum()
    tour_2T = np.zeros((2, width), np.int32)
    free_T = np.zeros(width + 1, np.int32)  # number of the next run behind each
    for start, stop, before in runs:
        first, own = int(free_T[before]), slice(start, stop)
        tour_2T[0, own] = np.arange(first, first + stop - start)
        tour_2T[1, own] = first + stop - start + branches_T[own][::-1].cumsum()[::-1]
        free_T[own] = tour_2T[1, own] - branches_T[own]
        free_T[before] = tour_2T[1, start]
    return tour_2T


@dataclass(frozen=True)
class _Laid:
    """Where a node lies: flat indices of its first token, of all its tokens, and of the tokens before them."""

    start: int
    targets: np.ndarray
    sources: np.ndarray


def _lay_out(tree: Tree, nodes: Sequence[int], base: int, ids, positions) -> dict[int, _Laid]:
    """Write a piece of a tree (the root, and nodes after their parents) into its block of a row."""
    begin: dict[int, int] = {}  # of each node, within the block
    depth: dict[int, int] = {}  # position of each node's first token
    last: dict[int, int] = {}  # the token before each node's first, within the block
    found: dict[int, _Laid] = {}
    at = 0
    for i in nodes:
        node = tree.nodes[i]
        length = len(node.token_ids)
        if node.parent == NO_PARENT:
            depth[i], last[i] = 0, -1
        else:
            p = node.parent
            depth[i] = depth[p] + node.offset
            last[i] = begin[p] + node.offset - 1 if node.offset else last[p]
        begin[i] = at
        own = slice(at, at + length)
        ids[own] = node.token_ids
        positions[own] = np.arange(depth[i], depth[i] + length)
        targets = np.arange(at, at + length)
        sources = targets - 1
        if length:
            sources[0] = last[i]
        found[i] = _Laid(base + at, base + targets, base + sources)
        at += length
    return found
