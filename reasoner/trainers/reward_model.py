"""Train a process or an outcome reward model from labelled steps or labelled completions.

A head, or two label tokens, read at the last token of each step (PRM) or of the whole (ORM): the position comes
from the same packing that scoring uses, so training and inference cannot disagree. Solutions of one prompt are one packed
tree, in which each shared prefix is computed once.

Shape suffixes: S labelled states.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from reasoner.config import Config, Entry, MayChange
from reasoner.interrupt import Stopped, deferring, stop_asked
from reasoner.metrics.reward_quality import auroc, brier_skill
from reasoner.policy.adapters import Adapter, LoRA, load_for_head
from reasoner.policy.heads import HEADS, LabelTokens, ScoreNet, gathered_net, train_what_is_read
from reasoner.policy.labelled import Labelled, divided, idle
from reasoner.policy.models import load_tokenizer
from reasoner.policy.packing import batches, layers_cost, num_tokens, pack
from reasoner.policy.shard import Sharding, is_sharded, shard, shard_base
from reasoner.policy.split import split_labelled
from reasoner.registry import UserError, lookup
from reasoner.trainers.checkpoint import Trained, fingerprint_of, go_on, save_checkpoint
from reasoner.trainers.gates import check_packed
from reasoner.trainers.loop import OptimizerConfig, Session, by_steps, check_cut, make_optimizer, norm_of
from reasoner.trainers.ranks import highest, make_accelerator, same_count, summed, wait_for_everyone
from reasoner.trainers.reward_loss import LOSSES, mass, weighted_sum


class RewardModelStage(Config):
    """A logit per labelled state, fitted to labels in [0, 1]."""

    loss: Annotated[str, Entry("loss", "reasoner.trainers.reward_loss:LOSSES")] = Field(
        default="bce",
        description="bce (soft labels as they are) | hard_bce (any label above 0 is good) | mse | "
        "ranking (steps that continue one prefix against each other)",
    )
    reads: Annotated[str, Entry("reading", "reasoner.policy.heads:HEADS")] = Field(
        default="state",
        description="state (a new linear layer on the last token's hidden state) | likelihood (three weights on the log-"
        "probabilities of the tokens written so far: for a model that can do a step better than check it) | implicit (0.05 · "
        "log(π/π_ref) of these tokens, π_ref the model as it starts: an orm learns process rewards so, from verdicts alone)",
    )
    label_tokens: list[str] = Field(
        default=[],
        description="two tokens of the vocabulary, the good and the bad one, e.g. ['+', '-'], read instead of a new head",
    )

    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="how weights are updated")
    epochs: Annotated[float, MayChange()] = Field(
        default=1.0, gt=0, description="passes over the labelled solutions"
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        description="solutions per update, over all processes; those of one tree stay together",
    )
    tokens_per_batch: int = Field(
        default=8192, ge=1, description="packed tokens per forward pass; also the largest tree of solutions"
    )
    holdout: float = Field(
        default=0.05, ge=0, lt=1, description="share of the problems kept for the reported AUROC"
    )
    save_every: Annotated[int, MayChange()] = Field(
        default=100, ge=1, description="updates between checkpoints, from which a killed run goes on"
    )
    lora: LoRA | None = Field(
        default=None, description="train a LoRA adapter and the head instead of all weights"
    )
    shard: Sharding | None = Field(
        default=None,
        description="cut weights, gradients and optimizer states over all processes (FSDP), e.g. {} or {offload: true}",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute each layer again in the backward pass: less memory, about a third more time",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.reads == "implicit" and self.shard is not None:
            raise ValueError("got reads: implicit with shard; expected whole weights: leave shard out")
        return self


@deferring()
def train_reward_model(
    model_path: str,
    data: Sequence[Labelled],
    config: RewardModelStage,
    session: Session,
    name: str,
    expand: Callable[[Labelled], Labelled] = lambda labelled: labelled,
) -> None:
    """Train from the weights of `model_path` and save to `session.out`/model.

    `expand` says where training puts labels, if not only where they are read (policy/labelled, all_tokens).
    The loss is the mean over the labelled states (ranking: over the prefixes with a pair) of the global batch.
    Data of one class only, or without a pair to rank, is a UserError.
    """
    loss_of = lookup(LOSSES, config.loss, "loss")
    if len({y > 0.5 for d in data for y in d.labels}) < 2:
        raise UserError(
            f"the {name} has {sum(d.num_solutions for d in data)} labelled solutions of one class only; expected "
            "good and bad ones: roll out more problems, or problems that the policy solves sometimes"
        )
    accelerator = make_accelerator()
    torch.manual_seed(session.seed)
    train, held = split(data, config.holdout, session.seed)
    train = [expand(d) for d in train]
    if not mass(loss_of, train):
        raise UserError(
            f"the {name} has no two steps that continue one prefix and differ in label; expected trees with "
            "alternatives (or PRM800K's), or another loss than ranking"
        )
    tokenizer = load_tokenizer(model_path)
    lm = load_for_head(model_path, config.lora, config.gradient_checkpointing and config.shard is None)
    check_packed(lm)
    good_bad = label_ids(config.label_tokens, tokenizer)
    net = ScoreNet(lm, LabelTokens(lm, good_bad) if good_bad else lookup(HEADS, config.reads, "reading")(lm))
    train_what_is_read(net)
    if config.shard is not None:
        cut(net, config)
    optimizer = make_optimizer(net, config.optimizer)
    num_updates = max(1, round(config.epochs * sum(d.num_solutions for d in train) / config.batch_size))
    schedule = by_steps(optimizer, config.optimizer, num_updates)
    is_cut = is_sharded(net)
    if not is_cut:
        net, optimizer = accelerator.prepare(net, optimizer)
    net.train()
    trained = Trained([optimizer], [schedule], [net] if is_cut else ())
    fingerprint = fingerprint_of(config, session.seed, map(_facts, train))
    begun = time.monotonic()
    done, spent = go_on(session, trained, fingerprint, accelerator)
    begun -= spent
    order = shuffled(train, config.batch_size, session.seed)
    for update in range(1, num_updates + 1):
        batch = next(order)
        if update <= done:
            continue
        own = own_share(batch, loss_of.compares, accelerator.process_index, accelerator.num_processes)
        # DDP means gradients over processes; the loss is a mean over the labels of all of them
        share = accelerator.num_processes / max(1e-8, mass(loss_of, batch))
        total = torch.zeros((), device=accelerator.device)
        pieces = (
            own if loss_of.compares else [d for o in own for d in split_labelled(o, config.tokens_per_batch)]
        )
        for numbers in same_count(
            batches([d.tree for d in pieces], config.tokens_per_batch, cost=layers_cost(net)),
            accelerator.device,
        ):
            # a process without work joins the others' backward with a loss of zero
            part = [pieces[i] for i in numbers] or [idle()]
            logits_S = read(net, part, accelerator.device)
            part_loss = weighted_sum(loss_of, logits_S, part) * share * bool(numbers)
            accelerator.backward(part_loss)
            total += part_loss.detach()
        grad_norm = norm_of(accelerator.clip_grad_norm_(net.parameters(), config.optimizer.max_grad_norm))
        if not math.isfinite(grad_norm):
            raise UserError(
                f"the {name}'s gradient was no number in update {update}; expected finite ones: lower the learning rate, "
                "or check the model and its labels; the last checkpoint stays"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        session.ledger.add(name, trained=sum(num_tokens(d.tree) for d in own))
        session.progress(update, num_updates, "")
        if update % 10 == 0 or update == num_updates:
            loss = summed([float(total)], accelerator)[0] / accelerator.num_processes
            shown = {"loss": loss, "grad_norm": grad_norm}
            session.log({f"{name}/{k}": v for k, v in shown.items()}, update)
        stop = int(highest(stop_asked(), accelerator))
        if session.checkpoints is not None and (stop or update % config.save_every == 0):
            loop = {"ledger": session.ledger.to_dict(), "seconds": time.monotonic() - begun}
            save_checkpoint(session.checkpoints, update, trained, loop, fingerprint, accelerator)
        if stop:
            raise Stopped(stop)
    plain = net.eval() if is_cut else accelerator.unwrap_model(net).eval()
    # where layers are cut all processes compute together
    if config.shard is not None or accelerator.is_main_process:
        found = quality(*score(plain, held, config.tokens_per_batch, accelerator.device))
        session.log({f"{name}/heldout_{k}": v for k, v in found.items()}, num_updates)
    if is_cut:
        plain = gathered_net(net)
    if accelerator.is_main_process:
        plain.save(tokenizer, session.out / "model")
    wait_for_everyone()


def cut(net: ScoreNet, config: RewardModelStage) -> None:
    """Cut the network over the processes in place, as config.shard says."""
    assert config.shard is not None
    check_cut(config.shard, config.optimizer, config.lora is not None)
    if isinstance(net.lm, Adapter):
        shared = net.lm.shared
        around = shared.around if config.gradient_checkpointing else None
        shard_base(shared.lm, set(net.lm.weights.values()), config.shard, around)
    else:
        shard(net, config.shard, config.gradient_checkpointing)


def _facts(d: Labelled) -> tuple:
    """What a labelled tree teaches."""
    return [(n.parent, n.offset, n.token_ids) for n in d.tree.nodes], d.states, d.labels, d.groups


def read(net, batch: Sequence[Labelled], device) -> torch.Tensor:
    """Logits of all labelled states of a batch, in order."""
    packed = pack([d.tree for d in batch], device, cost=layers_cost(net))
    at = [packed.state(i, node, offset) for i, d in enumerate(batch) for node, offset in d.states]
    at_S = torch.tensor(at, dtype=torch.long, device=device)
    return net(packed.ids_BT, packed.positions_BT, packed.tour_B2T, at_S, packed.source_N, packed.target_N)


def score(
    net, data: Sequence[Labelled], max_tokens: int, device
) -> tuple[list[float], list[float], list[bool]]:
    """Logits and labels of held-out data, and whether each stands at the end of a whole solution."""
    scores: list[float] = []
    labels: list[float] = []
    at_end: list[bool] = []
    data = [part for d in data for part in split_labelled(d, max_tokens)]
    for numbers in batches([d.tree for d in data], max_tokens, cost=layers_cost(net)):
        with torch.no_grad():
            scores += read(net, [data[i] for i in numbers], device).tolist()
        labels += [y for i in numbers for y in data[i].labels]
        at_end += [j in data[i].ends for i in numbers for j in range(len(data[i].labels))]
    return scores, labels, at_end


def quality(logits: Sequence[float], labels: Sequence[float], at_end: Sequence[bool]) -> dict[str, float]:
    """AUROC and Brier skill of all labels, and AUROC apart for inside and for end: the second is an outcome model's."""
    found: dict[str, float] = {}
    for part, kept in (("", None), ("_inside", False), ("_end", True)):
        chosen = [i for i, end in enumerate(at_end) if kept is None or end == kept]
        part_labels = [labels[i] for i in chosen]
        if len(set(part_labels)) > 1:
            found[f"auroc{part}"] = auroc([logits[i] for i in chosen], part_labels)
    if "auroc" in found:
        found["brier_skill"] = brier_skill(torch.tensor(logits).sigmoid().tolist(), labels)
    return found


def label_ids(texts: Sequence[str], tokenizer) -> tuple[int, int] | None:
    """The token ids of the good and the bad label; None for no texts. A text of several tokens is a UserError."""
    if not texts:
        return None
    found = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    if len(texts) != 2 or any(len(ids) != 1 for ids in found) or found[0] == found[1]:
        raise UserError(
            f"label_tokens is {list(texts)}, to the tokenizer {found}; expected two texts of one token each, "
            "the good label first, e.g. ['+', '-']"
        )
    return found[0][0], found[1][0]


def own_share(batch: Sequence[Labelled], together: bool, rank: int, num: int) -> list[Labelled]:
    """What process `rank` of `num` has of a batch: trees larger than an even share are divided, the largest given out
    first, each to whoever has least. The processes' shares together have every label of the batch once.
    """
    if num == 1:
        return list(batch)
    even = -(-sum(num_tokens(d.tree) for d in batch) // num)
    lots = [lot for d in batch for lot in (divided(d, even, together) if num_tokens(d.tree) > even else [d])]
    loads = [0] * num
    own = []
    for lot in sorted(lots, key=lambda lot: -num_tokens(lot.tree)):
        least = loads.index(min(loads))
        loads[least] += num_tokens(lot.tree)
        if least == rank:
            own.append(lot)
    return own


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
