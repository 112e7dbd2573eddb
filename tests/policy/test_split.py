"""A tree that is larger than a batch is cut into parts which train as the whole does."""

import copy
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_models import CORRECT, WRONG, branching_tree, make_tree, small_lm

from reasoner.losses import step_bce
from reasoner.policy.heads import PolicyNet, ScoreNet
from reasoner.policy.labelled import Labelled
from reasoner.policy.packing import num_tokens
from reasoner.policy.split import parts, split, split_labelled
from reasoner.signals.advantages import ADVANTAGES
from reasoner.trainers.policy_batch import Models, grouped, prepare, score_states, step_states
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_update import update_once
from reasoner.trainers.reward_model import read, score
from reasoner.tree import ROOT, Tree

CPU = Accelerator(cpu=True)


def grown(seed: int, num_nodes: int = 14) -> Tree:
    """A tree whose nodes hang anywhere, with judged leaves."""
    rng = random.Random(seed)
    nodes, sizes = [], [3]
    for _ in range(num_nodes):
        parent = rng.randrange(len(sizes))
        size = rng.randint(1, 6)
        ends = sorted({rng.randrange(size), size - 1})
        nodes.append(
            (parent, rng.randint(1, sizes[parent]), [rng.randrange(1, 40) for _ in range(size)], ends)
        )
        sizes.append(size)
    tree = make_tree([1, 2, 3], *nodes, name=f"p{seed}")
    for i, leaf in enumerate(tree.leaves()):
        tree.verdicts[leaf] = (CORRECT, WRONG, WRONG)[i % 3]
    for i, node in enumerate(tree.nodes[1:], start=1):
        for name in ("logprobs", "logprobs_full"):  # made up
            object.__setattr__(tree.nodes[i], name, (-2.0,) * len(node.token_ids))
    return tree


def test_parts_of_a_tree_by_hand():
    tree = (
        branching_tree()
    )  # node 1 has 6 tokens; 3 leaves it after 4 of them, 4 after 3; 5 follows 3, and 6 follows 4
    sizes = [len(node.token_ids) for node in tree.nodes]
    assert parts(tree, 10_000) == [dict(enumerate(sizes))]
    alone = parts(tree, 1)
    leaves = [1 + i for i in range(6) if not tree.children(1 + i)]
    assert [max(part) for part in alone] == sorted(leaves, key=lambda i: [s.node for s in tree.path(i)])
    (whole, *_) = [part for part in alone if 1 in part]
    assert whole[1] == sizes[1]  # the first part that holds it has all of it, the other just what is needed
    assert [part[1] for part in alone if 1 in part][1:] == [tree.nodes[4].offset]
    for room in (12, 16):
        for part in parts(tree, room):
            assert next(iter(part)) == ROOT and all(tree.nodes[i].parent in part for i in part if i)
            assert sum(part.values()) <= room


@pytest.mark.parametrize("seed", range(4))
def test_every_token_carries_its_loss_once(seed):
    tree = grown(seed)
    method = ADVANTAGES["rloo"]
    whole = method(tree, PolicyGradientStage().advantage)
    found = split(whole, 20)
    assert len(found) > 2 and sum(s.count for s in found) == 1
    assert sum(w.sum() for s in found for w in s.weights.values()) == pytest.approx(
        sum(w.sum() for w in whole.weights.values())
    )
    said = [
        (tuple(s.tree.token_ids(i)), a, w)  # of a node that carries loss all of it is there
        for s in [whole, *found]
        for i in range(1, len(s.tree.nodes))
        for a, w in [(s.advantages[i].tolist(), s.weights[i].tolist())]
        if any(w)
    ]
    ours = said[: sum(any(w) for w in whole.weights.values())]
    assert sorted(ours) == sorted(said[len(ours) :])
    assert split(whole, num_tokens(tree)) == [whole]


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
def test_an_update_of_the_parts_is_that_of_the_whole(normalise):
    """Policy and critic, two trees, of which both are cut; with a reference's KL and log-probabilities from before."""
    start, critic, reference = small_lm("qwen2"), small_lm("qwen2"), small_lm("qwen2")
    torch.manual_seed(3)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.02 * torch.randn_like(p))

    def updated(tokens_per_batch: int) -> tuple[list[torch.Tensor], int, dict]:
        lm = copy.deepcopy(start)
        config = PolicyGradientStage.model_validate({
            "advantage": {"method": "step_ppo", "normalise": normalise}, "tokens_per_batch": tokens_per_batch,
            "kl_weight": 0.1, "sampler_limit": 1e3,
        })  # fmt: skip
        models = Models(lm, PolicyNet(lm), ScoreNet(copy.deepcopy(critic)), PolicyNet(reference), None)
        nets = [models.policy, models.critic]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
        trees = [grown(seed) for seed in (5, 6)]
        score_states(models.critic, trees, "value", 4096)
        samples = [ADVANTAGES["step_ppo"](tree, config.advantage) for tree in trees]
        groups = grouped(samples, config, "cpu")
        assert all(sum(num_tokens(s.tree) for s in group) <= tokens_per_batch for group in groups)
        stats, _ = update_once(
            [prepare(group, models, config, "cpu") for group in groups], [], models, optimizers, config, CPU
        )
        return [p.detach() for net in nets for p in net.parameters()], len(groups), stats

    longest = max(sum(part.values()) for tree in map(grown, (5, 6)) for part in parts(tree, 1))
    whole, num_whole, said = updated(4096)
    cut, num_cut, said_too = updated(longest)
    assert num_whole == 1 and num_cut > 3
    assert any(not torch.equal(a, b) for a, b in zip(whole, [*start.parameters()], strict=False))
    for a, b in zip(whole, cut, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert said_too["loss"] == pytest.approx(said["loss"], abs=1e-5)


def test_gspo_keeps_its_trees_whole():
    config = PolicyGradientStage.model_validate(
        {"loss": "gspo", "tokens_per_batch": 16, "advantage": {"method": "grpo"}}
    )
    sample = ADVANTAGES["grpo"](grown(1), config.advantage)
    assert [len(group) for group in grouped([sample], config, "cpu")] == [1]
    assert np.isfinite(sum(w.sum() for w in sample.weights.values()))


def test_a_reward_model_learns_and_scores_the_parts_as_the_whole():
    torch.manual_seed(0)
    net = ScoreNet(small_lm("qwen2"))
    torch.nn.init.normal_(net.head.weight, std=0.1)
    tree = grown(7)
    states = step_states(tree)
    data = Labelled(tree, states, [(i % 5) / 4 for i in range(len(states))], list(states), 3, {1, 4}, 0.5)
    room = max(sum(part.values()) for part in parts(tree, 1))
    cut = split_labelled(data, room)
    assert len(cut) > 2 and all(num_tokens(d.tree) <= room for d in cut)
    assert [sum(len(d.labels) for d in cut), sum(d.num_solutions for d in cut), sum(len(d.ends) for d in cut)] == [
        len(states), 3, 2,
    ]  # fmt: skip

    def gradient(of: list[Labelled]) -> list[torch.Tensor]:
        net.zero_grad()
        for d in of:
            weights = torch.tensor([d.weight(i) for i in range(len(d.labels))])
            (step_bce(read(net, [d], "cpu"), torch.tensor(d.labels)) * weights).sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    for a, b in zip(gradient([data]), gradient(cut), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    whole, in_parts = (sorted(zip(*score(net, [data], most, "cpu"), strict=True)) for most in (4096, room))
    assert [x[1:] for x in whole] == [x[1:] for x in in_parts]
    assert [x[0] for x in whole] == pytest.approx([x[0] for x in in_parts], abs=1e-5)
    other = grown(7)
    score_states(net, [tree], "prm", 4096)
    score_states(net, [other], "prm", room)
    assert tree.scores["prm"].keys() == other.scores["prm"].keys()
    for node, of_node in tree.scores["prm"].items():
        assert other.scores["prm"][node] == pytest.approx(of_node, abs=1e-5)
    assert len({round(x, 3) for of_node in tree.scores["prm"].values() for x in of_node}) > 5
