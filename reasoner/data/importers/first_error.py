"""Benchmarks that say which steps are wrong: ProcessBench, BIG-Bench Mistake, PRMBench."""

from __future__ import annotations

from typing import Any

from reasoner.data.importers.step_tree import NONE, StepTree, Unusable, chain, new_tree, rest, truth, whole
from reasoner.data.rows import is_empty


def process_bench(row: dict[str, Any]) -> list[StepTree]:
    """`label` is the index of the earliest wrong step, -1 for none; what follows it has no label."""
    labels = until_first_error(row["label"], row["steps"])
    tree = new_tree(row["problem"], "human", extra=rest(row, "problem", "steps", "final_answer_correct"))
    outcome = truth(row.get("final_answer_correct"), "final_answer_correct")
    return [chain(tree, row["steps"], labels, outcome=outcome, author=str(row.get("generator", "")))]


def big_bench_mistake(row: dict[str, Any]) -> list[StepTree]:
    """`mistake_index` is the index of the earliest wrong step, null for none."""
    index = -1 if is_empty(row["mistake_index"]) else row["mistake_index"]  # pandas writes null as NaN
    labels = until_first_error(index, row["steps"])
    tree = new_tree(
        row["input"], "human", answer=row.get("target"), extra=rest(row, "input", "steps", "target")
    )
    known = "answer" in row and "target" in row
    # some of the set's answers begin with a space, which its authors don't count as wrong
    outcome = float(str(row["answer"]).strip() == str(row["target"]).strip()) if known else NONE
    return [chain(tree, row["steps"], labels, outcome=outcome)]


def until_first_error(index: Any, steps: Any) -> list[float]:
    """1 before the first wrong step, 0 there, NaN after it; Unusable for an index that is no step."""
    if not isinstance(steps, list) or not steps:
        raise Unusable("there are no steps")
    index = whole(index, "the first wrong step")
    if not -1 <= index < len(steps):
        raise Unusable(f"the first wrong step is {index}, expected -1 to {len(steps) - 1}")
    if index < 0:
        return [1.0] * len(steps)
    return [1.0] * index + [0.0] + [NONE] * (len(steps) - index - 1)


def prm_bench(row: dict[str, Any]) -> list[StepTree]:
    """The changed solution with its wrong steps (counted from 1), and the solution that it was made from, all right.

    Both are solutions of one tree where the question was not changed with them.
    """
    steps, wrong = row["modified_process"], row["error_steps"]
    if not isinstance(steps, list) or not isinstance(wrong, list):
        raise Unusable("modified_process or error_steps is no list")
    wrong = [whole(e, "one of error_steps") for e in wrong]
    if not all(1 <= e <= len(steps) for e in wrong):
        raise Unusable(f"error_steps are {wrong}, expected 1 to {len(steps)}")
    taken = ("original_question", "modified_question", "original_process", "modified_process", "error_steps")
    extra = rest(row, *taken)
    labels = [float(i not in wrong) for i in range(1, len(steps) + 1)]
    before, after = row.get("original_question"), row.get("modified_question") or row.get("question")
    details = {"process": "modified"}
    changed = chain(new_tree(after, "human", extra=extra), steps, labels, details=details)
    original = row.get("original_process")
    if not isinstance(original, list) or not original:
        return [changed]
    same = before == after
    home = changed if same else new_tree(before, "human", extra=extra)
    chain(home, original, [1.0] * len(original), details={"process": "original"})
    return [changed] if same else [changed, home]
