"""Train a process or an outcome reward model from labelled steps or labelled completions.

One head on the last token of each step (PRM) or of the whole (ORM): the position comes from the same
packing that scoring uses, so training and inference cannot disagree. Solutions of one prompt are one packed
tree, in which each shared prefix is computed once.

Shape suffixes: S labelled states.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from pydantic import Field

from reasoner.config import Config
from reasoner.evals.reward_quality import auroc
from reasoner.losses import step_bce
from reasoner.policy.adapters import load_merged
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
from reasoner.signals.labelled import Labelled
from reasoner.signals.packing import batches, num_tokens, pack
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, make_optimizer
from reasoner.trainers.ranks import same_count


class RewardModelStage(Config):
    """Binary cross-entropy on labels in [0, 1]."""

    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: float = Field(1.0, gt=0, description="passes over the labelled solutions")
    batch_size: int = Field(
        64, ge=1, description="solutions per update, over all processes; those of one tree stay together"
    )
    tokens_per_batch: int = Field(
        8192, ge=1, description="packed tokens per forward pass; also the largest tree of solutions"
    )
    holdout: float = Field(0.05, ge=0, lt=1, description="share of the problems kept for the reported AUROC")


def train_reward_model(
    model_path: str, data: Sequence[Labelled], config: RewardModelStage, session: Session, name: str
) -> None:
    """Train from the weights of `model_path` and save to `session.out`/model.

    The loss is the mean over labelled states of the global batch. Data of one class only is a UserError.
    """
    if len({y > 0.5 for d in data for y in d.labels}) < 2:
        raise UserError(
            f"the {name} has {sum(d.num_solutions for d in data)} labelled solutions of one class only; expected "
            "good and bad ones: roll out more problems, or problems that the policy solves sometimes"
        )
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(session.seed)
    train, held = split(data, config.holdout, session.seed)
    net = ScoreNet(load_merged(model_path))
    net.lm.requires_grad_(True)
    optimizer = make_optimizer(net, config.optimizer)
    num_updates = max(1, round(config.epochs * sum(d.num_solutions for d in train) / config.batch_size))
    schedule = by_steps(optimizer, config.optimizer, num_updates)
    net, optimizer = accelerator.prepare(net, optimizer)
    net.train()
    order = shuffled(train, config.batch_size, session.seed)
    for update in range(1, num_updates + 1):
        batch = next(order)
        own = batch[accelerator.process_index :: accelerator.num_processes]
        # DDP means gradients over processes; the loss is a mean over the labels of all of them
        mass = sum(len(d.labels) for d in batch) / accelerator.num_processes
        total = torch.zeros((), device=accelerator.device)
        for numbers in same_count(batches([d.tree for d in own], config.tokens_per_batch)):
            # a process without work joins the others' backward with a loss of zero
            logits_S, labels_S = read(net, [own[i] for i in numbers] or batch[:1], accelerator.device)
            loss = step_bce(logits_S, labels_S).sum() * bool(numbers) / mass
            accelerator.backward(loss)
            total += loss.detach()
        grad_norm = accelerator.clip_grad_norm_(net.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        session.ledger.add(name, trained=sum(num_tokens(d.tree) for d in own))
        session.progress(update, num_updates, "")
        if update % 10 == 0 or update == num_updates:
            shown = {"loss": accelerator.reduce(total, "mean").item(), "grad_norm": float(grad_norm)}
            session.log({f"{name}/{k}": v for k, v in shown.items()}, update)
    plain = accelerator.unwrap_model(net).eval()
    if accelerator.is_main_process:
        scores, labels = score(plain, held, config.tokens_per_batch, accelerator.device)
        if 0 < sum(labels) < len(labels):
            session.log({f"{name}/heldout_auroc": auroc(scores, labels)}, num_updates)
        plain.save(load_tokenizer(model_path), session.out / "model")
    accelerator.wait_for_everyone()


def read(net, batch: Sequence[Labelled], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all labelled states of a batch."""
    packed = pack([d.tree for d in batch], device)
    at = [packed.state(i, node, offset) for i, d in enumerate(batch) for node, offset in d.states]
    labels_S = torch.tensor([y for d in batch for y in d.labels], device=device)
    at_S = torch.tensor(at, device=device)
    return net(packed.ids_BT, packed.positions_BT, packed.mask_B1TT, at_S), labels_S


def score(net, data: Sequence[Labelled], max_tokens: int, device) -> tuple[list[float], list[bool]]:
    """Logits and labels (above one half: good) of held-out data."""
    scores: list[float] = []
    labels: list[bool] = []
    for numbers in batches([d.tree for d in data], max_tokens):
        with torch.inference_mode():
            logits_S, labels_S = read(net, [data[i] for i in numbers], device)
        scores += logits_S.tolist()
        labels += (labels_S > 0.5).tolist()
    return scores, labels


def shuffled(data: Sequence[Labelled], batch_size: int, seed: int) -> Iterator[list[Labelled]]:
    """Batches of whole trees with at least `batch_size` solutions each, in a new order every epoch, without end."""
    rng = random.Random(seed)
    batch: list[Labelled] = []
    while True:
        for i in rng.sample(range(len(data)), len(data)):
            batch.append(data[i])
            if sum(d.num_solutions for d in batch) >= batch_size:
                yield batch
                batch = []


def split(data: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Training and held-out solutions; a problem's solutions stay on one side."""
    problems = sorted({d.tree.problem.id for d in data})
    held = set(random.Random(seed).sample(problems, int(share * len(problems))))
    return (
        [d for d in data if d.tree.problem.id not in held],
        [d for d in data if d.tree.problem.id in held],
    )
