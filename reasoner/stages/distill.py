"""On-policy distillation from a bigger or better model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName, ReadSet
from reasoner.trainers.distill import DistillStage, Written, train_distill


class Distill(DistillStage):
    """A student learns, on its own samples, the token probabilities of a teacher with the same tokenizer."""

    kind: Literal["distill"]
    name: StageName = "distill"
    model: ModelName = Field(description="stage, folder or hub name of the student")
    teacher: ModelName = Field(description="stage, folder or hub name of the teacher")
    problems: list[ReadSet] = Field(
        ["train"], description="problem sets to write solutions to; no answer is read"
    )


def run_distill(config: Distill, context: Context) -> None:
    student, teacher = (
        Written(context.model(name), context.prompting(name)) for name in (config.model, config.teacher)
    )
    prompts = [item.problem.prompt for item in context.items(config.problems, to_judge=False)]
    train_distill(student, teacher, prompts, config, context.session)
