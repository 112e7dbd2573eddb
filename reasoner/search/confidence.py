"""How sure a model was of what it wrote, from one number per token: means, groups, and the answer's own tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from reasoner.search.answers import read_answer
from reasoner.search.method import Tools
from reasoner.tree import Tree

# Measures that every sampled node already holds, so that they cost nothing more
FREE: dict[str, Callable[[Tree, int], Sequence[float]]] = {
    "logprob": lambda tree, node: tree.nodes[node].logprobs_full,
    "negentropy": lambda tree, node: [-e for e in tree.nodes[node].entropy],
}


def along(tree: Tree, leaf: int, per_node: Callable[[int], Sequence[float]]) -> list[float]:
    """The measure at each completion token of a trajectory; NaN where a node has none (forced tokens)."""
    found: list[float] = []
    for span in tree.path(leaf)[1:]:
        values = list(per_node(span.node))[: span.end]
        found += values + [math.nan] * (span.end - len(values))
    return found


def path_measure(trees: Sequence[Tree], name: str, tools: Tools) -> list[dict[int, list[float]]]:
    """Per tree and leaf the measure along the trajectory: of FREE, or by a further pass of `tools.measure`."""
    if name in FREE:
        return [{leaf: along(t, leaf, lambda n, t=t: FREE[name](t, n)) for leaf in t.leaves()} for t in trees]
    assert tools.measure is not None
    measured = tools.measure(trees, name)
    return [
        {leaf: along(t, leaf, lambda n, m=m: m.get(n, ())) for leaf in t.leaves()}
        for t, m in zip(trees, measured, strict=True)
    ]


def mean(values: Sequence[float]) -> float:
    """Mean of what is known; -inf where nothing is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else -math.inf


def lowest_group(values: Sequence[float], window: int) -> float:
    """The least mean of `window` neighbouring tokens (DeepConf, Fu et al. 2025, section 3.1); all of a shorter text."""
    known = [v for v in values if not math.isnan(v)]
    if len(known) <= window:
        return mean(known)
    total = sum(known[:window])
    least = total
    for i in range(window, len(known)):
        total += known[i] - known[i - window]
        least = min(least, total)
    return least / window


def tail(values: Sequence[float], window: int) -> float:
    """The mean over the last `window` tokens."""
    return mean(list(values)[-window:])


def answer_span(tree: Tree, leaf: int, tools: Tools) -> tuple[int, int] | None:
    """Which of a trajectory's completion tokens spell its final answer, by the last place where it stands; None without one."""
    ids = tree.completion_ids(leaf)
    text = tools.decode(ids)
    answer = read_answer(tree.problem, text)
    at = text.rfind(answer) if answer else -1
    if answer is None or at < 0:
        return None
    start = _tokens_within(ids, at, tools)
    end = start
    while end < len(ids) and len(tools.decode(ids[:end])) < at + len(answer):
        end += 1
    return start, max(end, start + 1)


def _tokens_within(ids: Sequence[int], num_chars: int, tools: Tools) -> int:
    """How many leading tokens decode to at most `num_chars` characters (binary search: lengths grow)."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tools.decode(ids[:middle])) <= num_chars:
            low = middle
        else:
            high = middle - 1
    return low


def answer_confidence(tree: Tree, leaf: int, values: Sequence[float], tools: Tools) -> float:
    """Mean of the measure over the tokens of the final answer; -inf where there is no answer."""
    span = answer_span(tree, leaf, tools)
    return mean(values[span[0] : span[1]]) if span else -math.inf
