"""The networks of on-policy training: copies of the model, or adapters and heads on one frozen base."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from reasoner.policy.adapters import (
    Adapter,
    LoRA,
    SharedBase,
    as_it_starts,
    is_adapter,
    load_merged,
    load_trainable,
)
from reasoner.policy.heads import Implicit, PolicyNet, ScoreNet, train_what_is_read
from reasoner.policy.models import load_tokenizer
from reasoner.policy.recompute import recompute_layers
from reasoner.policy.shard import copy_to_sample_from, is_sharded, shard, shard_base
from reasoner.policy.snapshot import Snapshot
from reasoner.registry import UserError
from reasoner.scoring.published import PublishedPRM
from reasoner.scoring.reward_models import is_ours, load_reward_model
from reasoner.signals.advantages import CRITIC
from reasoner.store import read_json
from reasoner.trainers.checkpoint import Trained
from reasoner.trainers.loop import OptimizerConfig, by_share, by_steps, check_cut, make_optimizer
from reasoner.trainers.policy_batch import Models
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.pruning import check_scorers, reads

logger = logging.getLogger(__name__)


def load_models(
    model_path: str, critic_path: str | None, prm_path: str | None, config: PolicyGradientStage,
    orm_path: str | None = None,
) -> tuple[Models, Any]:  # fmt: skip
    """The networks, and the causal LM that samples: the trained one itself, so that no weights are copied.

    The critic starts from `critic_path`, else from the policy with a head that says nothing yet. The
    reference is the policy as it starts.
    """
    has_critic = config.advantage.method in CRITIC
    reward = config.advantage.reward
    check_scorers(config.prune, {"prm": prm_path, "orm": orm_path})
    prm_path = _wanted(prm_path, reward.prm_weight, "prm", reads(config.prune, "prm"))
    orm_path = _wanted(orm_path, reward.orm_weight, "orm", reads(config.prune, "orm"))
    if config.lora is not None or is_adapter(model_path):
        lora = config.lora or _own(model_path)
        return _on_one_base(model_path, critic_path, prm_path, orm_path, config, lora, has_critic)
    lm = load_trainable(model_path, None)
    critic = None
    if has_critic:
        whole = torch.float32
        critic = (
            ScoreNet.load(Path(critic_path), dtype=whole)
            if critic_path
            else ScoreNet(load_merged(model_path, whole))
        )
        train_what_is_read(critic)
    ref = PolicyNet(as_it_starts(lm)) if config.kl_weight or config.implicit_prm else None
    refreshed = config.prm_refresh is not None
    prm = _published(prm_path, model_path, refreshed) or _whole(prm_path, refreshed)
    orm = _whole(orm_path, False)
    implicit = None
    if config.implicit_prm is not None and ref is not None:
        implicit = ScoreNet(copy.deepcopy(lm), Implicit(ref.lm, config.implicit_prm.beta)).eval()
    if config.gradient_checkpointing and config.shard is None:
        for net in (critic, implicit):
            if net is not None:
                recompute_layers(net.lm)
        recompute_layers(lm)
    return Models(lm, PolicyNet(lm), critic, ref if config.kl_weight else None, prm, orm, implicit), lm


def cut(models: Models, config: PolicyGradientStage) -> Snapshot:
    """Cut the networks over the processes in place, as config.shard says; a whole copy of the policy to sample from."""
    assert config.shard is not None
    for options in (config.optimizer, config.critic_optimizer):
        check_cut(config.shard, options, config.lora is not None)
    trained, draws = models.whole, config.engine.kind == "local"
    plain = copy_to_sample_from(trained, draws)
    if isinstance(trained, Adapter):
        shared = trained.shared
        adapters = {w for name in shared.peft.peft_config for w in shared.weights(name).values()}
        shard_base(
            shared.lm, adapters, config.shard, shared.around if config.gradient_checkpointing else None
        )
        return Snapshot(plain, trained)
    for net in (models.policy, models.critic, models.ref, models.prm, models.orm):
        if isinstance(net, torch.nn.Module):
            shard(net, config.shard, config.gradient_checkpointing)
    return Snapshot(plain, trained)


def _on_one_base(
    model_path: str, critic_path: str | None, prm_path: str | None, orm_path: str | None,
    config: PolicyGradientStage, lora: LoRA, has_critic: bool,
) -> tuple[Models, Any]:  # fmt: skip
    """As adapters on the policy's base; a critic or PRM of another base is loaded whole."""
    shared = SharedBase(model_path, lora, "policy", config.gradient_checkpointing and config.shard is None)
    policy = shared.view("policy")
    critic = prm = orm = ref = None
    if has_critic and critic_path is None:
        critic = ScoreNet(shared.new("critic", like="policy"))
    elif critic_path is not None and has_critic:
        critic = _score_net(shared, "critic", critic_path, trained=True)
    if config.kl_weight:
        # a new adapter changes nothing yet, so the base alone is the policy at the start
        starts_new = not is_adapter(model_path)
        ref = PolicyNet(shared.view(None) if starts_new else shared.new("ref", "policy", trained=False))
    if prm_path is not None:
        refreshed = config.prm_refresh is not None
        prm = (
            _published(prm_path, model_path, refreshed)
            or _score_net(shared, "prm", prm_path, refreshed).eval()
        )
    if orm_path is not None:
        orm = _score_net(shared, "orm", orm_path, trained=False).eval()
    implicit = None
    if config.implicit_prm is not None:
        head = Implicit(as_it_starts(policy), config.implicit_prm.beta)
        implicit = ScoreNet(shared.new("implicit", like="policy"), head).eval()
    return Models(policy, PolicyNet(policy), critic, ref, prm, orm, implicit), policy


def prepare_training(
    models: Models, config: PolicyGradientStage, accelerator: Accelerator, share: Callable[[], float]
) -> Trained:
    """Optimizers of all that is trained, in the order of `learners`, and schedules of policy and critic.

    The schedules follow the rounds, or `share` where the run is given tokens instead.
    """

    def schedule(optimizer, options: OptimizerConfig) -> torch.optim.lr_scheduler.LambdaLR:
        if config.generated_tokens is not None:
            return by_share(optimizer, options, share)
        return by_steps(optimizer, options, config.rounds * config.epochs * config.minibatches)

    trained = learners(models, config)
    optimizers = {name: make_optimizer(getattr(models, name), options) for name, options in trained.items()}
    schedules = [schedule(optimizers[n], trained[n]) for n in ("policy", "critic") if n in trained]
    if is_sharded(models.policy):
        return Trained([*optimizers.values()], schedules, [getattr(models, name) for name in trained])
    for name in trained:
        net, optimizers[name] = accelerator.prepare(getattr(models, name), optimizers[name])
        setattr(models, name, net)
    return Trained([*optimizers.values()], schedules)


def learners(models: Models, config: PolicyGradientStage) -> dict[str, OptimizerConfig]:
    """The networks that are trained, by their names in Models, in the order of their optimizers."""
    refreshed, implicit = config.prm_refresh, config.implicit_prm
    options = {
        "policy": config.optimizer,
        "critic": config.critic_optimizer,
        "prm": refreshed.optimizer if refreshed is not None else None,
        "implicit": implicit.optimizer if implicit is not None else None,
    }
    return {n: o for n, o in options.items() if o is not None and getattr(models, n) is not None}


def _wanted(path: str | None, weight: float, name: str, is_read: bool) -> str | None:
    """The path, if the reward weighs that model or pruning reads it; a weight without a model is a UserError."""
    if weight and not path:
        raise UserError(
            f"advantage.reward.{name}_weight is {weight} but there is no {name}; expected {name}: a stage's name"
        )
    return path if weight or is_read else None


def _score_net(shared: SharedBase, name: str, path: str, trained: bool) -> ScoreNet:
    lm = shared.load(name, path, trained) if shared.fits(path) else None
    net = train_what_is_read(ScoreNet.load(Path(path), lm, torch.float32 if trained else None), trained)
    if trained and lm is None:
        logger.warning(
            "the %s %s is no adapter of %s: it is loaded whole, and all its %s weights are trained", name, path, shared.path,
            f"{sum(p.numel() for p in net.lm.parameters()):,}",
        )  # fmt: skip
    return net


def _published(path: str | None, model_path: str, trained: bool) -> PublishedPRM | None:
    """A PRM that was not trained here, which reads the text of the policy's tokens; None for one of ours."""
    if path is None or is_ours(path):
        return None
    if trained:
        raise UserError(
            f"prm_refresh trains the PRM, and {path} was not trained here; expected a prm stage, or no prm_refresh"
        )
    tokenizer = load_tokenizer(model_path)
    found = load_reward_model(path, lambda ids: str(tokenizer.decode(list(ids))))
    assert isinstance(found, PublishedPRM)
    return found


def _whole(path: str | None, trained: bool) -> ScoreNet | None:
    """A reward model on weights of its own."""
    if path is None:
        return None
    return train_what_is_read(
        ScoreNet.load(Path(path), dtype=torch.float32 if trained else None), trained
    ).eval()


def _own(path: str) -> LoRA:
    """The rank and scale of an adapter folder."""
    saved = read_json(Path(path) / "adapter_config.json")
    return LoRA(r=saved["r"], alpha=saved["lora_alpha"])
