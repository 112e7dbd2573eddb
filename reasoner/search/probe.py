"""Continue every step of finished chains to learn its value, one draw after the other where a rule may stop early.

All states of all trees are in flight together, so an engine stays full although each state waits for its last
draw. Verdicts have to be set between the waves (grow's `observe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import lookup
from reasoner.search.grow import Branch, BranchPolicy, in_turns
from reasoner.search.prune import at_most
from reasoner.tree import Counts, Tree, counts


class ProbeConfig(Config):
    """Independent continuations from the end of each step (Wang et al. 2024, section 3.3)."""

    policy: Literal["probe"] = Field(default="probe", description="how trees branch")
    num_continuations: int = Field(default=8, ge=1, description="most continuations from the end of a step")
    stop: Annotated[str, Entry("stop rule", "reasoner.search.probe:STOPS")] = Field(
        default="never",
        description="never | first_success (all that labels of kind spread need) | decided (which side of `threshold` the value "
        "is on), or module:function",
    )
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="of `decided`: the value that parts good states from bad"
    )
    level: float = Field(
        default=0.95, gt=0.5, lt=1, description="of `decided`: how sure its posterior has to be"
    )


# (independent continuations so far, whether the chain itself ended right) -> no further draw is needed
StopFn = Callable[[Counts, bool, ProbeConfig], bool]


def never(drawn: Counts, ends_right: bool, config: ProbeConfig) -> bool:
    return False


def first_success(drawn: Counts, ends_right: bool, config: ProbeConfig) -> bool:
    """A success is known: (1 - (1 - p)^n) / p draws on average. A chain that ends right is one, at no cost."""
    return ends_right or drawn.c > 0


def decided(drawn: Counts, ends_right: bool, config: ProbeConfig) -> bool:
    """The posterior of the value lies above the threshold, or below it, with probability `level`."""
    above = probability_above(drawn.n, drawn.c, config.threshold)
    return max(above, 1 - above) >= config.level


STOPS: dict[str, StopFn] = {"never": never, "first_success": first_success, "decided": decided}


def probe(config: ProbeConfig) -> BranchPolicy:
    """Continue the step ends inside the chains that a tree holds already, but for their last; errors count as draws."""
    stop = lookup(STOPS, config.stop, "stop rule")

    def plan(tree: Tree) -> Iterator[list[Branch]]:
        chains = [leaf for leaf in tree.leaves() if tree.verdicts.get(leaf) is not None]
        last = {leaf: tree.step_ends(leaf)[-1:] for leaf in chains}
        open_states: dict[tuple[int, int], bool] = {}  # to whether a chain through it ended right
        for leaf in chains:
            is_right = tree.verdicts[leaf].status == "correct"
            for end in tree.step_ends(leaf):
                if [end] != last[leaf]:
                    state = (end.node, end.index + 1)
                    open_states[state] = open_states.get(state, False) or is_right
        while open_states:
            branches: list[Branch] = []
            for state, is_right in list(open_states.items()):
                drawn = counts(tree, *state)
                wanted = config.num_continuations - len(tree.children(*state))
                if wanted <= 0 or stop(drawn, is_right, config):
                    del open_states[state]
                else:
                    branches += [Branch(*state)] * (wanted if config.stop == "never" else 1)
            if branches:
                yield branches

    return in_turns(plan)


def probability_above(n: int, c: int, threshold: float) -> float:
    """P(value > threshold) after c of n draws were right, under a uniform prior.

    P(Beta(c + 1, n - c + 1) > t) = P(Binomial(n + 1, t) <= c), exactly.
    """
    return at_most(c, n + 1, threshold)
