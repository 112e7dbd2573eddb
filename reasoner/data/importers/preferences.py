"""Pairs of steps after one prefix, the better one known: Step-DPO (Lai et al. 2024) and rStar-Math (Guan et al. 2025)."""

from __future__ import annotations

from typing import Any

from reasoner.data.importers.step_tree import (
    PROMPT,
    StepTree,
    Unusable,
    chain,
    finite,
    new_tree,
    probability,
    rest,
)

KIND = "preference"  # 1 is better than 0 among siblings; neither is a probability


def step_dpo(row: dict[str, Any]) -> list[StepTree]:
    """`initial_reason_steps` (or `prefix`) is a common beginning, `chosen` and `rejected` are the next step."""
    before = row["initial_reason_steps"] if "initial_reason_steps" in row else row["prefix"]
    taken = ("prompt", "answer", "initial_reason_steps", "chosen", "rejected")
    return [
        _pair(row["prompt"], before, [row["chosen"]], [row["rejected"]], row.get("answer"), rest(row, *taken))
    ]


def rstar_pairs(row: dict[str, Any]) -> list[StepTree]:
    """`pos` and `neg` are continuations of `prompt`; the lists are padded beyond `pos_count` and `neg_count`."""
    pos, neg = row["pos"], row["neg"]
    if not isinstance(pos, list) or not isinstance(neg, list):
        raise Unusable("pos or neg is no list")
    pos, neg = pos[: row.get("pos_count", len(pos))], neg[: row.get("neg_count", len(neg))]
    if not pos or not neg:
        raise Unusable(f"{len(pos)} better and {len(neg)} worse steps, expected one of each at least")
    extra = rest(row, "prompt", "question", "pos", "neg", "pos_count", "neg_count")
    return [_pair(row.get("question") or row["prompt"], "", pos, neg, None, extra)]


def rstar_steps(row: dict[str, Any]) -> list[StepTree]:
    """`chosen_step` and `rejected_step` after `prefix`, which holds the question where there is no `question`."""
    extra = rest(row, "question", "prefix", "chosen_step", "rejected_step")
    question = row.get("question") or row.get("prompt")
    prompt, before = (question, row["prefix"]) if question else (row["prefix"], "")
    return [_pair(prompt, before, [row["chosen_step"]], [row["rejected_step"]], None, extra)]


def rstar_solution(row: dict[str, Any]) -> list[StepTree]:
    """`sft_full` in steps, with a Q value in [-1, 1] each, and the final Q of the whole."""
    steps, values = row["sft_full"], row["q_values"]
    if not isinstance(steps, list) or not isinstance(values, list):
        raise Unusable("sft_full or q_values is no list")
    labels = [probability((finite(q, "a Q value") + 1) / 2, "(Q + 1) / 2") for q in values]
    tree = new_tree(row["question"], "soft", extra=rest(row, "question", "sft_full", "q_values"))
    return [chain(tree, steps, labels, outcome=float(finite(row["final_Q"], "final_Q") > 0))]


def _pair(
    prompt: Any, before: Any, better: list, worse: list, answer: Any, extra: dict[str, Any]
) -> StepTree:
    tree = new_tree(prompt, KIND, answer=answer, extra=extra, is_pieces=True)
    at = tree.add(PROMPT, before) if isinstance(before, str) and before.strip() else PROMPT
    for texts, label in ((better, 1.0), (worse, 0.0)):
        for text in texts:
            tree.add(at, text, label)
    return tree
