"""MATH-APS: Monte-Carlo values of states found by OmegaPRM (Luo et al. 2024), flat and as a tree."""

from __future__ import annotations

from typing import Any

from reasoner.data.importers.step_tree import PROMPT, StepTree, Unusable, new_tree, probability, rest


def flat(row: dict[str, Any]) -> list[StepTree]:
    """Prefixes of solutions, the question included, each with its value.

    A prefix continues the longest other one that it begins with; the step is what it adds. The question's own
    value goes into `extra`.
    """
    question, states = row["question"], row["reasoning_steps"]
    extra = rest(row, "question", "final_answer", "reasoning_steps")
    values: list[tuple[str, float]] = []
    for state in states:
        prefix = state.get("solution_prefix") if isinstance(state, dict) else None
        if not isinstance(prefix, str) or not prefix.startswith(question):
            raise Unusable("a solution_prefix does not begin with the question")
        values.append((prefix, probability(state.get("mc_value"), "mc_value")))
    return _of_prefixes(question, question, values, row.get("final_answer"), extra)


def states(row: dict[str, Any]) -> list[StepTree]:
    """OpenR's earlier form: each state of the search as often as it had rollouts, without the question, with its value."""
    values: dict[str, float] = {}
    for found in row["states"]:
        if not isinstance(found, dict) or not isinstance(found.get("state"), str):
            raise Unusable("a state has no text")
        values[found["state"]] = probability(found.get("mcs"), "mcs")
    extra = {**rest(row, "q", "states"), "num_rollouts": len(row["states"])}
    return _of_prefixes(row["q"], "", list(values.items()), None, extra)


def _of_prefixes(
    question: str, root: str, values: list[tuple[str, float]], answer: Any, extra: dict[str, Any]
) -> list[StepTree]:
    """The tree of prefixes that begin with `root`, each with its value."""
    extra["question_values"] = [value for prefix, value in values if prefix == root]
    tree = new_tree(question, "soft", answer=answer, extra=extra, is_pieces=True)
    numbers: dict[str, int] = {root: PROMPT}
    for prefix, value in sorted(values, key=lambda v: len(v[0])):
        if prefix == root:
            continue
        parent = next(p for p in _prefixes(prefix, numbers))
        number = tree.add(numbers[parent], prefix[len(parent) :], value)
        numbers.setdefault(prefix, number)
    if not tree.steps:
        raise Unusable("there are no steps")
    return [tree]


def _prefixes(text: str, known: dict[str, int]) -> list[str]:
    """The known proper prefixes of a text, the longest first."""
    return sorted((k for k in known if len(k) < len(text) and text.startswith(k)), key=len, reverse=True)


def tree(row: dict[str, Any]) -> list[StepTree]:
    """Nested {text, mc_value, children}: the root's text is the question, the others add theirs to their parent's.

    Where a text repeats its parent's whole prefix, as the format's description has it, what it adds is the step.
    """
    root = row["reasoning_steps"]
    question = row.get("question") or root.get("text")
    extra = {
        **rest(row, "question", "final_answer", "reasoning_steps"),
        "question_values": [root.get("mc_value")],
    }
    found = new_tree(question, "soft", answer=row.get("final_answer"), extra=extra, is_pieces=True)
    waiting = [(child, PROMPT, question) for child in reversed(_children(root))]
    while waiting:
        state, parent, so_far = waiting.pop()
        text = state.get("text")
        if not isinstance(text, str):
            raise Unusable("a state has no text")
        added = text[len(so_far) :] if text.startswith(so_far) else text
        at = found.add(parent, added, probability(state.get("mc_value"), "mc_value"))
        waiting += [(child, at, so_far + added) for child in reversed(_children(state))]
    if not found.steps:
        raise Unusable("there are no steps")
    return [found]


def _children(state: Any) -> list[dict[str, Any]]:
    if not isinstance(state, dict) or not isinstance(state.get("children", []), list):
        raise Unusable("a state is no object with a list of children")
    return state.get("children") or []
