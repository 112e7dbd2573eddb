"""Step-DPO pairs: at the first wrong step of a chain, a step by the same policy that leads to right answers.

Both are single steps after one prefix, as sampled: nothing is appended, so a step that did not end the text
has no end-of-text token (Lai et al. 2024, "Step-DPO", section 3.2, with Monte-Carlo counts for the judge).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from reasoner.config import Config
from reasoner.records import PreferencePair
from reasoner.tree import ROOT, Tree, counts


class StepPairConfig(Config):
    """Which steps are paired."""

    confidence: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="least P(p+ > p-) under the Beta posteriors of both steps' success rates",
    )
    min_edits: int = Field(
        default=20, ge=1, description="least edit distance between the two steps, in characters"
    )
    max_length_ratio: float = Field(
        default=2.0, ge=1, description="most times that one step may be longer than the other"
    )
    balance: bool = Field(
        default=True,
        description="as many pairs with the longer step chosen as rejected, so that length is not learned",
    )
    per_state: int = Field(default=2, ge=1, description="most pairs from one prefix")
    per_problem: int = Field(default=8, ge=1, description="most pairs from one problem")


@dataclass
class Choice:
    """A step taken after some prefix, with the draws that went through it: `n` judged, `c` of them correct."""

    token_ids: tuple[int, ...]
    n: int = 0
    c: int = 0


def step_pairs(
    trees: Iterable[Tree], config: StepPairConfig, decode: Callable[[Sequence[int]], str]
) -> list[PreferencePair]:
    """Pairs of a step that led to right answers and one that never did, the surest pairs of each problem first.

    The prefix of such a pair can still be solved (the winner shows it), so the rejected step is the first
    wrong one of its chains. `margin` is P(p+ > p-).
    """
    taken: dict[str, int] = defaultdict(int)
    found: list[PreferencePair] = []
    for tree in trees:
        pairs = sorted(_of_tree(tree, config, decode), key=lambda p: -p.margin)
        room = config.per_problem - taken[tree.problem.id]
        taken[tree.problem.id] += len(pairs[:room])
        found += pairs[:room]
    return balanced(found) if config.balance else found


def balanced(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """As many pairs whose chosen side is longer as pairs whose rejected side is, the surplus left out at equal distances.

    Pairs of equal lengths all stay; the order is kept.
    """
    kept = in_balance([longer_side(p) for p in pairs])
    return [p for i, p in enumerate(pairs) if i in kept]


def longer_side(pair: PreferencePair) -> int:
    """1 where the chosen step is longer, -1 where the rejected one is, 0 where neither is."""
    chosen, rejected = len(pair.chosen_ids), len(pair.rejected_ids)
    return (chosen > rejected) - (chosen < rejected)


def in_balance(sides: Sequence[int]) -> set[int]:
    """The numbers of the pairs that stay, by the longer side of each."""
    longer = [i for i, side in enumerate(sides) if side > 0]
    shorter = [i for i, side in enumerate(sides) if side < 0]
    few = min(len(longer), len(shorter))
    kept = {of_side[j * len(of_side) // few] for of_side in (longer, shorter) for j in range(few)}
    return kept | {i for i, side in enumerate(sides) if not side}


def choices(tree: Tree) -> dict[tuple[int, int], list[Choice]]:
    """Per state with several continuations, the distinct next steps and what came of each.

    A draw through a step counts for it: what was drawn before it and went on, and what was drawn at its end.
    """
    states: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, node in enumerate(tree.nodes[1:], start=1):
        if node.drawn == "independent":
            states[(node.parent, node.offset)].append((i, 0))
    for (node, offset), draws in states.items():
        if node != ROOT and offset < len(tree.nodes[node].token_ids):
            draws.append((node, offset))  # the node's own text is one more draw from this state
    found: dict[tuple[int, int], list[Choice]] = {}
    for state, draws in states.items():
        by_text: dict[tuple[int, ...], Choice] = {}
        for node, start in draws:
            step = _next_step(tree, node, start)
            if step:
                choice = by_text.setdefault(step, Choice(step))
                n, c = _draws_through(tree, node, start + len(step))
                choice.n += n
                choice.c += c
        if len(by_text) > 1:
            found[state] = list(by_text.values())
    return found


def prob_greater(c1: int, n1: int, c2: int, n2: int) -> float:
    """P(p1 > p2) where p ~ Beta(1 + c, 1 + n - c): uniform priors updated by c successes in n draws.

    The closed form for whole parameters, a sum over the first Beta's (Miller 2015, "Formulas for Bayesian A/B
    testing", equation 6).
    """
    a1, b1, a2, b2 = 1 + c1, 1 + n1 - c1, 1 + c2, 1 + n2 - c2
    return sum(
        math.exp(_log_beta(a2 + i, b1 + b2) - math.log(b1 + i) - _log_beta(1 + i, b1) - _log_beta(a2, b2))
        for i in range(a1)
    )


def edit_distance(a: str, b: str, enough: int) -> int:
    """Levenshtein's distance, or `enough` where it is at least that."""
    if abs(len(a) - len(b)) >= enough:
        return enough
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
        if min(row) >= enough:
            return enough
    return min(enough, row[-1])


def _of_tree(tree: Tree, config: StepPairConfig, decode) -> Iterator[PreferencePair]:
    for (node, offset), options in choices(tree).items():
        winners = sorted((o for o in options if o.c), key=lambda o: -o.c / o.n)
        losers = sorted((o for o in options if o.n and not o.c), key=lambda o: -o.n)
        left = config.per_state
        for loser in losers:
            for winner in winners:
                sure = prob_greater(winner.c, winner.n, loser.c, loser.n)
                if not left or sure < config.confidence or not _alike(winner, loser, config, decode):
                    continue
                winners.remove(winner)  # each step is in one pair at most
                left -= 1
                prompt_ids = tree.token_ids(node, offset)
                yield PreferencePair(
                    problem_id=tree.problem.id,
                    prompt=decode(prompt_ids),
                    chosen=decode(winner.token_ids),
                    rejected=decode(loser.token_ids),
                    prompt_ids=prompt_ids,
                    chosen_ids=list(winner.token_ids),
                    rejected_ids=list(loser.token_ids),
                    margin=sure,
                    is_whole=False,
                    source=tree.problem.source,
                    licence=tree.problem.licence,
                )
                break


def _alike(winner: Choice, loser: Choice, config: StepPairConfig, decode) -> bool:
    """Whether the lengths are comparable and the texts are not nearly the same."""
    long, short = sorted((len(winner.token_ids), len(loser.token_ids)), reverse=True)
    if long > config.max_length_ratio * short:
        return False
    texts = decode(winner.token_ids), decode(loser.token_ids)
    return edit_distance(*texts, enough=config.min_edits) >= config.min_edits


def _next_step(tree: Tree, node: int, start: int) -> tuple[int, ...]:
    """The node's tokens from `start` to its next step end; empty where none comes."""
    ends = [e for e in tree.nodes[node].step_ends if e >= start]
    return tree.nodes[node].token_ids[start : ends[0] + 1] if ends else ()


def _draws_through(tree: Tree, node: int, offset: int) -> tuple[int, int]:
    """Judged draws, and correct ones, that passed the state: the node's own remainder and those drawn at the state."""
    drawn = counts(tree, node, offset)
    verdict = tree.verdicts.get(node)
    judged = verdict is not None and verdict.status != "error"
    own = verdict is not None and verdict.status == "correct"
    return drawn.n + judged, drawn.c + own


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
