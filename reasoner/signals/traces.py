"""Verified chains as demonstrations: rejection sampling, and traces that take a wrong turn, notice it and go back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.records import SFTExample
from reasoner.registry import lookup
from reasoner.signals.backtracking import Decode, Turn, is_right, turns_by_judge, turns_by_verdicts
from reasoner.signals.consensus import JUDGES
from reasoner.tree import ROOT, Tree


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
    wrong_step: Annotated[str, Entry("judge of steps", "reasoner.signals.consensus:JUDGES")] = Field(
        default="",
        description="who tells the step that a trace goes back from: arithmetic | working, or module:function; empty: the "
        "verdicts of the tree",
    )
    imitate_wrong: bool = Field(
        default=False, description="learn to write the wrong turn too; by default it is read and not imitated"
    )


def traces(
    trees: Iterable[Tree], config: TraceConfig, decode: Decode, encode: Callable[[str], list[int]]
) -> Iterator[SFTExample]:
    """Right chains of each problem, distinct by tokens, then its traces with a wrong turn; token ids as sampled."""
    pick = lookup(PICKS, config.pick, "choice of traces")
    link_ids = encode(config.link) if config.backtracking else []
    for tree in trees:
        right = {
            tuple(tree.completion_ids(leaf)): leaf for leaf in reversed(tree.leaves()) if is_right(tree, leaf)
        }
        distinct = list(right)[::-1]
        for ids in pick(distinct, config.per_problem):
            yield _example(tree, list(ids), [], decode)
        for turn in islice(_turns(tree, config, decode), config.backtracking):
            ids = turn.head + link_ids + turn.tail
            learned = [1] * (len(ids) - len(turn.head))
            mask = (
                [] if config.imitate_wrong else [int(i < turn.back) for i in range(len(turn.head))] + learned
            )
            yield _example(tree, ids, mask, decode)


def _turns(tree: Tree, config: TraceConfig, decode: Decode) -> Iterator[Turn]:
    if not config.wrong_step:
        return turns_by_verdicts(tree)
    return turns_by_judge(tree, lookup(JUDGES, config.wrong_step, "judge of steps"), decode)


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
