"""The options of on-policy training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from reasoner.config import Config, Entry, MayChange
from reasoner.data.mixing import Mixture
from reasoner.data.steps import LOOK_AHEAD, WHILE_SAMPLING
from reasoner.engine.connect import EngineConfig
from reasoner.policy.adapters import LoRA
from reasoner.policy.shard import Sharding
from reasoner.registry import UserError
from reasoner.search.branch import BranchConfig, check_by_prefix
from reasoner.search.prune import PruneConfig
from reasoner.signals.credit import AdvantageConfig
from reasoner.trainers.alarms import AlarmConfig
from reasoner.trainers.curriculum import Curriculum
from reasoner.trainers.loop import OptimizerConfig
from reasoner.trainers.pruning import check_prune, reads
from reasoner.trainers.replay import Replay
from reasoner.trainers.spikes import SpikeConfig
from reasoner.trainers.starts import Starts

# methods whose advantages are differences between the chains of a problem
ALONE_IN_VAIN = ("rloo", "grpo", "dr_grpo", "maxrl", "sibling_loo", "spo_tree", "tree_rl", "vineppo")


# methods whose baselines or rewards-to-go begin anew at each step's end
BY_STEP = ("step_ppo", "grpo_process", "vineppo")
# methods that give every token what its whole trajectory earns, whichever step earned it
OF_THE_WHOLE = ("rloo", "grpo", "dr_grpo", "maxrl", "shrunk")


class PRMRefresh(Config):
    """Train the PRM on the policy's own trees while these change."""

    every: int = Field(1, ge=1, description="rounds between two refreshes")
    updates: int = Field(1, ge=1, description="updates of a refresh, each on a part of the round's trees")
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5, schedule="constant", warmup=0.0)


class ImplicitPRM(Config):
    """Process rewards without process labels (PRIME, Cui et al. 2025): a copy of the policy learns the verdicts."""

    beta: float = Field(0.05, gt=0, description="reward of a token: beta · (log π_φ − log π_ref)")
    weight: float = Field(1.0, gt=0, description="what their advantages weigh beside those of `advantage`")
    updates: int = Field(1, ge=1, description="updates in a round, each on a part of its trees")
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-6, schedule="constant", warmup=0.0)


class PolicyGradientStage(Config):
    """PPO on trees of rollouts; the defaults are step-level PPO with a critic."""

    rounds: Annotated[int, MayChange()] = Field(20, ge=1, description="rollouts followed by updates, at most")
    generated_tokens: Annotated[int | None, MayChange()] = Field(
        None,
        ge=1,
        description="stop after the round in which so many tokens are generated; the schedule follows them",
    )
    problems_per_round: int = Field(
        64, ge=1, description="problems rolled out in a round, over all processes"
    )
    tree: Annotated[BranchConfig, AfterValidator(check_by_prefix)] = BranchConfig()
    prune: PruneConfig = PruneConfig()
    dead_end: Annotated[str, Entry("verifier of unfinished chains", "reasoner.search.dead_ends:DEAD_ENDS")] = Field(
        "steps", description="what the rule dead_end asks: steps (a wrong calculation), proof (a step fails), or module:function"
    )  # fmt: skip
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature; what is trained is the policy at this temperature"
    )
    advantage: AdvantageConfig = AdvantageConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-6)
    critic_optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    minibatches: int = Field(2, ge=1, description="updates per pass over a round's problems")
    epochs: int = Field(1, ge=1, description="passes over a round's problems, at most")
    min_effective: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="before each further pass: the least effective sample size of the round's tokens "
        "under the policy as it is by then, as a share of them; 0: any",
    )
    loss: Annotated[str, Entry("loss", "reasoner.trainers.policy_update:LOSSES")] = Field(
        "ppo_clip",
        description="ppo_clip | gspo (one ratio a trajectory) | cispo (clipped weights), or module:function",
    )
    clip_low: float = Field(0.2, gt=0, description="the ratio's clip below 1")
    clip_high: float = Field(
        0.2, gt=0, description="the ratio's clip above 1; larger than clip_low is DAPO's clip-higher"
    )
    kl_weight: float = Field(0.0, ge=0, description="weight of KL(policy ‖ the policy at the start)")
    kl_estimator: Annotated[str, Entry("KL estimator", "reasoner.losses:KL")] = Field(
        "k3",
        description="of that KL: k2 (its gradient is the KL's) | k3 | k1 (its gradient is 0: to compare)",
    )
    entropy_weight: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    ptx_weight: float = Field(
        0.0, ge=0, description="weight of imitating demonstrations beside (InstructGPT's PPO-ptx)"
    )
    ptx_batch: int = Field(32, ge=1, description="demonstrations per update and process")
    imitate_self: bool = Field(
        False, description="imitate the policy's own verified chains as well (self-imitation)"
    )
    importance_limit: float = Field(2.0, gt=0, description="bound of the weight between trainer and sampler")
    drop_uniform: bool = Field(
        True, description="leave out trees whose judged answers are all right or all wrong"
    )
    keep_between: tuple[float, float] = Field(
        (0.0, 1.0), description="leave out trees whose share of right answers is outside, e.g. [0.2, 0.8]"
    )
    max_resamples: int = Field(
        0, ge=0, description="times more problems are drawn in a round to replace those left out (DAPO)"
    )
    screen: int = Field(
        0,
        ge=0,
        description="chains of a problem that are drawn first; the rest of its tree only where they disagree; 0: no such stage",
    )
    mixture: Mixture | None = Field(
        None,
        description="draw from the problem sets in other shares than by their sizes, e.g. {weights: {a: 3, b: 1}}",
    )
    curriculum: Curriculum | None = Field(
        None,
        description="choose problems by their predicted pass rate, near one half, e.g. {} or {uniform: 0.5}",
    )
    replay: Replay | None = Field(
        None, description="learn again from trees of the last rounds in place of those left out, e.g. {}"
    )
    starts: Starts | None = Field(
        None, description="begin some of the rollouts inside right solutions, e.g. {} or {share: 0.5}"
    )
    whiten: bool | None = Field(
        None,
        description="scale advantages to mean 0 and deviation 1 over the round; by default where the method is defined "
        "with it: ppo and step_ppo",
    )
    tokens_per_batch: Annotated[int, MayChange()] = Field(
        4096, ge=1, description="packed positions in one forward pass"
    )
    num_slots: Annotated[int, MayChange()] = Field(
        128, ge=1, description="sequences that the engine decodes at once"
    )
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()
    overlap: Literal[0, 1, 2] = Field(
        0,
        description="rounds that servers draw ahead while one is learned from, by weights that are as many rounds older; needs "
        "engine.kind vllm or sglang",
    )
    lora: LoRA | None = Field(
        None,
        description="train a LoRA adapter instead of all weights; reference, critic and PRM share its base",
    )
    prm_refresh: PRMRefresh | None = Field(
        None, description="train the PRM on the policy's trees as they come"
    )
    implicit_prm: ImplicitPRM | None = Field(
        None,
        description="reward tokens by a model that learns from verdicts alone, e.g. {} with advantage.method rloo (PRIME)",
    )
    alarms: Annotated[AlarmConfig, MayChange()] = AlarmConfig()
    spikes: Annotated[SpikeConfig, MayChange()] = SpikeConfig()
    audit: Annotated[Literal["off", "light", "full"], MayChange()] = Field(
        "light",
        description="checks for turned bits in each round. light: sums of the weights, a text scored twice; full: also the "
        "sampler's weights, a drawn chain, and the first micro-batch of an update computed twice",
    )
    sampler_limit: Annotated[float, MayChange()] = Field(
        0.05, gt=0, description="mean k3 between sampler and trainer beyond which the run stops"
    )
    patience: Annotated[int, MayChange()] = Field(
        10, ge=1, description="rounds in a row without a usable update after which the run stops"
    )
    save_every: Annotated[int, MayChange()] = Field(
        5, ge=1, description="rounds between two checkpoints; a killed run goes on from there"
    )
    shard: Sharding | None = Field(
        default=None,
        description="cut weights, gradients and optimizer states over all processes (FSDP), e.g. {} or {offload: true}",
    )
    gradient_checkpointing: Annotated[bool, MayChange()] = Field(
        False,
        description="compute each layer again in the backward pass: less memory, about a third more time",
    )

    @model_validator(mode="after")
    def _has_a_plan(self) -> Self:
        """What hangs on the number of draws does not go with what changes it."""
        mixture = self.mixture
        options = [n for n in ("at_end", "max_repeats") if mixture is not None and getattr(mixture, n)]
        others = {
            "generated_tokens": self.generated_tokens is not None,
            "curriculum": self.curriculum is not None,
            "max_resamples": self.max_resamples > 0,
        }
        for option in options:
            for other in (n for n, is_set in others.items() if is_set):
                raise ValueError(
                    f"got mixture.{option} with {other}, by which more or fewer problems are drawn than rounds · "
                    f"problems_per_round; expected one of the two: leave {other} out, or mixture.{option}"
                )
        return self

    @model_validator(mode="after")
    def _prunes_without_bias(self) -> Self:
        """Pruning takes tokens away, and nothing from the gradient's mean."""
        scored = reads(self.prune, "prm") or reads(self.prune, "orm")
        options = {
            "screen": self.screen > 0,
            "overlap": self.overlap > 0,
            "implicit_prm": self.implicit_prm is not None,
            "shard": scored and self.shard is not None,
        }
        check_prune(self.prune, self.advantage.method, self.tree.where, options)
        return self

    @model_validator(mode="after")
    def _has_a_group(self) -> Self:
        """One chain a problem cannot be compared with others: nothing would be learned, and nothing said."""
        tree, method = self.tree, self.advantage.method
        is_alone = tree.num_roots == 1 and not (tree.num_points and tree.num_rounds)
        if method in ALONE_IN_VAIN and (is_alone or (tree.num_roots == 1 and method == "rloo")):
            raise ValueError(
                f"advantage.method {method} compares the chains of a problem, and tree.num_roots=1 draws one; expected "
                "several: raise tree.num_roots, or take ppo or step_ppo, which have a critic"
            )
        if method == "shrunk" and self.curriculum is None:
            raise ValueError(
                "advantage.method shrunk reads the pass rate that a curriculum predicts, and there is none; expected curriculum: "
                "{} (with uniform: 1 it chooses nothing and predicts)"
            )
        if self.overlap and self.engine.kind == "local":
            raise ValueError(
                f"got overlap={self.overlap} with engine.kind local, whose draws would take the trainer's own cores; expected "
                "servers, which draw beside it: engine={kind: vllm, spawn: 1}, or overlap=0"
            )
        if self.screen and not 1 < self.screen < tree.num_roots:
            raise ValueError(
                f"got screen={self.screen} and tree.num_roots={tree.num_roots}; expected 2 or more first chains, and fewer "
                "than there are in all: lower screen, or raise tree.num_roots"
            )
        if self.implicit_prm is not None and (self.shard is not None or is_alone):
            got = "shard" if self.shard is not None else "tree.num_roots=1"
            raise ValueError(
                f"got implicit_prm with {got}; expected several chains a problem, whose rewards are held against each other, and "
                "whole weights: raise tree.num_roots, and leave shard out"
            )
        if is_alone and self.drop_uniform:
            raise ValueError(
                "tree draws one chain a problem, which drop_uniform leaves out, being all right or all wrong; expected "
                "several: raise tree.num_roots, or set drop_uniform=false"
            )
        return self


def uses(stage: PolicyGradientStage, name: str) -> bool:
    """Whether the reward or pruning reads a stage's `prm` or `orm`; else it is not loaded."""
    return getattr(stage.advantage.reward, f"{name}_weight") > 0 or reads(stage.prune, name)


def check_step_rule(stage: PolicyGradientStage, rule: str, where: str) -> None:
    """A UserError where the stage's gradient hangs on where steps end, and the rule tells that by what came after.

    What is subtracted from a token's return may depend on the tokens before it only: else the gradient is biased.
    """
    if rule not in LOOK_AHEAD:
        return
    method, reward = stage.advantage.method, stage.advantage.reward
    if method in BY_STEP:
        reader = f"advantage.method {method} begins anew"
    elif reward.prm_weight and method not in OF_THE_WHOLE:
        reader = "advantage.reward.prm_weight pays the PRM's scores"
    else:
        return
    raise UserError(
        f"{where}: prompt.steps.rule is {rule}, which tells where a step ends by the tokens behind it, and {reader} at each "
        f"step's end, which biases the policy gradient; expected {' or '.join(WHILE_SAMPLING)}, or advantage.method rloo"
    )
