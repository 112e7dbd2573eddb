"""Imitation and DPO on networks that are cut over the processes: one loop on packed rows, equal to TRL's trainers.

TRL's trainers cut weights through accelerate, which does so on accelerators only; this loop is the same on any machine.

Shape suffixes: N completion tokens, B pairs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from reasoner.interrupt import Stopped, stop_asked
from reasoner.policy.adapters import Adapter, LoRA, SharedBase, is_adapter, load_trainable
from reasoner.policy.heads import PolicyNet
from reasoner.policy.machine import own_device
from reasoner.policy.models import load_tokenizer, save
from reasoner.policy.packing import batches, pack
from reasoner.policy.shard import Sharding, gathered, shard, shard_base
from reasoner.records import PreferencePair, SFTExample
from reasoner.registry import UserError
from reasoner.trainers.checkpoint import Trained, fingerprint_of, go_on, save_checkpoint
from reasoner.trainers.loop import (
    OptimizerConfig,
    Session,
    by_share,
    by_steps,
    check_cut,
    clip_and_step,
    make_optimizer,
)
from reasoner.trainers.policy_batch import blank
from reasoner.trainers.ranks import (
    highest,
    make_accelerator,
    one_clock,
    same_count,
    summed,
    wait_for_everyone,
)
from reasoner.trainers.trl_settings import RankRows
from reasoner.tree import ROOT, Node, Problem, Tree

TOKENS_PER_BATCH = 8192  # packed tokens per forward pass
LOGGED = 10  # updates between two lines of the log
RECOMPUTE = "gradient_checkpointing"

# (policy, reference, numbers of rows) -> the sum of their losses
Loss = Callable[[PolicyNet, PolicyNet | None, Sequence[int]], torch.Tensor]


class _Task(NamedTuple):
    """What is learned: `masses` are what the losses of the rows are divided by, summed over an update."""

    name: str
    data: Sequence[SFTExample] | Sequence[PreferencePair]
    trees: Sequence[Tree]
    masses: Sequence[float]
    loss: Loss
    refers: bool  # to the policy as it starts
    seconds: float | None = None  # instead of a number of updates


def imitate_cut(
    model_path: str, examples: Sequence[SFTExample], config: Any, rows: RankRows, steps: int, session: Session
) -> None:
    """What train_sft does, with config.shard: the mean of -log p over the tokens of an update."""
    trees = [_tree(e.prompt_ids, [e.completion_ids]) for e in examples]
    weights = [e.mask or [1] * len(e.completion_ids) for e in examples]

    def loss(policy: PolicyNet, _: PolicyNet | None, numbers: Sequence[int]) -> torch.Tensor:
        logprobs_N = _logprobs(policy, [trees[i] for i in numbers])
        return -(logprobs_N * logprobs_N.new_tensor([w for i in numbers for w in weights[i]])).sum()

    masses = [float(sum(w)) for w in weights]
    task = _Task("sft", examples, trees, masses, loss, refers=False, seconds=config.max_seconds)
    _train(model_path, task, config, rows, steps, session)


def prefer_cut(
    model_path: str,
    pairs: Sequence[PreferencePair],
    config: Any,
    rows: RankRows,
    steps: int,
    session: Session,
) -> None:
    """What train_dpo does, with config.shard: the mean loss over the pairs of an update."""
    trees = [_tree(p.prompt_ids, [p.chosen_ids, p.rejected_ids]) for p in pairs]

    def loss(policy: PolicyNet, reference: PolicyNet | None, numbers: Sequence[int]) -> torch.Tensor:
        assert reference is not None
        of_batch = [trees[i] for i in numbers]
        with torch.no_grad():
            before_N = _logprobs(reference, of_batch)
        ratios_N = _logprobs(policy, of_batch) - before_N
        lengths = [len(node.token_ids) for tree in of_batch for node in tree.nodes[1:]]
        sums = torch.stack([x.sum() for x in ratios_N.split(lengths)])
        if config.loss == "ipo":  # per token, as its authors meant it
            sums = sums / sums.new_tensor(lengths).clamp(min=1)
            return (sums[0::2] - sums[1::2] - 1 / (2 * config.beta)).square().sum()
        return -F.logsigmoid(config.beta * (sums[0::2] - sums[1::2])).sum()

    task = _Task("dpo", pairs, trees, [1.0] * len(trees), loss, refers=True)
    _train(model_path, task, config, rows, steps, session)


def _train(model_path: str, task: _Task, config: Any, rows: RankRows, steps: int, session: Session) -> None:
    accelerator = make_accelerator()
    policy, reference = _networks(model_path, config, task.refers)
    whole, seconds = policy.lm, task.seconds
    is_cut = not isinstance(whole, Adapter)
    optimizer: Any = make_optimizer(policy, config.optimizer)
    clock, spent = one_clock(), 0.0
    schedule = (
        by_steps(optimizer, config.optimizer, steps)
        if seconds is None
        else by_share(optimizer, config.optimizer, lambda: (spent + clock()) / seconds)
    )
    net: Any = policy
    if not is_cut:
        net, optimizer = accelerator.prepare(policy, optimizer)
    trained = Trained([optimizer], [schedule], [net] if is_cut else ())
    fingerprint = fingerprint_of(config, session.seed, task.data)
    step, spent = go_on(session, trained, fingerprint, accelerator)
    given = itertools.islice((own for _ in itertools.count() for own in rows), step, None)

    def place() -> float:
        return step if seconds is None else spent + clock()

    at, end = place(), seconds or steps
    while at < end:
        step += 1
        rate = schedule.get_last_lr()[0]
        loss, norm = _update(task, next(given), net, reference, optimizer, config.optimizer, accelerator)
        schedule.step()
        at = place()
        session.progress(int(at), int(end), "" if seconds is None else "seconds")
        if step % LOGGED == 0 or at >= end:
            shown = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
            session.log({f"{task.name}/{k}": v for k, v in shown.items()}, step)
        stop = int(highest(stop_asked(), accelerator))
        if session.checkpoints is not None and (stop or step % config.save_every == 0):
            loop = {"ledger": session.ledger.to_dict(), "seconds": spent + clock()}
            save_checkpoint(session.checkpoints, step, trained, loop, fingerprint, accelerator)
        if stop:
            raise Stopped(stop)
    session.ledger.add("policy", trained=rows.tokens)
    plain = gathered(whole) if is_cut else whole
    if accelerator.is_main_process:
        save(plain, load_tokenizer(model_path), session.out / "model")
    wait_for_everyone()


def _update(
    task: _Task, own: Sequence[int], net: Any, reference: PolicyNet | None, optimizer: Any,
    options: OptimizerConfig, accelerator: Accelerator,
) -> tuple[float, float]:  # fmt: skip
    """One update on this process's rows and all others'; the mean loss over all of them, and the gradient's norm."""
    (mass,) = summed([sum(task.masses[i] for i in own)], accelerator)
    share = accelerator.num_processes / max(mass, 1e-8)
    total = torch.zeros((), device=accelerator.device)
    for numbers in same_count(batches([task.trees[i] for i in own], TOKENS_PER_BATCH), accelerator.device):
        part = [own[i] for i in numbers]
        # a process without rows joins the others' passes with a loss of zero
        loss = task.loss(net, reference, part) if part else _logprobs(net, [blank()]).sum() * 0.0
        accelerator.backward(loss * share)
        total += loss.detach()
    ((norm, _),) = clip_and_step([net], [optimizer], [options.max_grad_norm], [True], accelerator)
    (lost,) = summed([float(total)], accelerator)
    return lost / max(mass, 1e-8), norm


def _networks(model_path: str, config: Any, refers: bool) -> tuple[PolicyNet, PolicyNet | None]:
    """The policy, and the policy as it starts where the loss refers to it, both cut."""
    sharding: Sharding = config.shard
    optimizer: OptimizerConfig = config.optimizer
    lora: LoRA | None = config.lora
    others = sorted(set(config.trl) - {RECOMPUTE})
    if others or (lora is not None and lora.dropout) or (lora is None and is_adapter(model_path)):
        got = (
            f"trl: {', '.join(others)}"
            if others
            else "lora.dropout"
            if lora is not None
            else "an adapter folder"
        )
        raise UserError(
            f"got {got} with shard; expected none: of `trl` only {RECOMPUTE}, no dropout, and lora set where the model is an "
            "adapter"
        )
    check_cut(sharding, optimizer, lora is not None)
    recompute = bool(config.trl.get(RECOMPUTE, False))
    if lora is not None:
        shared = SharedBase(model_path, lora)
        policy = PolicyNet(shared.view("policy"))
        first = shared.new("ref", "policy", trained=False) if refers else None
        adapters = {w for name in shared.peft.peft_config for w in shared.weights(name).values()}
        shard_base(shared.lm, adapters, sharding, shared.around if recompute else None)
        return policy, PolicyNet(first) if first is not None else None
    lm = load_trainable(model_path, None)
    reference = PolicyNet(copy.deepcopy(lm).requires_grad_(False)) if refers else None
    policy = PolicyNet(lm)
    for net in (policy, reference):
        if net is not None:
            shard(net, sharding, recompute)
    return policy, reference


def _logprobs(net: Any, trees: Sequence[Tree]) -> torch.Tensor:
    """log p of each completion token, in the order of the trees and their nodes."""
    p = pack(trees, own_device())
    return net(p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N)[0]


def _tree(prompt_ids: Sequence[int], completions: Sequence[Sequence[int]]) -> Tree:
    tree = Tree.of_prompt(Problem("", "", "", {}), list(prompt_ids))
    for ids in completions:
        tree.add(Node(ROOT, len(prompt_ids), tuple(ids)))
    return tree
