"""The length of thinking as a setting: cut off at a budget and asked for the answer, or made to go on (s1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from reasoner.registry import UserError
from reasoner.search.grow import Branch
from reasoner.search.method import (
    INDEPENDENT,
    Choice,
    Sampled,
    Tools,
    choice_among,
    extend,
    force,
    from_end,
    from_root,
)
from reasoner.search.thinking import Thinking
from reasoner.tree import Tree


class Budget(Sampled):
    """One chain of a set length of thinking."""

    name: Literal["budget"]
    temperature: float = Field(0.0, ge=0, description="sampling temperature; 0 is greedy")
    max_thinking: int = Field(0, ge=0, description="tokens after which thinking is cut off; 0: no cap")
    min_thinking: int = Field(0, ge=0, description="tokens before which an end of thinking is suppressed")
    num_waits: int = Field(2, ge=0, description="most suppressed ends per chain")
    end_think: str = Field(
        "",
        description="text that ends thinking, one token where an end is to be suppressed; empty: the end of text does",
    )
    end_text: str = Field(
        "\nFinal Answer:", description="text that asks for the answer where thinking is cut off"
    )
    wait_text: str = Field("\nWait", description="text in place of a suppressed end")
    answer_tokens: int = Field(32, ge=1, description="tokens for the answer after thinking")


def budget(trees: Sequence[Tree], tools: Tools, config: Budget) -> list[Choice]:
    """Budget forcing (Muennighoff et al. 2025, "s1: Simple test-time scaling", section 3).

    Suppressed ends are cut off their node by branching in front of them; forced texts have no log-probabilities.
    """
    most = min(config.max_thinking or tools.growth.max_tokens, tools.growth.max_tokens)
    closing = config.end_think + config.end_text
    within = replace(tools, thinking=Thinking(most, config.end_think, closing, config.answer_tokens))
    roots = [from_root(t, 1) for t in trees]
    if not config.min_thinking:
        ends = [node for (node,) in extend(trees, roots, within, config.sampling)]
    else:
        stops = _think_stops(tools, config)
        ends = [node for (node,) in extend(trees, roots, tools, config.sampling, stops, most)]
        _wait(trees, ends, stops, most, tools, config)
        going = [i for i, (t, end) in enumerate(zip(trees, ends, strict=True))
                 if t.nodes[end].stop_reason in ("stop", "length")]  # fmt: skip
        branches = [from_end(trees[i], ends[i], 1, INDEPENDENT) for i in going]
        new = extend([trees[i] for i in going], branches, within, config.sampling)
        for i, (node,) in zip(going, new, strict=True):
            ends[i] = node
    return [
        choice_among(t, [end], [1.0], 0, 1.0, tools, INDEPENDENT) for t, end in zip(trees, ends, strict=True)
    ]


def _wait(
    trees: Sequence[Tree], ends: list[int], stops: frozenset[int], most: int, tools: Tools, config: Budget
) -> None:
    """Suppress ends that come before the least of thinking; sets `ends`."""
    for _ in range(config.num_waits):
        short = [
            i
            for i, (t, end) in enumerate(zip(trees, ends, strict=True))
            if t.nodes[end].stop_reason in ("eos", "stop")
            and len(t.completion_ids(end)) < min(config.min_thinking, most)
        ]
        if not short:
            break
        branches = [[_instead_of_end(trees[i], ends[i], config.wait_text, tools)] for i in short]
        new = extend([trees[i] for i in short], branches, tools, config.sampling, stops, most)
        for i, (node,) in zip(short, new, strict=True):
            ends[i] = node


def _think_stops(tools: Tools, config: Budget) -> frozenset[int]:
    if config.max_thinking and config.min_thinking > config.max_thinking:
        raise UserError(
            f"budget has min_thinking {config.min_thinking} over max_thinking {config.max_thinking}; expected at most as many"
        )
    if not config.end_think:
        return frozenset()
    ids = tools.encode(config.end_think)
    if len(ids) != 1:
        raise UserError(f"budget.end_think {config.end_think!r} is {len(ids)} tokens; expected exactly one")
    return frozenset(ids)


def _instead_of_end(tree: Tree, end: int, text: str, tools: Tools) -> Branch:
    """Continue the text without its last token, behind `text`."""
    node = force(tree, end, len(tree.nodes[end].token_ids) - 1, tools.encode(text), tools, "wait")
    return from_end(tree, node, 1, INDEPENDENT)[0]
