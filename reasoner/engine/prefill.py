"""Which tokens to run before decoding, so that each prefix shared among requests is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

PREFILL_TOKENS = 4096  # per forward pass, padding included; waiting requests are prefilled ahead to fill one
WORTHWHILE = 32  # tokens saved: a head shared by less is not worth a forward pass of its own


class Span(NamedTuple):
    """Compute keys and values of tokens[start:]; those before are known by then."""

    tokens: tuple[int, ...]
    start: int


def waves(prefixes: Sequence[tuple[int, ...]], known: Sequence[int]) -> list[list[Span]]:
    """Spans that cover all prefixes, of which `known` leading tokens are there already; a wave needs those before it.

    Prefixes of other prefixes come with these; heads shared by several are spans of an earlier wave.
    """
    found: list[list[Span]] = []
    known_of = dict(zip(prefixes, known, strict=True))
    ordered = sorted(known_of)
    longest = [p for i, p in enumerate(ordered) if i + 1 == len(ordered) or ordered[i + 1][: len(p)] != p]

    def emit(depth: int, span: Span) -> None:
        while len(found) <= depth:
            found.append([])
        found[depth].append(span)

    def cover(group: list[tuple[int, ...]], start: int, depth: int) -> None:
        first, last = group[0], group[-1]
        start = max(start, min(known_of[first], len(first)))
        if len(group) == 1:
            if start < len(first):
                emit(depth, Span(first, start))
            return
        shared = next(i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        start = min(start, shared)
        if (shared - start) * (len(group) - 1) >= WORTHWHILE:
            emit(depth, Span(first[:shared], start))
            start, depth = shared, depth + 1
        for _, below in groupby(group, key=lambda p: p[shared]):
            cover(list(below), start, depth)

    if longest:
        cover(longest, 0, 0)
    return found


def chunks(items: Sequence[Item], span_of: Callable[[Item], Span]) -> list[list[Item]]:
    """Items by the length of their spans, so many together as one forward pass takes with its padding."""

    def length(item: Item) -> int:
        return len(span_of(item).tokens) - span_of(item).start

    left = sorted(items, key=length)
    found = []
    while left:
        room = max(1, PREFILL_TOKENS // length(left[-1]))
        found.append([left.pop() for _ in range(min(len(left), room))])
    return found
