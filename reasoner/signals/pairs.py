"""Preference pairs between siblings: the same prefix, a continuation that came out right over one that did not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import Field

from reasoner.config import Config
from reasoner.records import PreferencePair
from reasoner.tree import Tree


class PairConfig(Config):
    """Which siblings are paired."""

    per_state: int = Field(
        default=2, ge=1, description="most pairs from one state, so that no state dominates"
    )
    per_problem: int = Field(default=8, ge=1, description="most pairs from one problem")


def sibling_pairs(
    trees: Iterable[Tree], config: PairConfig, decode: Callable[[Sequence[int]], str]
) -> Iterator[PreferencePair]:
    """Pairs at every branch state, states nearest to the prompt first; duplicates by tokens are left out."""
    for tree in trees:
        states: dict[tuple[int, int], list[int]] = defaultdict(list)
        leaves = set(tree.leaves())
        for i, node in enumerate(tree.nodes[1:], start=1):
            if i in leaves and (v := tree.verdicts.get(i)) is not None and v.status != "error":
                states[(node.parent, node.offset)].append(i)
        left = config.per_problem
        for (parent, offset), children in states.items():
            right = _distinct(tree, [c for c in children if tree.verdicts[c].status == "correct"])
            wrong = _distinct(tree, [c for c in children if tree.verdicts[c].status != "correct"])
            prompt_ids = tree.token_ids(parent, offset)
            for chosen, rejected in list(zip(right, wrong, strict=False))[: min(config.per_state, left)]:
                left -= 1
                chosen_ids = list(tree.nodes[chosen].token_ids)
                rejected_ids = list(tree.nodes[rejected].token_ids)
                yield PreferencePair(
                    problem_id=tree.problem.id,
                    prompt=decode(prompt_ids),
                    chosen=decode(chosen_ids),
                    rejected=decode(rejected_ids),
                    prompt_ids=prompt_ids,
                    chosen_ids=chosen_ids,
                    rejected_ids=rejected_ids,
                    source=tree.problem.source,
                    licence=tree.problem.licence,
                )


def _distinct(tree: Tree, nodes: list[int]) -> list[int]:
    return list({tree.nodes[n].token_ids: n for n in nodes}.values())
