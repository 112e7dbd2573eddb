"""First errors by bisection: rollouts from the middle of a wrong chain tell in which half it went wrong (OmegaPRM).

A state is good where any of its rollouts is right. A wrong chain from a good state is cut in two again and
again: a good middle moves the error right, one whose rollouts all fail moves it left. Good states found on the
way join the pool with their own wrong rollouts, and the most promising (state, rollout) is searched next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import UserError, lookup
from reasoner.search.grow import Branch, BranchPolicy, in_turns
from reasoner.tree import ROOT, Tree, counts

State = tuple[int, int]


class BisectConfig(Config):
    """OmegaPRM's labelling (Luo et al. 2024, sections 3.2 and 3.3); its constants are the defaults."""

    policy: Literal["bisect"] = Field(default="bisect", description="how trees branch")
    num_rollouts: int = Field(
        default=8, ge=1, description="continuations from the prompt, and most from a probed state"
    )
    num_searches: int = Field(
        default=1, ge=1, description="wrong chains that are searched for their first error"
    )
    early_stop: bool = Field(
        default=True,
        description="stop at a state's first correct continuation: enough to tell that it is good",
    )
    probe: Annotated[str, Entry("probe rule", "reasoner.search.first_error:PROBES")] = Field(
        default="cheapest",
        description="where to probe: middle, or cheapest in expected tokens; or module:function",
    )
    num_confirm: int = Field(
        default=0, ge=0, description="further continuations that must fail where the first error was found"
    )
    need_mixed: bool = Field(
        default=True, description="leave problems alone whose first chains are all right or all wrong"
    )
    alpha: float = Field(default=0.5, gt=0, le=1, description="base of 1 - MC(s): good states are preferred")
    beta: float = Field(
        default=0.9, gt=0, le=1, description="base of length / `length_scale`: short rollouts are preferred"
    )
    length_scale: int = Field(default=500, ge=1, description="tokens of a long rollout")
    exploration: float = Field(default=0.125, ge=0, description="c_puct: weight of states searched little")


@dataclass
class _Pool:
    """Wrong rollouts by the good state that they start from, with how often each state was selected."""

    config: BisectConfig
    items: list[tuple[State, int]] = field(default_factory=list)
    visits: dict[State, int] = field(default_factory=dict)

    def add(self, state: State, rollouts: Sequence[int]) -> None:
        self.visits.setdefault(state, 0)
        self.items += [(state, r) for r in rollouts]

    def pop(self, tree: Tree) -> tuple[State, int]:
        """Take out the item with the highest Q + U; its state counts as visited once more.

        Q(s, r) = alpha^(1 - MC(s)) · beta^(len(r) / L) and U(s) = c · sqrt(sum of N over the pool) / (1 + N(s)).
        """
        c = self.config
        total = sum(self.visits[s] for s in {s for s, _ in self.items})

        def worth(item: tuple[State, int]) -> float:
            state, rollout = item
            q = c.alpha ** (1 - _mc(tree, state)) * c.beta ** (
                len(tree.nodes[rollout].token_ids) / c.length_scale
            )
            return q + c.exploration * math.sqrt(total) / (1 + self.visits[state])

        best = max(self.items, key=worth)
        self.items.remove(best)
        self.visits[best[0]] += 1
        return best


def bisect(config: BisectConfig) -> BranchPolicy:
    """Rollouts from the prompt, then one probe after the other; chains that a tree holds already are searched as they are.

    Verdicts have to be set between the waves (grow's `observe`). A tree whose probe brings no verdict at all
    is given up.
    """
    probe = lookup(PROBES, config.probe, "probe rule")

    def plan(tree: Tree) -> Iterator[list[Branch]]:
        root = (ROOT, len(tree.nodes[ROOT].token_ids))
        if len(tree.nodes) == 1:
            yield [Branch(*root)] * config.num_rollouts
        pool = _Pool(config)
        if not config.need_mixed or 0 < _mc(tree, root) < 1:
            pool.add(root, _wrong(tree, root))
        for _ in range(config.num_searches):
            if not pool.items:
                return
            state, rollout = pool.pop(tree)
            for good in (yield from _search(tree, state, rollout, config, probe)):
                if _mc(tree, good) < 1:
                    pool.add(good, _wrong(tree, good))

    return in_turns(plan)


def _search(
    tree: Tree, start: State, rollout: int, config: BisectConfig, probe: ProbeFn
) -> Generator[list[Branch], None, list[State]]:
    """Narrow down a wrong rollout's first error; returns the states before it that were found good."""
    ends = [e + 1 for e in tree.nodes[rollout].step_ends]
    remaining = [len(tree.nodes[rollout].token_ids) - e for e in (0, *ends)]
    probed: set[int] = set()
    right, drawn_right = (
        1 + counts(tree, *start).c,
        2 + counts(tree, *start).n,
    )  # successes among good states' draws
    while True:
        low, high = _bracket(tree, rollout, ends)
        if high - low > 1:
            at, wanted = (
                probe(low, high, remaining, right / drawn_right, config.num_rollouts),
                config.num_rollouts,
            )
        elif high < len(ends):
            at, wanted = high, config.num_rollouts + config.num_confirm
        else:
            break  # the last step: its verdict is known
        state = (rollout, ends[at - 1])
        probed.add(at)
        drawn = counts(tree, *state)
        if drawn.n >= wanted:
            break
        while drawn.n < wanted and not drawn.c:
            yield [Branch(*state)] * (1 if config.early_stop else wanted - drawn.n)
            before, drawn = drawn, counts(tree, *state)
            if drawn.n == before.n:
                break  # nothing came back that could be judged
        if drawn.c:
            right, drawn_right = right + drawn.c, drawn_right + drawn.n
        elif drawn.n < wanted:
            break
    return [
        (rollout, ends[j - 1]) for j in sorted(probed) if j <= low and counts(tree, rollout, ends[j - 1]).c
    ]


def _bracket(tree: Tree, rollout: int, ends: Sequence[int]) -> tuple[int, int]:
    """(last step known good, first later step known bad), counted from 1; 0 is the state that the rollout starts from."""
    low, high = 0, len(ends)
    for j, end in enumerate(ends[:-1], start=1):
        drawn = counts(tree, rollout, end)
        if drawn.c:
            low, high = j, len(ends)
        elif drawn.n and high == len(ends):
            high = j
    return low, high


def first_error(tree: Tree, node: int) -> int | None:
    """Index among the node's step ends of the first wrong step, from the counts at its states; None where not narrowed down.

    A step is the first error where no continuation after it was right and one before it was, the state that
    the node starts from taken for good; the last step of a chain with a wrong answer is bad by its verdict.
    """
    verdict = tree.verdicts.get(node)
    if verdict is None or verdict.status in ("correct", "error"):
        return None
    low, high = _bracket(tree, node, [e + 1 for e in tree.nodes[node].step_ends])
    return high - 1 if high - low == 1 else None


def _mc(tree: Tree, state: State) -> float:
    drawn = counts(tree, *state)
    return drawn.c / drawn.n if drawn.n else 0.0


def _wrong(tree: Tree, state: State) -> list[int]:
    judged = [(i, tree.verdicts.get(i)) for i in tree.children(*state)]
    if judged and all(v is None for _, v in judged):
        raise UserError(
            f"bisection of problem {tree.problem.id!r} finds no verdicts on its chains; expected a verifier between the "
            "waves: set verify, or judge the chains first"
        )
    return [i for i, v in judged if v is not None and v.status not in ("correct", "error")]


# (last good step, first bad step, tokens left after each step, chance that a rollout succeeds, rollouts) -> step
ProbeFn = Callable[[int, int, Sequence[int], float, int], int]


def middle(low: int, high: int, remaining: Sequence[int], mc: float, num_rollouts: int) -> int:
    """The middle step, as in binary search."""
    return (low + high) // 2


def cheapest(low: int, high: int, remaining: Sequence[int], mc: float, num_rollouts: int) -> int:
    """The step that leads to the first error in the fewest expected tokens, all places being as likely.

    A bad state costs all of its rollouts, a good one about 1 / mc, and each rollout is as long as what is left
    of the chain; so the best probe lies left of the middle where mc is high. Solved exactly from small
    brackets to large ones.
    """
    to_success = min(num_rollouts, 1 / max(mc, 1 / num_rollouts))
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for size in range(1, high - low + 1):
        for a in range(low, high - size + 1):
            b = a + size
            best[a, b] = (0.0, b) if size == 1 else min(
                (
                    remaining[m] * ((m - a) * num_rollouts + (b - m) * to_success) / size
                    + ((m - a) * best[a, m][0] + (b - m) * best[m, b][0]) / size,
                    m,
                )
                for m in range(a + 1, b)
            )  # fmt: skip
    return best[low, high][1]


PROBES: dict[str, ProbeFn] = {"middle": middle, "cheapest": cheapest}
