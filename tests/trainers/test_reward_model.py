"""Reward-model training: a merged tree gives the loss and gradients of its solutions one by one."""

import random

import pytest
import torch
from small_models import small_lm

from reasoner.losses import step_bce
from reasoner.policy.heads import ScoreNet
from reasoner.records import StepLabels
from reasoner.signals.labelled import from_steps
from reasoner.trainers.reward_model import read, score, shuffled, split


def net_of(kind: str) -> ScoreNet:
    net = ScoreNet(small_lm(kind))
    torch.nn.init.normal_(net.head.weight, std=0.5)
    return net


def records(num_problems: int = 4, num_solutions: int = 6) -> list[StepLabels]:
    """Solutions over a few tokens, so that they share prefixes; some steps without a label."""
    rng = random.Random(0)
    found = []
    for problem in range(num_problems):
        prompt = [rng.randint(1, 60) for _ in range(rng.randint(1, 4))]
        for _ in range(num_solutions):
            ids = [rng.choice([7, 8]) for _ in range(rng.randint(2, 9))]
            ends = sorted({*rng.sample(range(len(ids)), 2), len(ids) - 1})
            labels = [rng.choice([0.0, 0.3, 1.0, float("nan")]) for _ in ends[:-1]] + [1.0]
            found.append(
                StepLabels(str(problem), "", [""] * len(ends), labels, prompt, ids, ends, source="hand")
            )
    return found


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_a_tree_gives_the_loss_and_gradients_of_its_chains(kind):
    net = net_of(kind)
    chains = torch.zeros(())
    num_chain_tokens = 0
    for record in records():
        ids = torch.tensor([record.prompt_ids + record.completion_ids])
        hidden = net.lm.base_model(input_ids=ids).last_hidden_state[0]
        at = [len(record.prompt_ids) + e for e in record.step_ends]
        chains = chains + step_bce(net.head(hidden[at])[:, 0], torch.tensor(record.labels)).sum()
        num_chain_tokens += ids.numel()
    trees = from_steps(records(), 1000)
    assert sum(len(n.token_ids) for d in trees for n in d.tree.nodes) < 0.7 * num_chain_tokens
    logits, labels = read(net, trees, "cpu")
    merged = step_bce(logits, labels).sum()
    assert merged.item() == pytest.approx(chains.item(), rel=1e-5)
    parameters = [p for p in net.parameters() if p.requires_grad]
    one_by_one = torch.autograd.grad(chains, parameters, allow_unused=True)
    at_once = torch.autograd.grad(merged, parameters, allow_unused=True)
    num_compared = 0
    for flat, packed in zip(one_by_one, at_once, strict=True):
        if flat is None:
            assert packed is None
            continue
        scale = max(1.0, float(flat.abs().max()))
        assert torch.allclose(packed, flat, atol=1e-5 * scale, rtol=0)
        num_compared += float(flat.abs().max()) > 1e-4
    assert num_compared > 10


def test_scores_do_not_depend_on_how_trees_are_batched():
    net, trees = net_of("qwen2"), from_steps(records(), 1000)
    together, apart = score(net, trees, 10_000, "cpu"), score(net, trees, 1, "cpu")
    assert sorted(together[0]) == pytest.approx(sorted(apart[0]), abs=1e-5)
    assert sum(together[1]) == sum(apart[1]) == sum(y > 0.5 for d in trees for y in d.labels)


def test_batches_hold_whole_trees_and_enough_solutions():
    trees = from_steps(records(5, 3), 1000)
    order = shuffled(trees, 6, 0)
    taken = [next(order) for _ in range(5)]
    assert [sum(d.num_solutions for d in b) for b in taken] == [6] * 5
    problems = [d.tree.problem.id for b in taken for d in b]
    assert sorted(problems[:5]) == sorted(problems[5:]) == list("01234")  # each once an epoch
    again = shuffled(trees, 6, 0)
    assert [[d.tree.problem.id for d in next(again)] for _ in range(5)] == [
        [d.tree.problem.id for d in b] for b in taken
    ]


def test_a_problem_is_on_one_side_of_the_split():
    train, held = split(from_steps(records(10, 4), 12), 0.3, 0)
    sides = [{d.tree.problem.id for d in side} for side in (train, held)]
    assert len(sides[1]) == 3 and not sides[0] & sides[1]
