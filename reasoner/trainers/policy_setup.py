"""What a run of on-policy training works with: networks on their devices, optimizers, and an engine with their weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.engine.protocol import Engine
from reasoner.policy.shard import is_sharded
from reasoner.policy.snapshot import snapshot_of
from reasoner.records import SFTExample
from reasoner.trainers.checkpoint import Trained, fingerprint_of
from reasoner.trainers.gates import check_liveness, check_packed, check_room
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_batch import Models
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Position, draw
from reasoner.trainers.policy_models import cut, prepare_training
from reasoner.trainers.pruning import scorer
from reasoner.trainers.round_audit import RoundAudit
from reasoner.trainers.rounds import Rounds
from reasoner.trainers.sampler import open_sampler
from reasoner.tree import Problem


@dataclass
class Loop:
    """What every round works with, and where the loop is."""

    models: Models
    trained: Trained
    engine: Engine
    prompting: Prompting
    demonstrations: Sequence[SFTExample]
    config: PolicyGradientStage
    session: Session
    accelerator: Accelerator
    fingerprint: str  # of what a checkpoint rests on
    at: Position
    audit: RoundAudit
    rounds: Rounds
    begun: float  # by the monotonic clock, seconds spent before a kill taken off


def set_up(
    models: Models, sampler: Any, model_path: str, prompting: Prompting, problems: Sequence[Problem],
    demonstrations: Sequence[SFTExample], config: PolicyGradientStage, session: Session, accelerator: Accelerator,
) -> Loop:  # fmt: skip
    """Networks on their devices, optimizers, and an engine that answers with the policy's weights: proven, not assumed."""
    at = Position()
    snapshot = cut(models, config) if config.shard is not None else None
    trained = prepare_training(models, config, accelerator, lambda: spent_share(at, config))
    for net in (models.ref, models.prm, models.orm):
        if isinstance(net, torch.nn.Module) and not (
            is_sharded(net) or any(p.requires_grad for p in net.parameters())
        ):
            net.to(accelerator.device)
    if config.overlap and snapshot is None:
        snapshot = snapshot_of(models.whole)
    if snapshot is not None:
        sampler = snapshot.copy
    longest = max(len(prompting.prompt_ids(prompt)) for prompt in {p.prompt for p in problems})
    check_room(sampler.config, longest + config.max_tokens)
    probe_ids = prompting.prompt_ids(problems[0].prompt)
    engine = open_sampler(
        config.engine, sampler, model_path, prompting, longest + config.max_tokens, config.num_slots, probe_ids,
        session, config.lora.r if config.lora is not None else 0, refresh=snapshot.put if snapshot is not None else None,
    )  # fmt: skip
    weights = [p for group in trained.optimizers[0].param_groups for p in group["params"]]
    check_packed(sampler)
    check_liveness(weights, engine, probe_ids)
    facts = ((p.id, p.prompt, p.verifier, p.reference) for p in problems)
    fingerprint = fingerprint_of(config, session.seed, facts)
    all_weights = [p for o in trained.optimizers for group in o.param_groups for p in group["params"]]
    audit = RoundAudit(
        config.audit, all_weights, models.policy, engine, probe_ids, is_sharded(models.policy), accelerator,
        session.seed,
    )  # fmt: skip
    score = scorer(config.prune, models, session.ledger)
    rounds = Rounds(
        lambda number: draw(problems, at, number, engine, prompting, config, session.seed, accelerator, score),
        engine.load_weights, at, config.rounds, config.overlap, snapshot, getattr(engine, "close", None),
    )  # fmt: skip
    session.ending.callback(rounds.close)
    return Loop(
        models, trained, engine, prompting, demonstrations, config, session, accelerator, fingerprint, at, audit, rounds,
        time.monotonic(),
    )  # fmt: skip


def spent_share(at: Position, config: PolicyGradientStage) -> float:
    """Which part of `generated_tokens` is generated; 0 where there is no such limit."""
    return at.generated / config.generated_tokens if config.generated_tokens else 0.0
