"""The config of a whole run: what its YAML holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reasoner.config import Config
from reasoner.data.prompting import PromptConfig
from reasoner.data.rows import SourceConfig
from reasoner.data.splits import ContaminationConfig
from reasoner.policy.machine import Precision
from reasoner.stages import StageConfig
from reasoner.stages.pools import Pool
from reasoner.stages.repeat import Repeat, expanded


class RunConfig(Config):
    """A whole experiment: problem sets and the stages that use them."""

    out: str = Field("", description="folder of the run; by default runs/<name of the config file>")
    seed: int = Field(0, description="seed of everything random")
    title: str = Field("", description="headline of the report")
    wandb: dict[str, Any] | None = Field(
        None,
        description="options of wandb.init, e.g. {project: mine, mode: offline}; the run is called as its folder",
    )
    dollars_per_hour: float = Field(
        0.0,
        ge=0,
        description="price of an hour of the machine, all its devices together; the ledger tells what stages cost",
    )
    min_isolation: Literal["A", "B", "B-landlock", "C"] = Field(
        "B",
        description="verifiers run programs behind at least this tier, or not at all; see python -m verifiers probe",
    )
    stalled_after: float | None = Field(
        7200.0,
        gt=0,
        description="seconds without any progress after which a stage writes all stacks into its folder and ends with "
        "exit code 76; null: never",
    )
    precision: Precision = Precision.model_validate({})
    ray: dict[str, Pool] = Field(
        {},
        description="with --ray: workers of rollout, verify, complete and label and ranks of trainers, by the stage's name or "
        "kind; under `servers` what each of engine.spawn takes",
    )
    prompt: PromptConfig = PromptConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    problems: dict[str, list[SourceConfig]] = Field(
        description="problem sets by name; problems of `test` are kept out of all training"
    )
    stages: Annotated[
        list[Annotated[StageConfig | Repeat, Field(discriminator="kind")]], AfterValidator(expanded)
    ] = Field(min_length=1, description="what to do, in order; of kind repeat: rounds of stages")
