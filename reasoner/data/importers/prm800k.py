"""PRM800K (Lightman et al. 2023): steps rated by people, as raw labeler records, as step rows, and OpenAI's scored samples."""

from __future__ import annotations

import math
from typing import Any

from reasoner.data.importers.step_tree import (
    NEUTRAL,
    NONE,
    PROMPT,
    StepTree,
    Unusable,
    chain,
    new_tree,
    probability,
    rest,
    truth,
    whole,
)

RATINGS = {1: 1.0, 0: NEUTRAL, -1: 0.0}
ANSWER_MARK = "# Answer"
HUMAN = "human"


def rating(value: Any) -> float:
    """The label of a person's rating: -1 bad, 0 neutral, 1 good; NaN for null, else Unusable."""
    if value is None:
        return NONE
    found = whole(value, "rating")
    if found not in RATINGS:
        raise Unusable(f"rating {value!r} is out of range, expected -1, 0 or 1")
    return RATINGS[found]


def labeler_record(row: dict[str, Any]) -> list[StepTree]:
    """All completions that a labeler saw at each step are siblings; the chosen one, or the one that the person
    wrote (counted good), is what the next ones continue.

    Where the labeler gave up or found the problem bad, the last step, in which nothing was chosen, is dropped.
    """
    if row.get("is_quality_control_question"):
        raise Unusable("a quality-control question")
    if row.get("is_initial_screening_question"):
        raise Unusable("an initial screening question")
    question, label = row["question"], row["label"]
    if not isinstance(label.get("steps"), list) or not label["steps"]:
        raise Unusable("there are no steps")
    if label.get("finish_reason") not in ("found_error", "solution", "bad_problem", "give_up"):
        raise Unusable(f"finish_reason is {label.get('finish_reason')!r}")
    extra = {
        **rest(row, "question", "label"),
        "question": rest(question, "problem", "ground_truth_answer"),
        "label": rest(label, "steps"),
    }
    tree = new_tree(question["problem"], "human", answer=question.get("ground_truth_answer"), extra=extra)
    steps = label["steps"]
    if label["finish_reason"] in ("bad_problem", "give_up"):
        while steps and steps[-1].get("chosen_completion") is None and not steps[-1].get("human_completion"):
            steps = steps[:-1]
    at = PROMPT
    for number, step in enumerate(steps, start=1):
        completions, written = step.get("completions") or [], step.get("human_completion")
        chosen = step.get("chosen_completion")
        alternatives = [_completion(tree, at, c) for c in completions]
        if written:
            at = tree.add(
                at, written.get("text"), 1.0, is_end=ANSWER_MARK in str(written.get("text")),
                author=HUMAN, details=rest(written, "text"),
            )  # fmt: skip
        if chosen is not None:
            if not isinstance(chosen, int) or not 0 <= chosen < len(alternatives):
                raise Unusable(f"step {number} chose completion {chosen!r} of {len(alternatives)}")
            at = alternatives[chosen]
        elif not written and number < len(steps):
            raise Unusable(f"step {number} has no chosen completion, yet step {number + 1} follows")
    if not tree.steps:
        raise Unusable("no rated step is left once the unfinished ones are dropped")
    return [tree]


def _completion(tree: StepTree, parent: int, completion: dict[str, Any]) -> int:
    text = completion.get("text")
    return tree.add(
        parent, text if isinstance(text, str) else "", rating(completion.get("rating")),
        is_end=ANSWER_MARK in str(text), details=rest(completion, "text", "rating"),
    )  # fmt: skip


def step_row(row: dict[str, Any]) -> list[StepTree]:
    """One step after its prefix; rows of one problem that follow one another are gathered into one tree."""
    prefix, is_human = row["responses"], bool(row.get("is_human_response"))
    if prefix is not None and not isinstance(prefix, list):
        raise Unusable("responses is no list")
    label = rating(row["rating"])
    tree = new_tree(row["instruction"], "human")
    at = PROMPT
    for text in prefix or []:
        at = tree.add(at, text)
    said = rest(row, "instruction", "responses", "next_response", "rating")
    tree.add(
        at, row["next_response"], 1.0 if is_human and math.isnan(label) else label, details=said,
        is_end=row.get("answer") is not None, author=HUMAN if is_human else "",
    )  # fmt: skip
    return [tree]


def scored_sample(row: dict[str, Any]) -> list[StepTree]:
    """A solution scored by OpenAI's PRM and ORM: a step's label is 1 - p(negative), so neutral counts as good."""
    outcome = truth(row.get("is_correct"), "is_correct")
    tree = new_tree(row["problem"], "judge", answer=row.get("ground_truth_answer"),
                    extra=rest(row, "problem", "steps", "rating_probs", "is_correct", "ground_truth_answer"))  # fmt: skip
    if "steps" not in row:
        return [chain(tree, [str(row.get("answer", row.get("given_answer")))], outcome=outcome)]
    ratings = row.get("rating_probs") or [None] * len(row["steps"])
    labels = [NONE if p is None else 1 - probability(p.get("-1"), "p(negative)") for p in ratings]
    tree = chain(tree, row["steps"], labels, outcome=outcome)
    return [tree]
