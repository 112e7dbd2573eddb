"""Rollouts that begin inside a solution: a part of a right chain is given, so much that about half of them succeed.

The part that is given stands in the root beside the prompt, so no loss falls on it. How much is given follows what came
of it, by kind of problem: a curriculum from the end of solutions towards their beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field

from reasoner.config import Config
from reasoner.records import SFTExample
from reasoner.tree import ROOT, Problem, Tree

STEP = 0.1  # how far one result moves the share that is given


class Starts(Config):
    """Rollouts from inside right chains: the policy's own, or demonstrations."""

    share: float = Field(0.25, gt=0, lt=1, description="of a round's problems, at most")
    below: float = Field(
        0.5, gt=0, le=1, description="keep a right chain of problems that are solved at most this often"
    )
    target: float = Field(0.5, gt=0, lt=1, description="share of right answers that what is given aims at")
    kept: int = Field(
        512, ge=1, description="own chains that wait for their turn, at most; each is used once"
    )
    demonstrations: bool = Field(
        False,
        description="begin inside the solutions of `demonstrations` too, where they are of the same problems",
    )


@dataclass
class Inside:
    """Right chains in turn, and the share that is given of them by kind of problem: the same on all processes."""

    chains: list[dict] = field(default_factory=list)  # as `chain_of` makes them
    levels: dict[str, float] = field(default_factory=dict)


class Start(NamedTuple):
    """A problem by its place in the list, with the tokens that are given."""

    index: int
    given: tuple[int, ...]


def take(inside: Inside, num: int, problems: Sequence[Problem]) -> list[Start]:
    """The next `num` starts, or as many as there are; demonstrations come again, own chains do not."""
    taken, inside.chains = inside.chains[:num], inside.chains[num:]
    inside.chains += [c for c in taken if c["shown"]]
    return [Start(c["index"], _given(c, _level(inside, problems[c["index"]]))) for c in taken]


def _given(chain: Mapping, level: float) -> tuple[int, ...]:
    """Whole steps, `level` of the chain's, at least one and not all."""
    cuts = chain["cuts"]
    number = min(len(cuts), max(1, round(level * (len(cuts) + 1))))
    return tuple(chain["ids"][: cuts[number - 1]])


def chain_of(index: int, ids: Sequence[int], step_ends: Sequence[int], shown: bool) -> dict | None:
    """A chain to begin inside of, in plain values; None where it has no inner step end."""
    cuts = [e + 1 for e in step_ends if e + 1 < len(ids)]
    return {"index": index, "ids": list(ids), "cuts": cuts, "shown": shown} if cuts else None


def own_chain(index: int, tree: Tree, right_share: float | None, config: Starts) -> dict | None:
    """The first right chain that a seldom solved problem's tree has from the prompt on."""
    if tree.given or not right_share or right_share > config.below:
        return None
    for i in tree.children(ROOT):
        if i in tree.verdicts and tree.verdicts[i].status == "correct":
            return chain_of(index, tree.nodes[i].token_ids, tree.nodes[i].step_ends, shown=False)
    return None


def shown_chains(
    problems: Sequence[Problem],
    demonstrations: Sequence[SFTExample],
    mark_steps: Callable[[Sequence[int], Sequence[float], Sequence[int]], list[int]],
    max_tokens: int,
) -> list[dict]:
    """The demonstrations of these problems that are short enough, in the problems' order."""
    of = {e.problem_id: e.completion_ids for e in demonstrations if len(e.completion_ids) <= max_tokens}
    found = [
        chain_of(index, of[p.id], mark_steps(of[p.id], (), ()), shown=True)
        for index, p in enumerate(problems)
        if p.id in of
    ]
    return [c for c in found if c]


def adapt(inside: Inside, problem: Problem, right_share: float, config: Starts) -> None:
    """Give less of such solutions where more succeed than is aimed at, and more where fewer do."""
    moved = _level(inside, problem) + STEP * (config.target - right_share)
    inside.levels[_kind(problem)] = min(1.0, max(0.0, moved))


def add(inside: Inside, chains: Sequence[dict | None], config: Starts) -> None:
    """Let own chains wait; the oldest go where there are too many."""
    inside.chains += [c for c in chains if c]
    too_many = sum(not c["shown"] for c in inside.chains) - config.kept
    for chain in [c for c in inside.chains if not c["shown"]][: max(0, too_many)]:
        inside.chains.remove(chain)


def _level(inside: Inside, problem: Problem) -> float:
    return inside.levels.get(_kind(problem), 0.5)


def _kind(problem: Problem) -> str:
    return f"{problem.source} {problem.domain}"
