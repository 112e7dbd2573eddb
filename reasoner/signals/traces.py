"""Verified chains as demonstrations: rejection sampling, and traces that take a wrong turn, notice it and go back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.records import SFTExample
from reasoner.registry import lookup
from reasoner.tree import ROOT, Tree, counts

Decode = Callable[[Sequence[int]], str]


class TraceConfig(Config):
    """Which chains become demonstrations."""

    pick: Annotated[str, Entry("choice of traces", "reasoner.signals.traces:PICKS")] = Field(
        default="diverse", description="of a problem's right chains: shortest | diverse | first"
    )
    per_problem: int = Field(default=4, ge=0, description="most right chains of one problem")
    backtracking: int = Field(
        default=0,
        ge=0,
        description="most traces of one problem that go wrong, say so and go back to the branch",
    )
    link: str = Field(default="Wait, that is wrong.\n", description="what a trace says where it goes back")


def traces(
    trees: Iterable[Tree], config: TraceConfig, decode: Decode, encode: Callable[[str], list[int]]
) -> Iterator[SFTExample]:
    """Right chains of each problem, distinct by tokens, then its traces with a wrong turn; token ids as sampled."""
    pick = lookup(PICKS, config.pick, "choice of traces")
    link_ids = encode(config.link) if config.backtracking else []
    for tree in trees:
        right = {
            tuple(tree.completion_ids(leaf)): leaf
            for leaf in reversed(tree.leaves())
            if _status(tree, leaf) == "correct" and tree.nodes[leaf].stop_reason == "eos"
        }
        distinct = list(right)[::-1]
        for ids in pick(distinct, config.per_problem):
            yield _example(tree, list(ids), [], decode)
        turns = _wrong_turns(tree, link_ids) if config.backtracking else iter(())
        for (ids, mask), _ in zip(turns, range(config.backtracking), strict=False):
            yield _example(tree, ids, mask, decode)


def shortest(chains: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    return sorted(chains, key=len)[:most]


def diverse(chains: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """The shortest chain, then always the one least like those picked, by the share of token triples in common."""
    rest = sorted(chains, key=len)
    picked = rest[: min(1, most)]
    rest = rest[1:]
    triples = {c: set(zip(c, c[1:], c[2:], strict=False)) for c in chains}

    def likeness(chain: tuple[int, ...]) -> float:
        own = triples[chain]
        return max(len(own & triples[p]) / max(1, len(own | triples[p])) for p in picked)

    while rest and len(picked) < most:
        farthest = min(rest, key=likeness)
        picked.append(farthest)
        rest.remove(farthest)
    return picked


def first(chains: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    return chains[:most]


PICKS: dict[str, Callable[[list[tuple[int, ...]], int], list[tuple[int, ...]]]] = {
    "shortest": shortest,
    "diverse": diverse,
    "first": first,
}


def _wrong_turns(tree: Tree, link_ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids with a mask that keeps the wrong turn itself out of the loss; one trace a branch state.

    The wrong turn runs to the first step after which every continuation failed, or where none was tried to
    the last step but one; then the link, and the right sibling from the last step that both have in common.
    """
    for (node, offset), children in _branches(tree).items():
        drawn = [*children, *([node] if node != ROOT and offset < len(tree.nodes[node].token_ids) else [])]
        right = [d for d in drawn if _status(tree, d) == "correct" and tree.nodes[d].stop_reason == "eos"]
        wrong = [d for d in drawn if _status(tree, d) == "incorrect"]
        prefix = len(tree.completion_ids(node, offset)) if node != ROOT else 0
        for bad in wrong:
            turn_end = _turn_end(tree, bad, prefix)
            if right and turn_end is not None:
                good = min(right, key=lambda r: len(tree.completion_ids(r)))
                ends = [0, *(e for e, _ in _step_states(tree, good) if e <= prefix)]
                back = ends[-1]
                head = tree.completion_ids(bad)[:turn_end]
                tail = tree.completion_ids(good)[back:]
                mask = [int(i < back) for i in range(turn_end)] + [1] * (len(link_ids) + len(tail))
                yield head + link_ids + tail, mask
                break


def _turn_end(tree: Tree, leaf: int, prefix: int) -> int | None:
    """How many completion tokens the wrong turn keeps: to a step after `prefix` that is known dead; None without one."""
    states = [(end, state) for end, state in _step_states(tree, leaf) if end > prefix]
    for (end, state), _ in pairwise(states):
        tried = counts(tree, *state)
        if tried.n and not tried.c:
            return end
        if tried.c:
            return None  # right answers come from here, so the fault lies in what follows
    return states[-2][0] if len(states) > 1 else None


def _step_states(tree: Tree, leaf: int) -> list[tuple[int, tuple[int, int]]]:
    """Per step of the trajectory, its end in completion tokens and as a state (node, offset)."""
    begin, at = {}, 0
    for span in tree.path(leaf)[1:]:
        begin[span.node] = at
        at += span.end
    return [(begin[e.node] + e.index + 1, (e.node, e.index + 1)) for e in tree.step_ends(leaf)]


def _branches(tree: Tree) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    leaves = set(tree.leaves())
    for i, node in enumerate(tree.nodes[1:], start=1):
        if i in leaves:
            found.setdefault((node.parent, node.offset), []).append(i)
    return found


def _status(tree: Tree, leaf: int) -> str:
    verdict = tree.verdicts.get(leaf)
    return verdict.status if verdict is not None else ""


def _example(tree: Tree, ids: list[int], mask: list[int], decode: Decode) -> SFTExample:
    prompt_ids = list(tree.nodes[ROOT].token_ids)
    return SFTExample(
        problem_id=tree.problem.id,
        prompt=tree.problem.prompt,
        completion=decode(ids),
        prompt_ids=prompt_ids,
        completion_ids=ids,
        mask=mask,
        source=tree.problem.source,
        licence=tree.problem.licence,
    )
