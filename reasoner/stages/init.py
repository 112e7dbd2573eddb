"""Make a model from nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.policy.models import TinyModel, make_tiny
from reasoner.stages.context import Context
from reasoner.stages.references import ReadSet


class InitStage(TinyModel):
    """Make a small random model and a tokenizer from the demonstrations."""

    kind: Literal["init"]
    name: StageName = "base"
    problems: list[ReadSet] = Field(
        ["demonstrations"], description="problem sets whose text the tokenizer learns"
    )


def run_init(config: InitStage, context: Context) -> None:
    prompt = context.prompt.template
    items = context.items(config.problems, to_judge=False)
    texts = [prompt.replace("{prompt}", i.problem.prompt) + (i.solution or "") for i in items]
    make_tiny(config, texts, context.session.out / "model")
