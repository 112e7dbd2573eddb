"""On-policy training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.registry import UserError
from reasoner.stages.context import Context, examples, shuffled
from reasoner.stages.references import ModelName, ProblemSet, RewardModelName, ShownSet
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy


class PPO(PolicyGradientStage):
    """Step-level PPO (or another on-policy method) on fresh trees."""

    kind: Literal["ppo"]
    name: StageName = "ppo"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    problems: list[ProblemSet] = Field(["train"], description="problem sets")
    critic: RewardModelName | None = Field(
        None, description="stage whose reward model the critic starts from"
    )
    prm: RewardModelName | None = Field(None, description="stage of the PRM that enters the reward")
    orm: RewardModelName | None = Field(None, description="stage of the ORM that enters the reward")
    demonstrations: list[ShownSet] = Field([], description="problem sets imitated beside, with ptx_weight")


def run_ppo(config: PPO, context: Context) -> None:
    prompting = context.prompting(config.model)
    shown = examples(config.demonstrations, context, prompting) if config.ptx_weight else []
    if config.ptx_weight and not shown:
        raise UserError(
            "ptx_weight is set but demonstrations names no problem set with solutions; expected one, or ptx_weight=0"
        )
    train_policy(
        context.model(config.model), prompting, shuffled(context.items(config.problems), context.session.seed), config,
        context.session, config.critic and context.model(config.critic), config.prm and context.model(config.prm), shown,
        config.orm and context.model(config.orm),
    )  # fmt: skip
