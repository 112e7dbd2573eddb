"""Live pruning: a policy around a policy that asks rules whether a state is worth continuing.

A branch that a rule is against is drawn all the same with probability `continue_share`, by a lottery of its
place, and carries that probability as its propensity: values stay unbiased (signals/backup.unbiased_values)
however wrong a rule may be, and the branches continued measure how wrong it is (pruning_report). So a rule
may be a guess, and may look at anything that the tree holds before the branch is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import comb
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.engine.protocol import place_key
from reasoner.registry import UserError, lookup
from reasoner.search.grow import Branch, BranchPolicy, place_paths
from reasoner.tree import Tree


class PruneConfig(Config):
    """Which states are not continued; no rule by default."""

    rules: Annotated[list[str], Entry("pruning rule", "reasoner.search.prune:RULES", also=("dead_end",))] = Field(
        default=[], description="dead_end | unlikely | duplicate | loop | solved | low_score, or module:function; first counts"
    )  # fmt: skip
    continue_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of pruned branches that is continued all the same, at random",
    )
    min_value: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="unlikely: prunes where the value is below this with `confidence`",
    )
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="unlikely: posterior probability required"
    )
    repeats: int = Field(
        default=3, ge=2, description="loop: prunes what ends in this many copies of one run of tokens"
    )
    loop_tokens: int = Field(
        default=12, ge=1, description="loop: fewest tokens that the copies take up together"
    )
    solved_enough: int = Field(
        default=4, ge=1, description="solved: correct trajectories after which a tree is not continued"
    )
    score: Literal["prm", "orm"] = Field(default="prm", description="low_score: whose score is read")
    min_score: float = Field(default=0.1, description="low_score: prunes below this")


Rule = Callable[[Tree, int, int, PruneConfig], bool]
DeadEndFn = Callable[[Tree, int, int], bool]


def pruned(
    policy: BranchPolicy,
    config: PruneConfig,
    seed: int = 0,
    round: int = 0,
    is_dead_end: DeadEndFn | None = None,
) -> BranchPolicy:
    """`policy` with the branches dropped that a rule is against, but for a random share.

    `is_dead_end(tree, node, offset)` is a verifier's word that no continuation of the state can be right.
    """
    rules = {name: _rule(name, is_dead_end) for name in config.rules}

    def wrapped(tree: Tree, wave: int) -> list[Branch]:
        branches = policy(tree, wave)
        against: dict[tuple[int, int], str] = {}
        found = []
        paths = place_paths(tree) if branches else []
        for ordinal, branch in enumerate(branches, start=len(tree.nodes)):
            state = (branch.parent, branch.offset)
            if state not in against:
                against[state] = next((n for n, r in rules.items() if r(tree, *state, config)), "")
            if against[state]:
                # the node's number to be beside its path: another place than that of its tokens
                times = [(-2, tree.occurrence)] if tree.occurrence else []  # as grow tells such trees apart
                place = [*times, *paths[branch.parent], (branch.offset, ordinal), (-1, 0)]
                drawn = (place_key(seed, round, tree.problem.id, place) >> 11) * 2.0**-53 + 0.5
                branch = replace(
                    branch,
                    propensity=branch.propensity * config.continue_share,
                    dropped="" if drawn < config.continue_share else against[state],
                )
            found.append(branch)
        return found

    return wrapped


def _rule(name: str, is_dead_end: DeadEndFn | None) -> Rule:
    if name != "dead_end":
        return lookup(RULES, name, "pruning rule")
    if is_dead_end is None:
        raise UserError(
            "the pruning rule dead_end needs a verifier of unfinished chains and got none; expected one: "
            "set dead_end, or leave the rule out"
        )
    return lambda tree, node, offset, config: is_dead_end(tree, node, offset)


def unlikely(tree: Tree, node: int, offset: int, config: PruneConfig) -> bool:
    """The upper credible bound of the state's value is below the bar.

    From a uniform prior and the n judged trajectories through the state, c of them correct, the value passes
    v with probability P(Binomial(n + 1, v) <= c). Trajectories that share more than the state count as if
    they were independent: the rule is a guess, and measured.
    """
    n, c = _judged_through(tree, node, offset)
    return at_most(c, n + 1, config.min_value) < 1 - config.confidence


def at_most(c: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= c)."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(c + 1))


def _judged_through(tree: Tree, node: int, offset: int) -> tuple[int, int]:
    n = c = 0
    for leaf, verdict in tree.verdicts.items():
        if verdict.status != "error" and any(s.node == node and s.end >= offset for s in tree.path(leaf)):
            n += 1
            c += verdict.status == "correct"
    return n, c


def duplicate(tree: Tree, node: int, offset: int, config: PruneConfig) -> bool:
    """An earlier node holds the same completion so far: what is drawn there serves for both."""
    ids = tree.completion_ids(node, offset)
    return bool(ids) and any(tree.completion_ids(i)[: len(ids)] == ids for i in range(1, node))


def loop(tree: Tree, node: int, offset: int, config: PruneConfig) -> bool:
    """The completion ends in several copies of one run of tokens."""
    ids = tree.completion_ids(node, offset)
    shortest = -(-config.loop_tokens // config.repeats)
    for period in range(shortest, len(ids) // config.repeats + 1):
        tail = ids[-period * config.repeats :]
        if tail == tail[:period] * config.repeats:
            return True
    return False


def solved(tree: Tree, node: int, offset: int, config: PruneConfig) -> bool:
    """The tree has enough correct trajectories: more would teach little."""
    return sum(v.status == "correct" for v in tree.verdicts.values()) >= config.solved_enough


def low_score(tree: Tree, node: int, offset: int, config: PruneConfig) -> bool:
    """A reward model's score at the state is below the bar; states without a score are let be."""
    scores = tree.scores.get(config.score, {}).get(node)
    ends = tree.nodes[node].step_ends
    if scores is None or offset - 1 not in ends:
        return False
    return scores[ends.index(offset - 1)] < config.min_score


RULES: dict[str, Rule] = {
    "unlikely": unlikely,
    "duplicate": duplicate,
    "loop": loop,
    "solved": solved,
    "low_score": low_score,
}
BY_VERDICTS = ("unlikely", "solved")
