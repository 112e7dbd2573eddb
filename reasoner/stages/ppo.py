"""On-policy training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.registry import UserError
from reasoner.stages.context import Context, examples, shuffled, turned
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
    of_round: int = Field(
        0, ge=0, description="number of the round of a `repeat`: each begins with the problems behind the last one's"
    )  # fmt: skip
    demonstrations: list[ShownSet] = Field([], description="problem sets imitated beside, with ptx_weight")


def run_ppo(config: PPO, context: Context) -> None:
    prompting = context.prompting(config.model)
    begins_inside = config.starts is not None and config.starts.demonstrations
    reader = "ptx_weight" if config.ptx_weight else "starts.demonstrations" if begins_inside else ""
    shown = examples(config.demonstrations, context, prompting) if reader and config.demonstrations else []
    if reader and not shown:
        raise UserError(
            f"{reader} is set but demonstrations names no problem set with solutions; expected one, or {reader} left out"
        )
    problems = shuffled(context.items(config.problems), context.session.seed)
    begun = config.of_round * config.rounds * config.problems_per_round
    train_policy(
        context.model(config.model), prompting, turned(problems, begun), config,
        context.session, config.critic and context.model(config.critic), config.prm and context.model(config.prm), shown,
        config.orm and context.model(config.orm),
    )  # fmt: skip
