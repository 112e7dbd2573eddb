"""Solutions in one text with a tag after each step: Math-Shepherd (Wang et al. 2024) and OpenR's conversions."""

from __future__ import annotations

import re
from typing import Any

from reasoner.data.importers.step_tree import NONE, StepTree, Unusable, chain, new_tree, rest, sign

TAG = "ки"
TAGS = (TAG, "\n\n\n\n\n")  # the second is OpenR's, one token of Qwen2.5
FIRST_STEP = re.compile(r"\bstep 1\s*:", re.IGNORECASE)
LATER_STEP = re.compile(r"\n(?=\s*step \d+\s*:)", re.IGNORECASE)


def math_shepherd(row: dict[str, Any]) -> list[StepTree]:
    """`label` is `input` with + or - for each two-character tag, so texts are aligned by character.

    The solution begins at the last "Step 1:" before the first tag. A step whose tag is missing has no label;
    labels may go from - to +, as labels of Monte-Carlo continuations do.
    """
    text, labelled = row["input"], row["label"]
    if not isinstance(text, str) or not isinstance(labelled, str):
        raise Unusable("input or label is no text")
    pieces = text.split(TAG)
    if len(pieces) == 1:
        raise Unusable(f"there is no {TAG!r} tag")
    labels: list[float] = []
    at = 0
    for i, piece in enumerate(pieces):
        if labelled[at : at + len(piece)] != piece:
            raise Unusable(f"input and label differ before character {at + len(piece)}")
        at += len(piece)
        if i + 1 < len(pieces):
            labels.append(sign(labelled[at : at + 1]))
            at += 1
    if at != len(labelled):
        raise Unusable(f"label goes on for {len(labelled) - at} characters after input's end")
    starts = [m.start() for m in FIRST_STEP.finditer(pieces[0])]
    if not starts:
        inside = FIRST_STEP.search(text)
        raise Unusable("a tag stands inside the prompt" if inside else "no 'Step 1:' begins the solution")
    prompt, pieces[0] = pieces[0][: starts[-1]], pieces[0][starts[-1] :]
    steps, of_steps = _steps(pieces, labels)
    tree = new_tree(prompt.strip(), "hard", extra=rest(row, "input", "label"))
    return [chain(tree, steps, of_steps, outcome=labels[-1] if not pieces[-1].strip() else NONE)]


def _steps(pieces: list[str], labels: list[float]) -> tuple[list[str], list[float]]:
    """Steps with their labels; a piece that holds several steps has a label for the last of them only."""
    steps: list[str] = []
    of_steps: list[float] = []
    for piece, label in zip(pieces, [*labels, NONE], strict=True):
        parts = [p.strip() for p in LATER_STEP.split(piece) if p.strip()]
        if not parts and label == label:
            raise Unusable(f"step {len(steps) + 1} is empty")
        steps += parts
        of_steps += [NONE] * (len(parts) - 1) + [label] if parts else []
    return steps, of_steps


def openr(row: dict[str, Any]) -> list[StepTree]:
    """`process` has a tag after each step, `label` one entry per tag: + or -, 1 or 0, or a value."""
    process, labels = row["process"], row["label"]
    if not isinstance(process, str) or not isinstance(labels, list):
        raise Unusable("process is no text or label no list")
    tag = next((t for t in TAGS if t in process), None)
    if tag is None:
        raise Unusable("process has no step tag")
    pieces = process.split(tag)
    if not pieces[-1].strip():
        pieces = pieces[:-1]
    values = [sign(label) for label in labels]
    if len(values) != len(pieces):
        raise Unusable(f"{len(values)} labels for {len(pieces)} steps")
    kind = "hard" if all(isinstance(label, str | bool | int) for label in labels) else "soft"
    tree = new_tree(row["question"], kind, extra=rest(row, "question", "process", "label"))
    return [chain(tree, [p.strip() for p in pieces], values)]
