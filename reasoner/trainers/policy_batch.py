"""What a policy update is made of: judged trees with values and advantages, packed into micro-batches.

Shape suffixes: N sampled tokens, S states that the critic is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.losses import Sequences, value_of
from reasoner.policy.heads import PolicyNet, ScoreNet, check_scores
from reasoner.policy.machine import own_device
from reasoner.policy.packing import Packed, batches, layers_cost, pack
from reasoner.policy.split import split, split_states
from reasoner.records import PolicySample, SFTExample
from reasoner.scoring.published import PublishedPRM, score_published
from reasoner.signals.backup import leaf_weights
from reasoner.signals.reward import partial_credit
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import same_count, summed
from reasoner.tree import ROOT, Problem, Tree
from reasoner.watchdog import beat


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a round with all that the updates need; flat tensors as in Packed."""

    packed: Packed
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    total: float  # what this micro-batch adds to the divisor of the loss
    sampler_N: (
        torch.Tensor
    )  # log-probabilities under the sampling distribution, at its temperature like all here
    old_N: torch.Tensor | None  # the trainer's before the round; None: the round's only update takes its own
    ref_N: torch.Tensor | None
    sequences: Sequences | None
    state_S: torch.Tensor
    returns_S: torch.Tensor
    state_weights_S: torch.Tensor
    is_again: bool = False  # of earlier rounds: `old_N` is what sampled


@dataclass
class Models:
    """The networks of a run; all but the policy are None where the method or the reward does without."""

    whole: Any  # what is saved: the causal LM, or its adapter
    policy: Any
    critic: Any | None
    ref: PolicyNet | None
    prm: Any | None
    orm: ScoreNet | None = None
    implicit: Any | None = None


def right_share(tree: Tree) -> float | None:
    """The share of judged leaves that are right; None where none was judged."""
    judged = [v.status == "correct" for v in tree.verdicts.values() if v.status != "error"]
    return sum(judged) / len(judged) if judged else None


def _differs_in_part(tree: Tree, config: PolicyGradientStage) -> bool:
    """Whether wrong answers are paid for how near they come, and come more or less near."""
    judged = [v for v in tree.verdicts.values() if v.status != "error"]
    return config.advantage.reward.partial_weight > 0 and len(set(map(partial_credit, judged))) > 1


def is_usable(tree: Tree, config: PolicyGradientStage) -> bool:
    """Whether a tree goes into the update, by the share of its right answers; answers that are paid alike teach nothing."""
    share = right_share(tree)
    if share is None or (config.drop_uniform and share in (0.0, 1.0) and not _differs_in_part(tree, config)):
        return False
    low, high = config.keep_between
    return low <= share <= high


def step_states(tree: Tree) -> list[tuple[int, int]]:
    """The prompt's end and every step end: where a critic of steps and a PRM are read."""
    return [
        _prompt_end(tree),
        *((i, e + 1) for i, n in enumerate(tree.nodes) if i != ROOT for e in n.step_ends),
    ]


def token_states(tree: Tree) -> list[tuple[int, int]]:
    """The prompt's end and the state after every token: where a critic of tokens is read."""
    after = ((i, e + 1) for i, n in enumerate(tree.nodes) if i != ROOT for e in range(len(n.token_ids)))
    return [_prompt_end(tree), *after]


STATES = {
    "value": step_states, "token_value": token_states, "prm": step_states, "orm": step_states, "implicit": token_states,
}  # fmt: skip


def _prompt_end(tree: Tree) -> tuple[int, int]:
    return ROOT, len(tree.nodes[ROOT].token_ids)


def score_states(
    net, trees: Sequence[Tree], name: str, max_tokens: int, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> None:
    """Set `tree.scores[name]` to what the net says at that score's states, the prompt's end under the root.

    That is a probability, or with other `bounds` a value between them (losses, value_of).
    """
    if isinstance(net, PublishedPRM):
        score_published(net, trees, name, max_tokens)
        return
    device = own_device()
    was_training = net.training
    net.eval()
    cut = [
        (t, *part)
        for t, tree in enumerate(trees)
        for part in split_states(tree, STATES[name](tree), max_tokens)
    ]
    found: list[dict[int, float]] = [{} for _ in trees]  # by place among the states
    cost = layers_cost(net)
    for numbers in same_count(batches([tree for _, tree, *_ in cut], max_tokens, cost=cost), device):
        beat()
        of_batch = [cut[i] for i in numbers]
        packed = pack([tree for _, tree, *_ in of_batch] or [blank()], device, cost=cost)
        flat = [packed.state(b, *state) for b, (_, _, states, _) in enumerate(of_batch) for state in states]
        with torch.no_grad():
            logits_S = net(
                packed.ids_BT, packed.positions_BT, packed.tour_B2T,
                torch.tensor(flat, dtype=torch.long, device=device), packed.source_N, packed.target_N,
            )  # fmt: skip
        values = value_of(check_scores(logits_S, name), bounds).tolist()
        places = [(t, place) for t, _, _, at in of_batch for place in at]
        for (t, place), value in zip(places, values, strict=True):
            found[t][place] = value
    for tree, of_tree in zip(trees, found, strict=True):
        tree.scores[name] = {}
        for place, (node, _) in enumerate(STATES[name](tree)):
            tree.scores[name].setdefault(node, []).append(of_tree[place])
    net.train(was_training)


def minibatch_of(number: int, config: PolicyGradientStage) -> int:
    """The minibatch of the round's problem `number`: runs of problems, since a process has every n-th of them.

    Problems drawn in place of useless ones go on with the first minibatch.
    """
    size = -(-config.problems_per_round // config.minibatches)
    return number // size % config.minibatches


def blank() -> Tree:
    """A prompt of one token: keeps a process that has run out of trees in step with the others."""
    return Tree.of_prompt(Problem("", "", "", {}), [0])


def whiten(samples: Sequence[PolicySample], accelerator: Accelerator) -> list[PolicySample]:
    """Advantages with weighted mean 0 and deviation 1 over the round's tokens on all processes."""
    a = np.concatenate([x for s in samples for x in s.advantages.values()] or [np.zeros(0)])
    w = np.concatenate([x for s in samples for x in s.weights.values()] or [np.zeros(0)])
    mass, first, second = summed([w.sum(), (w * a).sum(), (w * a * a).sum()], accelerator)
    if mass == 0:
        return list(samples)
    mean = first / mass
    deviation = max(1e-8, (second / mass - mean * mean)) ** 0.5
    return [
        PolicySample(
            s.tree,
            {i: (x - mean) / (deviation + 1e-4) for i, x in s.advantages.items()},
            s.weights,
            s.targets,
            s.count,
        )
        for s in samples
    ]


def grouped(
    samples: Sequence[PolicySample], config: PolicyGradientStage, device, cost: int | None = None
) -> list[list[PolicySample]]:
    """Micro-batches of one minibatch; every process makes the same number, empty ones at the end.

    A tree larger than `tokens_per_batch` is split over several, but for gspo, whose ratios are of all that shares a token.
    """
    if config.loss != "gspo":
        samples = [part for s in samples for part in split(s, config.tokens_per_batch)]
    return [
        [samples[i] for i in numbers]
        for numbers in same_count(
            batches([s.tree for s in samples], config.tokens_per_batch, cost=cost), device
        )
    ]


def prepare(
    samples: list[PolicySample], models: Models, config: PolicyGradientStage, device, is_again: bool = False
) -> Batch:
    """Pack a micro-batch and take the trainer's own log-probabilities of its tokens before any update.

    Where there is one update, these are what it computes anyway, and are not computed twice. Trees that are learned
    from again (`is_again`) have those that they were sampled with.
    """
    beat()
    trees = [s.tree for s in samples] or [blank()]
    packed = pack(trees, device, cost=layers_cost(models.policy))
    weights_N = packed.flat([s.weights for s in samples] or [{}])
    sampler_N = packed.flat([{i: np.array(n.logprobs) for i, n in enumerate(t.nodes)} for t in trees])
    inputs = (packed.ids_BT, packed.positions_BT, packed.tour_B2T, packed.source_N, packed.target_N)
    with torch.no_grad():
        with_temperature = {"temperature": config.temperature}
        old_N = sampler_N if is_again else None
        if config.epochs * config.minibatches > 1 and not is_again:
            old_N = models.policy(*inputs, **with_temperature)[0]
        ref_N = models.ref(*inputs, **with_temperature)[0] if models.ref is not None else None
    targets = [(b, t) for b, s in enumerate(samples) for t in s.targets]
    total = weights_N.sum().item()
    if config.advantage.normalise == "constant":
        total = sum(s.count for s in samples) * config.max_tokens
    return Batch(
        packed=packed,
        advantages_N=packed.flat([s.advantages for s in samples] or [{}]),
        weights_N=weights_N,
        total=total,
        sampler_N=sampler_N,
        old_N=old_N,
        ref_N=ref_N,
        sequences=sequences(samples, config, device) if config.loss == "gspo" else None,
        state_S=torch.tensor(
            [packed.state(b, t.node, t.offset) for b, t in targets], dtype=torch.long, device=device
        ),
        returns_S=torch.tensor([t.value for _, t in targets], device=device),
        state_weights_S=torch.tensor([t.weight for _, t in targets], device=device),
        is_again=is_again,
    )


def sequences(samples: Sequence[PolicySample], config: PolicyGradientStage, device) -> Sequences:
    """The trained trajectories of the samples, as pairs of tokens (in the order of N) and trajectories."""
    tokens: list[int] = []
    numbers: list[int] = []
    shares: list[float] = []
    lengths: list[int] = []
    begin = 0
    for sample in samples:
        tree = sample.tree
        starts = np.cumsum([begin, *(len(n.token_ids) for n in tree.nodes[1:])])
        for leaf, weight in leaf_weights(tree).items():
            path = [(s.node, i) for s in tree.path(leaf)[1:] for i in range(s.end)]
            if not path or sample.weights[path[-1][0]][path[-1][1]] == 0:
                continue
            tokens += [int(starts[node - 1]) + i for node, i in path]
            numbers += [len(lengths)] * len(path)
            shares += [weight / len(path) if config.advantage.normalise == "sequences" else weight] * len(
                path
            )
            lengths.append(len(path))
        begin = int(starts[-1])
    token_P = torch.tensor(tokens, dtype=torch.long, device=device)
    share_P = torch.tensor(shares, dtype=torch.float32, device=device)
    mass_N = torch.zeros(begin, device=device).index_add(0, token_P, share_P)
    return Sequences(
        token_P,
        torch.tensor(numbers, dtype=torch.long, device=device),
        share_P / mass_N[token_P],
        torch.tensor(lengths, dtype=torch.float32, device=device),
    )


def verified_chains(
    problems: Sequence[Problem], trees: Sequence[Tree], prompting: Prompting
) -> list[SFTExample]:
    """The first chain from the prompt that was verified, of each problem that has one (Oh et al. 2018, self-imitation)."""
    found = []
    for problem, tree in zip(problems, trees, strict=True):
        right = [
            i for i in tree.children(ROOT)
            if i in tree.verdicts and tree.verdicts[i].status == "correct" and not tree.given
        ]  # fmt: skip
        if right:
            ids = list(tree.nodes[right[0]].token_ids)
            found.append(
                SFTExample(problem.id, problem.prompt, prompting.decode(ids), list(tree.nodes[ROOT].token_ids), ids,
                           problem.source, problem.licence)
            )  # fmt: skip
    return found
