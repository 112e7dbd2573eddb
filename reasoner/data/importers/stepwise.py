"""Lists of steps with a list of labels: TRL's stepwise rows, search-and-learn's scored completions, RLHFlow's chats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from reasoner.data.importers.step_tree import (
    PROMPT,
    StepTree,
    Unusable,
    chain,
    new_tree,
    probability,
    rest,
    sign,
    truth,
)
from reasoner.data.importers.tagged import FIRST_STEP

PARAGRAPH = "\n\n"


def trl(row: dict[str, Any]) -> list[StepTree]:
    """`completions` and `labels` (or `label`) of equal length; truth values are hard labels, other numbers soft ones."""
    labels = row.get("labels", row.get("label"))
    if not isinstance(labels, list):
        raise Unusable("labels is no list")
    values = [probability(label) for label in labels]
    # 1 and 0 are truth values, 1.0 and 0.0 are Monte-Carlo values that happen to be at an end
    is_hard = all(isinstance(label, int | str) and value in (0, 1) for label, value in zip(labels, values, strict=True)
                  if label is not None)  # fmt: skip
    extra = rest(row, "prompt", "completions", "labels", "label")
    tree = new_tree(row["prompt"], "hard" if is_hard else "soft", extra=extra)
    return [chain(tree, row["completions"], values)]


def search_and_learn(row: dict[str, Any]) -> list[StepTree]:
    """Several completions of one problem with a reward model's score for each of their paragraphs."""
    completions, scores = row["completions"], row["scores"]
    if not isinstance(completions, list) or not isinstance(scores, list) or len(completions) != len(scores):
        raise Unusable("completions and scores are no lists of one length")
    tree = new_tree(row["problem"], "soft", answer=row.get("answer"),
                    extra=rest(row, "problem", "answer", "completions", "scores"))  # fmt: skip
    for text, of_steps in zip(completions, scores, strict=True):
        labels = [probability(s, "score") for s in (of_steps if isinstance(of_steps, list) else [of_steps])]
        chain(tree, paragraphs(text) if len(labels) > 1 else [text], labels)
    return [tree]


def conversation(row: dict[str, Any], questions: Sequence[str] = ()) -> list[StepTree]:
    """A chat in which the user says a step and the assistant answers + or -; the first turn begins with the question.

    It ends before "Step 1:", or is the longest of the known `questions` with which the turn begins.
    """
    turns = row["conversations"]
    if not isinstance(turns, list) or len(turns) < 2 or len(turns) % 2:
        raise Unusable("conversations is no list of pairs of turns")
    roles = [t.get("role") if isinstance(t, dict) else None for t in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise Unusable("turns are not user and assistant by turns")
    said = [t.get("content") for t in turns]
    if not all(isinstance(s, str) for s in said):
        raise Unusable("a turn has no text")
    labels = [sign(s) for s in said[1::2]]
    prompt, first = _question(said[0], questions)
    tree = new_tree(prompt, "hard", extra=rest(row, "conversations"))
    return [chain(tree, [first, *(s.strip() for s in said[2::2])], labels, outcome=labels[-1])]


def _question(text: str, questions: Sequence[str]) -> tuple[str, str]:
    known = max((q for q in questions if text.startswith(q)), key=len, default=None)
    if known is not None:
        return known, text[len(known) :].strip()
    starts = [m.start() for m in FIRST_STEP.finditer(text)]
    if not starts:
        raise Unusable(
            "nothing tells where the question ends: no 'Step 1:', and it is none of the known questions"
        )
    return text[: starts[-1]].strip(), text[starts[-1] :].strip()


def judged_answers(row: dict[str, Any]) -> list[StepTree]:
    """RLHFlow's best-of-n test rows: answers of one prompt, each right or wrong; no labels of steps."""
    answers, labels = row["answers"], row.get("label", row.get("labels"))
    if not isinstance(answers, list) or not isinstance(labels, list) or len(answers) != len(labels):
        raise Unusable("answers and label are no lists of one length")
    tree = new_tree(row["prompt"], "hard", extra=rest(row, "prompt", "answers", "label", "labels"))
    for text, label in zip(answers, labels, strict=True):
        if not isinstance(text, str):
            raise Unusable("an answer is no text")
        steps = text.split("ки\n") if "ки" in text else paragraphs(text)
        steps = [s.replace("ки", "").strip() for s in steps]
        chain(tree, [s for s in steps if s] or [text], outcome=truth(label, "label"))
    return [tree]


def repeated_samples(row: dict[str, Any]) -> list[StepTree]:
    """Large Language Monkeys: many samples of one problem, each right or wrong as a whole."""
    samples, correct = row["samples"], row.get("is_corrects", row.get("is_correct"))
    if not isinstance(samples, list) or not isinstance(correct, list) or len(samples) != len(correct):
        raise Unusable("samples and is_corrects are no lists of one length")
    taken = ("question", "prompt", "samples", "is_corrects", "is_correct", "gt_answer")
    tree = new_tree(row.get("question") or row.get("prompt"), "hard", answer=row.get("gt_answer"),
                    extra={**rest(row, *taken), "prompt": row.get("prompt")})  # fmt: skip
    for text, is_right in zip(samples, correct, strict=True):
        chain(tree, [text], outcome=truth(is_right, "is_corrects"))
    return [tree]


def value_prefix(row: dict[str, Any]) -> list[StepTree]:
    """ReST-MCTS*: a problem with the beginning of a solution in one text, and the value of that state."""
    text, value = row["prompt_answer"], probability(row["label"])
    if math.isnan(value):
        raise Unusable("label is null")
    if not isinstance(text, str):
        raise Unusable("prompt_answer is no text")
    found = re.search(r"\n\s*(?:solution|existing steps|answer)\s*:\s*", text, re.IGNORECASE)
    prompt, solution = (text[: found.start()], text[found.end() :]) if found else _question(text, ())
    prompt = re.sub(r"^\s*(?:problem|question)\s*:\s*", "", prompt, flags=re.IGNORECASE)
    steps = [s.strip() for s in re.split(r"\n(?=\s*step \d+\s*:)", solution, flags=re.IGNORECASE)]
    steps = [s for s in steps if s]
    tree = new_tree(prompt.strip(), "soft", extra=rest(row, "prompt_answer", "label"))
    return [chain(tree, steps, [math.nan] * (len(steps) - 1) + [value], is_end=False)]


TURN_ENDS = re.compile(r"(?:<\|[\w ]+\|>\s*)+$")  # the model's own token for the end of its turn is no text


def tree_rl(row: dict[str, Any]) -> list[StepTree]:
    """TreeRL (Hou et al. 2025): paths of pieces, those of equal beginnings in one tree; `pass_ratio` is a state's value,
    and at a path's end its verdict."""
    tree = new_tree(row["problem"], "soft", answer=row.get("golden_answer"), is_pieces=True,
                    extra=rest(row, "problem", "golden_answer", "paths"))  # fmt: skip
    known: dict[tuple[int, str], int] = {}
    for path in row["paths"]:
        at = PROMPT
        for i, piece in enumerate(path):
            is_end = i + 1 == len(path)
            value = probability(piece["pass_ratio"], "pass_ratio")
            text = TURN_ENDS.sub("", piece["answer"]) if is_end else piece["answer"]
            found = None if is_end else known.get((at, text))
            if found is None:
                details = rest(piece, "answer", "token_answer", "pass_ratio")
                outcome = value if is_end and value in (0, 1) else math.nan
                found = known[at, text] = tree.add(
                    at, text, value, is_end=is_end, outcome=outcome, details=details
                )
            at = found
    if not tree.steps:
        raise Unusable("there are no steps")
    return [tree]


def paragraphs(text: Any) -> list[str]:
    """The parts of a text between blank lines."""
    if not isinstance(text, str):
        raise Unusable("a completion is no text")
    return [p for p in text.split(PARAGRAPH) if p.strip()]
