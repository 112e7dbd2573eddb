"""Train a process or an outcome reward model from labelled steps or labelled completions.

One head on the last token of each step (PRM) or of the whole (ORM): the position comes from the same
packing that scoring uses, so training and inference cannot disagree.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from pydantic import Field

from reasoner.config import Config
from reasoner.evals.reward_quality import auroc
from reasoner.losses import step_bce
from reasoner.policy.adapters import load_merged
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_tokenizer
from reasoner.records import OutcomeLabel, StepLabels
from reasoner.registry import UserError
from reasoner.signals.packing import pack
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.tree import ROOT, Node, Problem, Tree


class RewardModelStage(Config):
    """Binary cross-entropy on labels in [0, 1]."""

    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: float = Field(1.0, gt=0, description="passes over the labelled solutions")
    batch_size: int = Field(64, ge=1, description="solutions per update, over all processes")
    holdout: float = Field(0.05, ge=0, lt=1, description="share of the problems kept for the reported AUROC")


@dataclass(frozen=True)
class Labelled:
    """A completion as a tree of one node, and a label for each of its states that has one."""

    tree: Tree
    states: list[int]  # offsets into the completion
    labels: list[float]


def from_steps(record: StepLabels) -> Labelled | None:
    """A solution's labelled steps; None where no step has a label."""
    known = [(e + 1, y) for e, y in zip(record.step_ends, record.labels, strict=True) if not math.isnan(y)]
    if not known:
        return None
    states, labels = zip(*known, strict=True)
    return Labelled(
        _chain(record.problem_id, record.prompt_ids, record.completion_ids), list(states), list(labels)
    )


def from_outcome(record: OutcomeLabel) -> Labelled | None:
    if not record.completion_ids:
        return None
    tree = _chain(record.problem_id, record.prompt_ids, record.completion_ids)
    return Labelled(tree, [len(record.completion_ids)], [float(record.label)])


def _chain(problem_id: str, prompt_ids: list[int], completion_ids: list[int]) -> Tree:
    tree = Tree.of_prompt(Problem(problem_id, "", "", {}), prompt_ids)
    tree.add(Node(ROOT, len(prompt_ids), tuple(completion_ids)))
    return tree


def train_reward_model(
    model_path: str, data: Sequence[Labelled], config: RewardModelStage, session: Session, name: str
) -> None:
    """Train from the weights of `model_path` and save to `session.out`/model.

    The loss is the mean over labelled states of the global batch. Data of one class only is a UserError.
    """
    if len({y > 0.5 for d in data for y in d.labels}) < 2:
        raise UserError(
            f"the {name} has {len(data)} labelled solutions of one class only; expected good and bad ones: "
            "roll out more problems, or problems that the policy solves sometimes"
        )
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(session.seed)
    train, held = _split(data, config.holdout, session.seed)
    net = ScoreNet(load_merged(model_path))
    net.lm.requires_grad_(True)
    optimizer = make_optimizer(net, config.optimizer)
    num_updates = max(1, round(config.epochs * len(train) / config.batch_size))
    schedule = by_steps(optimizer, config.optimizer, num_updates)
    net, optimizer = accelerator.prepare(net, optimizer)
    net.train()
    rng = random.Random(session.seed)
    order: list[int] = []
    for update in range(num_updates):
        if len(order) < config.batch_size:
            order += rng.sample(range(len(train)), len(train))
        batch, order = [train[i] for i in order[: config.batch_size]], order[config.batch_size :]
        num_labels = sum(len(d.labels) for d in batch)
        own = batch[accelerator.process_index :: accelerator.num_processes] or batch[:1]
        logits_S, labels_S = _read(net, own, accelerator.device)
        # DDP means gradients over processes; the loss is a mean over the labels of all of them
        share = (
            accelerator.num_processes
            if batch[accelerator.process_index :: accelerator.num_processes]
            else 0.0
        )
        loss = step_bce(logits_S, labels_S).sum() * share / num_labels
        accelerator.backward(loss)
        grad_norm = accelerator.clip_grad_norm_(net.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        session.ledger.add(name, trained=sum(len(n.token_ids) for d in own for n in d.tree.nodes))
        session.progress(update + 1, num_updates, "")
        if update % 10 == 9 or update == num_updates - 1:
            session.log({f"{name}/loss": accelerator.reduce(loss.detach(), "mean").item(),
                         f"{name}/grad_norm": float(grad_norm)}, update + 1)  # fmt: skip
    plain = accelerator.unwrap_model(net).eval()
    if held and accelerator.is_main_process:
        scores, labels = [], []
        for at in range(0, len(held), 64):
            with torch.inference_mode():
                logits_S, labels_S = _read(plain, held[at : at + 64], accelerator.device)
            scores += logits_S.tolist()
            labels += (labels_S > 0.5).tolist()
        if 0 < sum(labels) < len(labels):
            session.log({f"{name}/heldout_auroc": auroc(scores, labels)}, num_updates)
    if accelerator.is_main_process:
        plain.save(load_tokenizer(model_path), session.out / "model")
    accelerator.wait_for_everyone()


def _read(net, batch: Sequence[Labelled], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all labelled states of a batch."""
    packed = pack([d.tree for d in batch], device)
    at = [packed.state(i, 1, offset) for i, d in enumerate(batch) for offset in d.states]
    labels_S = torch.tensor([y for d in batch for y in d.labels], device=device)
    at_S = torch.tensor(at, device=device)
    return net(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, at_S), labels_S


def _split(data: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Training and held-out solutions; a problem's solutions stay on one side."""
    problems = sorted({d.tree.problem.id for d in data})
    held = set(random.Random(seed).sample(problems, int(share * len(problems))))
    return (
        [d for d in data if d.tree.problem.id not in held],
        [d for d in data if d.tree.problem.id in held],
    )
