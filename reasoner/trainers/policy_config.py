"""The options of on-policy training."""

from __future__ import annotations

from pydantic import Field

from reasoner.config import Config
from reasoner.policy.adapters import LoRA
from reasoner.search.branch import BranchConfig
from reasoner.signals.credit import AdvantageConfig
from reasoner.trainers.loop import OptimizerConfig


class PolicyGradientStage(Config):
    """PPO on trees of rollouts; the defaults are step-level PPO with a critic."""

    rounds: int = Field(20, ge=1, description="rollouts followed by updates")
    problems_per_round: int = Field(
        64, ge=1, description="problems rolled out in a round, over all processes"
    )
    tree: BranchConfig = BranchConfig()
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    advantage: AdvantageConfig = AdvantageConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-6)
    critic_optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    minibatches: int = Field(2, ge=1, description="updates per pass over a round's problems")
    epochs: int = Field(1, ge=1, description="passes over a round's problems")
    clip_low: float = Field(0.2, gt=0, description="PPO's clip below 1")
    clip_high: float = Field(
        0.2, gt=0, description="PPO's clip above 1; larger than clip_low is DAPO's clip-higher"
    )
    kl_weight: float = Field(
        0.0, ge=0, description="weight of KL(policy ‖ the policy at the start), estimator k3"
    )
    entropy_weight: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    ptx_weight: float = Field(
        0.0, ge=0, description="weight of imitating demonstrations (InstructGPT's PPO-ptx) and own chains beside"
    )
    ptx_batch: int = Field(32, ge=1, description="demonstrations per update and process")
    self_batch: int = Field(
        0, ge=0, description="of the policy's own verified chains, how many are imitated per update and process"
    )
    importance_limit: float = Field(2.0, gt=0, description="bound of the weight between trainer and sampler")
    drop_uniform: bool = Field(
        True, description="leave out trees whose judged answers are all right or all wrong"
    )
    whiten: bool = Field(True, description="scale advantages to mean 0 and deviation 1 over the round")
    tokens_per_batch: int = Field(4096, ge=1, description="packed positions in one forward pass")
    num_slots: int = Field(128, ge=1, description="sequences that the engine decodes at once")
    lora: LoRA | None = Field(
        None, description="train a LoRA adapter instead of all weights; reference, critic and PRM share its base"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute each layer again in the backward pass: less memory, about a third more time"
    )
