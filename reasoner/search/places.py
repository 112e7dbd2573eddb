"""Rules that say of a state, from its prefix alone, whether to branch there: what a policy gradient may use.

A rule is asked at each state of a chain in turn and is handed a `Place`, which holds what was known there: the
tokens before it, the certainty of the next one, chains that are older. It cannot see what was drawn from the state
on. So the decision is made before the draw (a stopping time), the chain's own rest and its new siblings are
equally fair draws, and weights that split evenly among them (signals/backup) leave every estimate unbiased.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reasoner.registry import UserError
from reasoner.search.grow import Growth, place_of
from reasoner.tree import Tree

if TYPE_CHECKING:
    from reasoner.search.branch import BranchConfig

FIRST_RATE = 0.1  # share of the most uncertain states, where no chain yet tells how long chains are


@dataclass
class Seen:
    """The entropies at the inner states before a place, in order of size, and how many chains they are from."""

    entropies: list[float] = field(default_factory=list)
    num_chains: int = 0
    num_tokens: int = 0  # of whole chains

    def add(self, chain: Sequence[float]) -> None:
        """A whole chain."""
        self.entropies = sorted(
            [*self.entropies, *chain[1:]]
        )  # at its first token it has no state of its own
        self.num_chains += 1
        self.num_tokens += len(chain)


@dataclass
class Place:
    """A state of a chain, as it was before its next token was drawn."""

    completion_ids: list[int]  # from the prompt's end to this state
    entropy: float | None  # of the next token's distribution, in nats; None where the engine does not tell
    seen: list[
        float
    ]  # the entropies at inner states before this one, of older chains and of this one, sorted
    mean_length: float | None  # of older chains in this tree
    is_step_end: Callable[[], bool]  # whether the tokens so far end a step, as one that is sampling can tell
    coin: Callable[[], float]  # uniform in [0, 1), this place's own


Rule = Callable[[Place, "BranchConfig"], bool]


def points(
    tree: Tree, node: int, path: list[tuple[int, int]], rule: Rule, config: BranchConfig, growth: Growth, seen: Seen
) -> list[int]:  # fmt: skip
    """The first `num_points` offsets inside a node at which the rule says yes.

    The state before a node's first token is its parent's, and after its last nothing follows.
    """
    n = tree.nodes[node]
    before = tree.completion_ids(n.parent, n.offset)
    sorted_so_far = list(seen.entropies)
    found: list[int] = []
    for offset in range(1, len(n.token_ids)):
        before.append(n.token_ids[offset - 1])
        if n.entropy and offset > 1:
            insort(sorted_so_far, n.entropy[offset - 1])
        place = Place(
            before,
            n.entropy[offset] if n.entropy else None,
            sorted_so_far,
            seen.num_tokens / seen.num_chains if seen.num_chains else None,
            lambda: ends_step(before, growth),
            lambda offset=offset: coin_at(tree, path, offset, growth),
        )
        if rule(place, config):
            found.append(offset)
            if len(found) == config.num_points:
                break
    return found


def ends_step(completion_ids: Sequence[int], growth: Growth) -> bool:
    """Whether these tokens end a step, whatever follows; a step rule that must see what follows is a UserError."""
    stop = growth.step_stop
    if stop.ids:
        return completion_ids[-1] in stop.ids and stop.is_end(completion_ids)
    if stop.max_tokens:
        return len(completion_ids) % stop.max_tokens == 0
    raise UserError(
        "the tree branches at step ends, and nothing tells while sampling where a step ends; expected the step rule "
        "delimiter or count: set prompt.steps.rule, or the branch rule entropy"
    )


def coin_at(tree: Tree, path: list[tuple[int, int]], offset: int, growth: Growth) -> float:
    # no continuation has the ordinal -1: another place than that of any token
    return (place_of(growth, tree, [*path, (offset, -1)]) >> 11) * 2.0**-53 + 0.5


def every_step(place: Place, config: BranchConfig) -> bool:
    """Each step end."""
    return place.is_step_end()


def coin(place: Place, config: BranchConfig) -> bool:
    """Each step end with probability `share`."""
    return place.is_step_end() and place.coin() < config.share


def entropy(place: Place, config: BranchConfig) -> bool:
    """Where the next token is less certain than all but a few of those before, in this chain and the tree's older ones.

    The threshold is a running quantile: so many of the tokens seen lie above it as make two times `num_points` in a
    chain of mean length, so that most chains find their points, and not all of them at their beginning.
    """
    if place.entropy is None:
        raise UserError(
            "where is entropy, and this engine does not tell the entropy of a token; expected one that does: set the "
            "branch rule coin or every_step, or the local engine"
        )
    rate = min(0.5, 2 * config.num_points / place.mean_length) if place.mean_length else FIRST_RATE
    rank = round(rate * len(place.seen))
    return rank >= 1 and place.entropy > 0 and place.entropy >= place.seen[-rank]


RULES: dict[str, Rule] = {"entropy": entropy, "every_step": every_step, "coin": coin}
AT_STEP_ENDS = ("every_step", "coin")
