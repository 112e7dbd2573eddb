"""On-policy training: trees, rewards, advantages, clipped updates of policy and critic, in one loop.

What differs between methods is a function from a table (signals/advantages, losses). Each token of a tree is
computed once in every pass, and losses are normalised over the global batch, so one process and several
make the same updates. A killed run goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.interrupt import Stopped, deferring, stop_asked
from reasoner.policy.heads import gathered_net
from reasoner.policy.models import save
from reasoner.policy.shard import gathered, is_sharded
from reasoner.records import PolicySample, SFTExample
from reasoner.registry import UserError, lookup
from reasoner.scoring.reward_models import is_ours
from reasoner.signals.advantages import ADVANTAGES, CRITIC, WHITENED
from reasoner.signals.implicit import with_implicit_rewards
from reasoner.signals.reward import doubts, return_range
from reasoner.trainers.alarms import WATCHED, alarms
from reasoner.trainers.checkpoint import load_checkpoint, save_checkpoint
from reasoner.trainers.gates import check_same_tokens, sampler_gap
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_batch import Models, is_usable, score_states, verified_chains, whiten
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Round, plain_of, position_of
from reasoner.trainers.policy_models import learners, load_models
from reasoner.trainers.policy_report import ages, book, describe, pruning, reuse, why_barren
from reasoner.trainers.policy_reuse import is_used_up, keep, minibatches, trees_again
from reasoner.trainers.policy_setup import Loop, set_up, spent_share
from reasoner.trainers.policy_update import fitting, kl_moved, update_once
from reasoner.trainers.prm_refresh import by_verdict, refresh
from reasoner.trainers.ranks import check_supported, highest, make_accelerator, wait_for_everyone
from reasoner.trainers.seen import note_seen, table
from reasoner.trainers.spikes import ceiling, leave_out, lower_rates, note, sift
from reasoner.trainers.starts import shown_chains
from reasoner.tree import Problem, Tree

logger = logging.getLogger(__name__)


@deferring()
def train_policy(
    model_path: str,
    prompting: Prompting,
    problems: Sequence[Problem],
    config: PolicyGradientStage,
    session: Session,
    critic_path: str | None = None,
    prm_path: str | None = None,
    demonstrations: Sequence[SFTExample] = (),
    orm_path: str | None = None,
    sets: Mapping[str, str] | None = None,
) -> None:
    """Train the policy of `model_path` and save it to `session.out`/model, the critic to `session.out`/critic.

    `problems` are drawn in turn; `sets` tells of each by its id which set it is of, whose parts are counted then.
    """
    if not problems:
        raise UserError("no problems to train on; expected at least one, check the problem source")
    for doubt in doubts(config.advantage.reward):
        logger.warning("advantage.reward: %s", doubt)
    for path, what in ((critic_path, "critic"), (prm_path, "PRM"), (orm_path, "ORM")):
        if path and (what != "PRM" or is_ours(path)):  # a published PRM reads text
            check_same_tokens(path, what, prompting.tokenizer)
    accelerator = make_accelerator()
    check_supported(accelerator)
    torch.manual_seed(session.seed)
    models, sampler = load_models(model_path, critic_path, prm_path, config, orm_path)
    loop = set_up(
        models, sampler, model_path, prompting, problems, demonstrations, config, session, accelerator
    )
    at = loop.at
    if config.starts is not None and config.starts.demonstrations:
        at.inside.chains = shown_chains(problems, demonstrations, prompting.mark_steps, config.max_tokens)
    round = _resume(loop)
    while round < config.rounds and spent_share(at, config) < 1:
        loop.rounds.offer(round)
        loop.audit.before_drawing()
        drawn = loop.rounds.take(round)
        loop.audit.after_drawing(drawn.trees, round)
        sift(drawn, at, config.spikes, accelerator)
        metrics, seen = learn(drawn, round, loop)
        if sets:
            metrics |= note_seen(drawn.trees, sets, at.seen)
        at.watched.append({k: v for k, v in metrics.items() if k in WATCHED})
        rung = alarms(at.watched, config.alarms)
        found = note(metrics, at, config.spikes)
        told = _answer_spikes(found, drawn, len(problems), loop) if found else {}
        round += 1
        session.log(
            {f"ppo/{k}": v for k, v in (metrics | told).items()}
            | {f"ppo/alarm_{name}": 1.0 for name in rung},
            round,
        )
        _tell(round, loop)
        at.barren = 0 if seen["stepped"] else at.barren + 1
        if at.barren >= config.patience:
            raise UserError(why_barren(at.barren, seen, drawn.statuses))
        if at.barren == round == config.rounds:
            logger.warning(
                "the weights are those of the start: %s", why_barren(at.barren, seen, drawn.statuses)
            )
        if rung:
            _answer(rung, loop)
        loop.audit.after_updates()
        stop = int(highest(stop_asked(), accelerator))
        if stop or round % config.save_every == 0 or (rung and at.rollbacks) or "left_out" in told:
            _keep(round, loop)
        if stop:
            raise Stopped(stop)
    if sets:
        session.log({"mixture": table(at.seen)}, round)
    if config.generated_tokens is not None and at.generated < config.generated_tokens:
        logger.warning(
            "all %d rounds are done with %d of generated_tokens=%d generated; expected these to end the run and its "
            "schedule: raise rounds", config.rounds, at.generated, config.generated_tokens,
        )  # fmt: skip
    _save(models, prompting, session.out, config, accelerator)


def learn(drawn: Round, round: int, loop: Loop) -> tuple[dict[str, float], Mapping[str, float]]:
    """Score a round's trees and update policy and critic on them, and a PRM that is kept up; metrics, and sums of them."""
    config, models, accelerator = loop.config, loop.models, loop.accelerator
    again = trees_again(drawn, round, loop.at, models, config, accelerator)
    usable_trees, trees_before = [t for _, t in drawn.usable], [t for _, t in again]
    samples = _samples([*usable_trees, *trees_before], loop)
    keep(samples[: len(usable_trees)], round, loop.at, config)
    if config.imitate_self:
        loop.at.own_chains += verified_chains(drawn.problems, drawn.trees, loop.prompting)
    with fitting(config):
        prepared = minibatches(drawn.usable, again, samples, models, config, accelerator)
    gaps: list[torch.Tensor] = []
    seen: defaultdict[str, float] = defaultdict(float)
    is_done = False  # whether the policy has moved too far from what sampled for another pass
    shown_from = [*loop.demonstrations, *loop.at.own_chains]
    rng = random.Random(f"{loop.session.seed} {round} {accelerator.process_index}")
    optimizers = loop.trained.optimizers[: 1 + (models.critic is not None)]
    with fitting(config):
        for epoch in range(config.epochs):
            is_done = is_done or (epoch > 0 and is_used_up(prepared, models, config, accelerator))
            seen["epochs"] += not is_done
            for at, part in enumerate(prepared):
                shown = rng.choices(shown_from, k=config.ptx_batch) if config.ptx_weight else []
                twice = loop.audit.twice(round, epoch * len(prepared) + at, config.epochs * len(prepared))
                stats, gaps_of_part = {}, []
                if not is_done:
                    stats, gaps_of_part = update_once(
                        part, shown, models, optimizers, config, accelerator, ceiling(loop.at, config.spikes), twice
                    )  # fmt: skip
                gaps += gaps_of_part
                for name, number in stats.items():
                    seen[name] += number
                for schedule in loop.trained.schedules:
                    schedule.step()
    kl_step = kl_moved(prepared, models, config, accelerator) if seen["stepped"] else 0.0
    book(
        loop.session, drawn.trees, usable_trees, trees_before, models, config, int(seen["epochs"]),
        0.0 if config.overlap else sum(j.waiting_s for j in drawn.judged),  # in which it had nothing else to do
    )  # fmt: skip
    gap = sampler_gap(gaps, accelerator)
    metrics = describe(drawn.trees, drawn.statuses, usable_trees, seen, gap, accelerator)
    metrics |= reuse(drawn.trees, trees_before, config, accelerator)
    metrics |= pruning(drawn.trees, usable_trees, config, accelerator)
    metrics |= {"verdict_wait": max((j.wait_share for j in drawn.judged), default=0.0), "kl_step": kl_step}
    metrics |= ages(usable_trees, round, loop.rounds.waited, accelerator) if config.overlap else {}
    metrics |= {"epochs": seen["epochs"]} if config.min_effective else {}
    metrics |= _learn_rewards(drawn.trees, round, loop)
    return metrics, seen


def _learn_rewards(trees: Sequence[Tree], round: int, loop: Loop) -> dict[str, float]:
    """Update the reward models that are trained beside the policy on a round's trees; their losses."""
    config, models, tokens, losses = loop.config, loop.models, loop.config.tokens_per_batch, {}
    optimizers = dict(zip(learners(models, config), loop.trained.optimizers, strict=True))
    kept_up, implicit = config.prm_refresh, config.implicit_prm
    if kept_up is not None and models.prm is not None and (round + 1) % kept_up.every == 0:
        losses["prm_loss"] = refresh(
            models.prm, optimizers["prm"], trees, kept_up, tokens, loop.session, loop.accelerator
        )
    if implicit is not None:
        losses["implicit_loss"] = refresh(
            models.implicit, optimizers["implicit"], trees, implicit, tokens, loop.session, loop.accelerator,
            lambda tree: by_verdict(tree) if is_usable(tree, config) else None, "implicit_prm",
        )  # fmt: skip
    return losses


def _samples(trees: Sequence[Tree], loop: Loop) -> list[PolicySample]:
    """The advantages of scored trees."""
    config, models = loop.config, loop.models
    value_of = CRITIC.get(config.advantage.method, "value")
    for net, name, bounds in (
        (models.prm, "prm", (0.0, 1.0)),
        (models.orm, "orm", (0.0, 1.0)),
        (models.critic, value_of, return_range(config.advantage.reward)),
        (models.implicit, "implicit", None),
    ):
        if net is not None:
            score_states(net, trees, name, config.tokens_per_batch, bounds)
    method = lookup(ADVANTAGES, config.advantage.method, "advantage method")
    samples = [method(t, config.advantage) for t in trees]
    if config.implicit_prm is not None:
        samples = [with_implicit_rewards(s, config.implicit_prm.weight, config.advantage) for s in samples]
    if config.advantage.method in WHITENED if config.whiten is None else config.whiten:
        samples = whiten(samples, loop.accelerator)
    return samples


def _tell(round: int, loop: Loop) -> None:
    limit = loop.config.generated_tokens
    if limit is None:
        loop.session.progress(round, loop.config.rounds, "rounds")
    else:
        loop.session.progress(loop.at.generated, limit, "tokens")


def _keep(round: int, loop: Loop) -> None:
    """A checkpoint after so many rounds, where the session keeps any; what is drawn ahead is in it."""
    if loop.session.checkpoints is None:
        return
    loop.rounds.rest()
    loop.audit.unchanged("before they were saved")
    spent = time.monotonic() - loop.begun
    own = {**plain_of(loop.at), "ledger": loop.session.ledger.to_dict(), "seconds": spent}
    save_checkpoint(loop.session.checkpoints, round, loop.trained, own, loop.fingerprint, loop.accelerator)


def _resume(loop: Loop) -> int:
    """The rounds done before a kill; the loop goes on from where it was after them."""
    session, found = loop.session, None
    if session.checkpoints is not None:
        found = load_checkpoint(session.checkpoints, loop.trained, loop.fingerprint, loop.accelerator)
    if found is None:
        return 0
    seconds = found.loop["seconds"]
    session.ledger.resume(found.loop["ledger"], seconds)
    loop.begun -= seconds
    loop.at.go_to(position_of(found.loop))
    return found.step


def _answer(rung: dict[str, str], loop: Loop) -> None:
    """Warn, stop, or go back to the older checkpoint's weights and draw anew from here on."""
    at, limits = loop.at, loop.config.alarms
    why = "; ".join(f"{name}: {reason}" for name, reason in rung.items())
    if limits.action == "warn":
        logger.warning("alarm: %s", why)
        return
    if limits.action == "stop" or at.rollbacks >= limits.max_rollbacks or loop.session.checkpoints is None:
        raise UserError(
            f"alarm: {why}; expected none: change the reward or the learning rate; the last checkpoint stays"
        )
    _go_back(f"alarm: {why}", loop, oldest=True)
    at.rollbacks += 1


def _answer_spikes(found: dict[str, str], drawn: Round, num_problems: int, loop: Loop) -> dict[str, Any]:
    """Do what is asked for about a round's spikes; what its line tells of them."""
    at, options = loop.at, loop.config.spikes
    why = "; ".join(found.values())
    told: dict[str, Any] = {f"spike_{name}": 1.0 for name in found} | {"spike": why}
    answer = "such updates are not taken" if options.on_spike == "skip" else "nothing was done"
    if options.on_spike == "lower_rate":
        lower_rates(loop.trained, options.lower_by)
        answer = f"learning rates times {options.lower_by:g} from here on"
    if options.on_spike == "go_back":
        if at.spikes["go_backs"] >= options.max_go_backs:
            raise UserError(
                f"spike: {why}, after going back {options.max_go_backs} times; expected that to help: lower the learning rate, "
                "or look at the problems that were left out (metrics.jsonl); the last checkpoint stays"
            )
        told["left_out"] = leave_out(drawn, num_problems, at)
        at.spikes["go_backs"] += 1
        step = _go_back(f"spike: {why}", loop)
        answer = (
            f"back to the weights of round {step}; {len(told['left_out'])} problems left out from here on"
        )
    logger.warning("spike: %s; %s", why, answer)
    return told | {"spike_answer": answer}


def _go_back(why: str, loop: Loop, oldest: bool = False) -> int:
    """Have the weights of the newest checkpoint, or the oldest kept, and draw anew from here on; after which round it was."""
    at, kept = loop.at, loop.session.checkpoints
    found = None
    if kept is not None:
        found = load_checkpoint(kept, loop.trained, loop.fingerprint, loop.accelerator, oldest)
    if found is None:
        raise UserError(f"{why}, before the first checkpoint; expected one to go back to: lower save_every")
    logger.warning("%s; back to the weights of round %d", why, found.step)
    loop.rounds.drop()
    old = position_of(found.loop)
    # the ledger stays: what is undone was paid for all the same
    at.go_to(
        replace(
            old,
            cursor=at.cursor,
            generated=at.generated,
            barren=0,
            rollbacks=at.rollbacks,
            spikes=at.spikes,
            ahead=[],
            seen=at.seen,
        )
    )
    return found.step


def _save(
    models: Models, prompting: Prompting, out: Path, config: PolicyGradientStage, accelerator: Accelerator
) -> None:
    prm = models.prm if config.prm_refresh is not None else None
    scorers = {"critic": models.critic, "prm": prm, "implicit_prm": models.implicit}
    is_main, is_cut = accelerator.is_main_process, is_sharded(models.policy)
    policy = gathered(models.whole) if is_cut else models.whole
    if is_main:
        save(policy, prompting.tokenizer, out / "model")
    for name, net in scorers.items():
        if net is not None:
            plain = gathered_net(net) if is_cut else accelerator.unwrap_model(net)
            if is_main:
                plain.save(prompting.tokenizer, out / name)
    wait_for_everyone()
