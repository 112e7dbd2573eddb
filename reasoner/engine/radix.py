"""A radix tree of token prefixes with their keys and values, so that each prefix is computed once.

Edges hold token runs; an edge is cut where two sequences part. There is one root per key, which names all that
keys and values depend on beside the tokens: the adapter and the weights version, of one engine's model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class _Edge:
    tokens: tuple[int, ...]
    kv: torch.Tensor  # [L, 2, H, len(tokens), D]
    parent: _Edge | None
    children: dict[int, _Edge] = field(default_factory=dict)
    used: int = 0


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    if a == b:
        return len(a)
    limit = min(len(a), len(b))
    for i in range(limit):
        if a[i] != b[i]:
            return i
    return limit


class RadixCache:
    """Longest-prefix lookup and insertion under a budget of `max_bytes`; least recently used leaves go first."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        self.roots: dict[Hashable, _Edge] = {}
        self.num_bytes = 0
        self.clock = 0

    def match(self, tokens: Sequence[int], key: Hashable = None) -> tuple[int, list[torch.Tensor]]:
        """How many leading tokens are known, and their keys and values as segments in order."""
        self.clock += 1
        edge, known, segments = self._root(key), 0, []
        while known < len(tokens) and (child := edge.children.get(tokens[known])) is not None:
            n = _common(child.tokens, tuple(tokens[known : known + len(child.tokens)]))
            child.used = self.clock
            segments.append(child.kv[:, :, :, :n])
            known += n
            if n < len(child.tokens):
                break
            edge = child
        return known, segments

    def insert(self, tokens: Sequence[int], kv: torch.Tensor, start: int, key: Hashable = None) -> None:
        """Store `kv` ([L, 2, H, n, D]) of tokens `start` to `start + n`; what precedes must be known already or is skipped."""
        edge, known = self._descend(tokens, key)
        if known < start or known >= len(tokens):
            return  # the prefix was evicted meanwhile, or all of it is here
        added = kv[:, :, :, known - start :]
        if known > start:
            added = added.clone()  # a view would keep the whole segment alive
        child = _Edge(tuple(tokens[known:]), added, edge, used=self.clock)
        edge.children[child.tokens[0]] = child
        self.num_bytes += added.nbytes
        if self.num_bytes > self.max_bytes:
            self._evict()

    def _root(self, key: Hashable) -> _Edge:
        if key not in self.roots:
            self.roots[key] = _Edge((), torch.empty(0), None)
        return self.roots[key]

    def _descend(self, tokens: Sequence[int], key: Hashable) -> tuple[_Edge, int]:
        """The edge at whose end `tokens` leave the tree; an edge left in its middle is cut there."""
        edge, known = self._root(key), 0
        while known < len(tokens) and (child := edge.children.get(tokens[known])) is not None:
            n = _common(child.tokens, tuple(tokens[known : known + len(child.tokens)]))
            known += n
            if n < len(child.tokens):
                return self._cut(child, n), known
            edge = child
        return edge, known

    def _cut(self, edge: _Edge, at: int) -> _Edge:
        assert edge.parent is not None
        upper = _Edge(edge.tokens[:at], edge.kv[:, :, :, :at].clone(), edge.parent, used=edge.used)
        edge.parent.children[upper.tokens[0]] = upper
        edge.tokens, edge.kv, edge.parent = edge.tokens[at:], edge.kv[:, :, :, at:].clone(), upper
        upper.children[edge.tokens[0]] = edge
        return upper

    def _evict(self) -> None:
        """Drop least recently used leaves until nine tenths of the budget are in use."""
        while self.num_bytes > 0.9 * self.max_bytes:
            leaves = sorted(self._leaves(), key=lambda e: e.used)
            for leaf in leaves[: max(1, len(leaves) // 4)]:
                assert leaf.parent is not None
                del leaf.parent.children[leaf.tokens[0]]
                self.num_bytes -= leaf.kv.nbytes
                if self.num_bytes <= 0.9 * self.max_bytes:
                    break

    def _leaves(self) -> list[_Edge]:
        found, stack = [], list(self.roots.values())
        while stack:
            edge = stack.pop()
            stack.extend(edge.children.values())
            if not edge.children and edge.parent is not None:
                found.append(edge)
        return found
