"""Demonstrations as two tasks: give the answer at once, and give the chain that leads to it (Hsieh et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from reasoner.config import Config
from reasoner.records import SFTExample


class TwoTasks(Config):
    """The two tasks of "Distilling step-by-step"; a model is asked for one of them by what stands before the problem."""

    label_prefix: str = Field("predict: ", description="before the problem whose answer alone is learned")
    rationale_prefix: str = Field("explain: ", description="before the problem whose chain is learned")
    rationale_weight: float = Field(
        1.0, ge=0, description="λ in loss = label loss + λ · rationale loss, each a mean over its tokens"
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.label_prefix == self.rationale_prefix:
            raise ValueError(
                f"label_prefix and rationale_prefix are both {self.label_prefix!r}; expected two that tell the tasks apart"
            )
        return self


def two_tasks(
    examples: Sequence[SFTExample], config: TwoTasks, prompt: Callable[[str], list[int]],
    complete: Callable[[str], list[int]],
) -> list[SFTExample]:  # fmt: skip
    """The label task of each example in order, then the rationale task of each.

    A label is the last line of a completion that says anything. A rationale is the whole completion, the answer too (that of
    Hsieh et al. ends before it), so that answers of both tasks can be checked.
    """

    def asked(example: SFTExample, prefix: str) -> SFTExample:
        text = prefix + example.prompt
        return replace(example, prompt=text, prompt_ids=prompt(text))

    labels = []
    for example in examples:
        lines = [line for line in example.completion.splitlines() if line.strip()]
        answer = lines[-1].strip() if lines else example.completion
        labels.append(
            replace(
                asked(example, config.label_prefix),
                completion=answer,
                completion_ids=complete(answer),
                mask=[],
            )
        )
    return [*labels, *(asked(example, config.rationale_prefix) for example in examples)]
