"""Benchmarks that say which steps are wrong: ProcessBench, BIG-Bench Mistake, PRMBench, Mr-Ben, ReasonEval's."""

from __future__ import annotations

import re
from typing import Any

from reasoner.data.importers.prm800k import rating
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


HEADING = re.compile(r"\s*step\s+(\d+)\b", re.IGNORECASE)


def mr_ben(row: dict[str, Any]) -> list[StepTree]:
    """Mr-Ben (Zeng et al. 2024): lines of a solution, of which "Step 3: …" begins the third step; the first wrong step
    is told by that number, "N/A" for none. Options belong to the question."""
    numbers, steps = _headed(row["Model_Solution_Steps"])
    question = row["Question"]
    if isinstance(row.get("Options"), str) and row["Options"].strip():
        question = f"{question}\n{row['Options'].strip()}"
    wrong = _number_of(row["Model_Solution_First_Error_Step"], row.get("Model_Solution_Correctness"))
    if wrong is not None and wrong not in numbers:
        raise Unusable(f"the first wrong step is {wrong}, but the steps are numbered {numbers}")
    labels = until_first_error(-1 if wrong is None else numbers.index(wrong), steps)
    answer = row.get("Ground_Truth_Answer_Modified") or row.get("Ground_Truth_Answer")
    tree = new_tree(
        question, "human", answer=answer, extra=rest(row, "Question", "Options", "Model_Solution_Steps")
    )
    return [chain(tree, steps, labels, author=str(row.get("Sampled_Model", "")))]


def _headed(lines: Any) -> tuple[list[int], list[str]]:
    """The numbers of the steps and their texts; a line without a number belongs to the step before it."""
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Unusable("the steps are no list of texts")
    numbers: list[int] = []
    steps: list[str] = []
    for line in filter(str.strip, lines):
        found = HEADING.match(line)
        if found or not steps:
            numbers.append(int(found.group(1)) if found else 0)
            steps.append(line.strip())
        else:
            steps[-1] += "\n" + line.strip()
    if len(set(numbers)) != len(numbers):
        raise Unusable(f"the steps are numbered {numbers}, expected each number once")
    return numbers, steps


def _number_of(first_error: Any, correctness: Any) -> int | None:
    """The number of the first wrong step, None for a right solution; Unusable where the two fields disagree."""
    is_none = is_empty(first_error) or (isinstance(first_error, str) and first_error.strip().upper() == "N/A")
    if correctness is not None and (truth(correctness, "the solution's correctness") == 1.0) != is_none:
        raise Unusable(f"the solution is {correctness!r} with a first wrong step of {first_error!r}")
    return None if is_none else whole(first_error, "the first wrong step")


def reason_eval(row: dict[str, Any]) -> list[StepTree]:
    """The sets of ReasonEval (Xia et al. 2024) and MR-GSM8K (Zeng et al. 2023): steps, each a text or a list of lines,
    with the number of the first wrong one counted from 1 ("N/A": none)."""
    steps = _joined(row.get("model_output_step_format", row.get("model_output_steps")))
    wrong = _number_of(
        row["model_output_solution_first_error_step"], row.get("model_output_solution_correctness")
    )
    if wrong is not None and not 1 <= wrong <= len(steps):
        raise Unusable(f"the first wrong step is {wrong}, expected 1 to {len(steps)}")
    labels = until_first_error(-1 if wrong is None else wrong - 1, steps)
    outcome = truth(row.get("model_output_answer_correctness"), "answer_correctness")
    return [chain(_asked(row), steps, labels, outcome=outcome)]


def reason_eval_ratings(row: dict[str, Any]) -> list[StepTree]:
    """ReasonEval's set of redundant steps: PRM800K's ratings for each step, 0 for one that adds nothing."""
    ratings = row["rating"]
    if not isinstance(ratings, list):
        raise Unusable("rating is no list")
    steps = _joined(row.get("model_output_step_format", row.get("model_output_steps")))
    return [chain(_asked(row), steps, [rating(r) for r in ratings], is_end=False)]


def _joined(steps: Any) -> list[str]:
    if not isinstance(steps, list):
        raise Unusable("the steps are no list")
    lines = [step if isinstance(step, list) else [step] for step in steps]
    if not all(isinstance(line, str) for step in lines for line in step):
        raise Unusable("a step is no text")
    return ["\n".join(step) for step in lines]


def _asked(row: dict[str, Any]) -> StepTree:
    taken = (
        "question",
        "ground_truth_answer",
        "model_output",
        "model_output_step_format",
        "model_output_steps",
        "rating",
    )
    return new_tree(row["question"], "human", answer=row.get("ground_truth_answer"), extra=rest(row, *taken))
