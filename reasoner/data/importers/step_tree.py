"""Labelled steps of one problem in text, as a tree: what an importer makes of a row, before any tokenizer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.data.truth import SPELLINGS, number, whole_number
from reasoner.data.truth import truth as read_truth

PROMPT = -1  # parent of a first step
NONE = math.nan  # no label, no known outcome
NEUTRAL = 0.5  # the label of a step that a person called neither right nor wrong


class Unusable(ValueError):
    """Why a row can't be taken; its text is the reason that the user reads."""


@dataclass(frozen=True)
class StepTree:
    """Steps of solutions of one problem; alternatives at the same prefix are siblings.

    Per step: `parents` (an earlier step, or -1 for the prompt), `labels` in [0, 1] (NaN: none; of kind `human` 0,
    0.5 and 1 are bad, neutral and good), `ends` (1 where a solution ends with it), `outcomes` (1 or 0: the final
    answer of the solution that ends there is right or wrong; NaN: not known), `authors`, `lines` (where it stands
    in the file) and `details`, a JSON object of what else the source says of the step; `extra` is the same for the
    row. `kind` is that of the labels (scoring/aggregate.py). `is_pieces` tells steps that are cuts of one text and
    join as they are from steps that stand apart and are joined by the prompt's delimiter.
    """

    problem_id: str
    prompt: str
    kind: str
    steps: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    outcomes: list[float] = field(default_factory=list)
    authors: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    answer: str = ""
    extra: str = "{}"
    is_pieces: bool = False
    source: str = ""
    licence: str = ""

    def add(
        self,
        parent: int,
        text: str,
        label: float = NONE,
        *,
        is_end: bool = False,
        outcome: float = NONE,
        author: str = "",
        details: dict[str, Any] | None = None,
    ) -> int:
        """Append a step after `parent` and return its number; Unusable for an empty one."""
        if not isinstance(text, str):
            raise Unusable(f"step {len(self.steps) + 1} is a {type(text).__name__}, expected text")
        if not text.strip():
            raise Unusable(f"step {len(self.steps) + 1} is empty")
        self.steps.append(text)
        self.parents.append(parent)
        self.labels.append(label)
        self.ends.append(int(is_end))
        self.outcomes.append(outcome)
        self.authors.append(author)
        self.details.append(json.dumps(details, ensure_ascii=False) if details else "")
        return len(self.steps) - 1

    def leaves(self) -> list[int]:
        """Steps that nothing continues."""
        continued = set(self.parents)
        return [i for i in range(len(self.steps)) if i not in continued]

    def path(self, step: int) -> list[int]:
        """The steps from the first to `step`."""
        found = []
        while step != PROMPT:
            found.append(step)
            step = self.parents[step]
        return found[::-1]

    def texts(self) -> list[str]:
        """The prompt and all steps: what a model that trains on the tree reads."""
        return [self.prompt, *self.steps]


def new_tree(
    prompt: Any, kind: str, *, answer: Any = "", extra: dict[str, Any] | None = None, is_pieces: bool = False
) -> StepTree:
    """A tree without steps; Unusable without a prompt."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise Unusable("the problem is empty")
    return StepTree(
        problem_id=problem_id(prompt), prompt=prompt, kind=kind, answer="" if answer is None else str(answer),
        extra=json.dumps(extra or {}, ensure_ascii=False), is_pieces=is_pieces,
    )  # fmt: skip


def chain(
    tree: StepTree,
    steps: Sequence[str],
    labels: Sequence[float] | None = None,
    *,
    is_end: bool = True,
    outcome: float = NONE,
    author: str = "",
    details: dict[str, Any] | None = None,
) -> StepTree:
    """Add a whole solution; Unusable without steps, or where labels and steps differ in number.

    `details` are those of its last step.
    """
    if not isinstance(steps, list | tuple) or not steps:
        raise Unusable("there are no steps")
    if labels is not None and len(labels) != len(steps):
        raise Unusable(f"{len(labels)} labels for {len(steps)} steps")
    at = PROMPT
    for i, text in enumerate(steps):
        is_last = i + 1 == len(steps)
        at = tree.add(
            at, text, labels[i] if labels is not None else NONE, is_end=is_end and is_last, author=author,
            outcome=outcome if is_last else NONE, details=details if is_last else None,
        )  # fmt: skip
    return tree


def problem_id(prompt: str) -> str:
    """The same for the same problem from whatever source, spacing and case aside."""
    return (
        "q-" + hashlib.sha256(" ".join(prompt.split()).casefold().encode("utf-8", "replace")).hexdigest()[:16]
    )


def probability(value: Any, what: str = "label") -> float:
    """A label in [0, 1]: a number or a truth value, also as text, NaN for null; else Unusable."""
    if value is None:
        return NONE
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in SPELLINGS):
        return truth(value, what)
    if value != value:
        raise Unusable(f"{what} is NaN, expected 0 to 1")
    found = finite(value, what)
    if not 0 <= found <= 1:
        raise Unusable(f"{what} {value!r} is out of range, expected 0 to 1")
    return found


def sign(value: Any) -> float:
    """1 for + and 0 for -, else as `probability` reads it; Unusable for other text."""
    known = {"+": 1.0, "-": 0.0}
    text = value.strip() if isinstance(value, str) else None
    if text in known:
        return known[text]
    try:
        return probability(value)
    except Unusable as problem:
        if text is None:
            raise
        raise Unusable(f"label {text[:20]!r} is neither + nor -, nor a number") from problem


def truth(value: Any, what: str) -> float:
    """1, 0, or NaN for null; Unusable for anything but a truth value."""
    return NONE if value is None else float(_read(read_truth, value, what))


def finite(value: Any, what: str) -> float:
    """A finite number, also as text; else Unusable."""
    return _read(number, value, what)


def whole(value: Any, what: str) -> int:
    """A whole number, also as 3.0 or as text; else Unusable."""
    return _read(whole_number, value, what)


def _read(read: Callable[[Any], Any], value: Any, what: str) -> Any:
    try:
        return read(value)
    except ValueError as problem:
        raise Unusable(f"{what}: {problem}") from problem


def rest(row: dict[str, Any], *taken: str) -> dict[str, Any]:
    """What of a row is not taken elsewhere."""
    return {key: value for key, value in row.items() if key not in taken}


def again(row: dict[str, Any]) -> list[StepTree]:
    """A tree that was stored; Unusable where its columns don't fit each other."""
    tree = StepTree(**row)
    columns = (tree.parents, tree.labels, tree.ends, tree.outcomes, tree.authors, tree.details)
    if not tree.steps or any(len(column) != len(tree.steps) for column in columns):
        raise Unusable("its columns have different lengths")
    if any(not PROMPT <= parent < i for i, parent in enumerate(tree.parents)):
        raise Unusable("a step continues none before it")
    return [tree]
