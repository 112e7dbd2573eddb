"""What trainers read: one small record per example, with TRL's column names and the sampled token ids beside the text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from reasoner.tree import Tree


@dataclass(frozen=True)
class SFTExample:
    """A prompt and the completion to imitate; `mask` is 0 at completion tokens that are not learned, empty for none such."""

    problem_id: str
    prompt: str
    completion: str
    prompt_ids: list[int]
    completion_ids: list[int]
    source: str = ""
    licence: str = ""
    mask: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class PreferencePair:
    """Two continuations of the same prefix, the better one first. `is_whole` is False where they are single steps."""

    problem_id: str
    prompt: str
    chosen: str
    rejected: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float = 1.0
    is_whole: bool = True
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class StepLabels:
    """A solution in steps with one label per step; `prompt` is the problem's text, without template.

    `labels` are in [0, 1]; NaN marks a step without a label. `step_ends` are positions in `completion_ids`
    of each step's last token. `n` and `c` are the counts behind Monte-Carlo labels (0 for other kinds).
    `first_errors` holds where each labeller asked puts the first wrong step: an index, -1 for nowhere, -2 where it
    cannot tell. `is_whole` is False where the last step ends no solution, as of a prefix with a rated next step.
    """

    problem_id: str
    prompt: str
    completions: list[str]
    labels: list[float]
    prompt_ids: list[int]
    completion_ids: list[int]
    step_ends: list[int]
    n: list[int] = field(default_factory=list)
    c: list[int] = field(default_factory=list)
    kind: str = "soft"
    weights_version: int = 0
    first_errors: list[int] = field(default_factory=list)
    is_whole: bool = True
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class CritiqueTask:
    """A solution in numbered steps whose critique is to be written; `prompt` is whole, `first_error` as in StepLabels."""

    problem_id: str
    prompt: str
    first_error: int
    num_steps: int
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class OutcomeLabel:
    """A whole completion and whether its final answer is correct."""

    problem_id: str
    prompt: str
    completion: str
    label: bool
    prompt_ids: list[int]
    completion_ids: list[int]
    source: str = ""
    licence: str = ""


class StateTarget(NamedTuple):
    """A state (node, offset) with the return that the critic should predict there, and its weight."""

    node: int
    offset: int
    value: float
    weight: float


@dataclass(frozen=True)
class PolicySample:
    """A tree with what a policy update needs: per sampled token an advantage and a weight, and critic targets.

    `advantages[node]` and `weights[node]` hold one number per token of the node; a weight of 0 masks it. `count` is 0 for a
    part of a tree that another part stands for where trees are counted (policy/split).
    """

    tree: Tree
    advantages: dict[int, np.ndarray]
    weights: dict[int, np.ndarray]
    targets: list[StateTarget]
    count: float = 1.0
