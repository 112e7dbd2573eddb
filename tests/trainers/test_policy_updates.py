"""Updates of policy and critic on small batches: schedules, ranges of values, temperatures, loss scales, what is used."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from small_models import CORRECT, ERROR, WRONG, make_tree, small_lm

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.policy.heads import PolicyNet, ScoreNet
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.records import PolicySample
from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.reward import RewardConfig, return_range
from reasoner.trainers.gates import check_gap, check_room, sampler_gap
from reasoner.trainers.loop import OptimizerConfig, by_share, by_steps, clip_and_step
from reasoner.trainers.policy_batch import Models, is_usable, prepare, score_states
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_update import kl_moved, update_once
from reasoner.trainers.prm_refresh import labelled
from reasoner.tree import Problem, Tree
from verifiers import Verdict


def moved(a, b) -> float:
    return max((a[k] - b[k]).abs().max().item() for k in a)


def test_equal_rewards_leave_the_weights_alone():
    """Momentum would move them: the update is not taken, and is counted."""
    lm = small_lm("qwen2")
    tree = make_tree([1, 2], (0, 2, [3, 4], [1]), (0, 2, [5], [0]), verdicts={1: CORRECT, 2: CORRECT})
    for i, node in enumerate(tree.nodes[1:], start=1):
        for name in ("logprobs", "logprobs_full"):
            object.__setattr__(tree.nodes[i], name, (-1.0,) * len(node.token_ids))
    # the sampler's numbers are made up
    config = PolicyGradientStage(advantage=AdvantageConfig(method="rloo"), sampler_limit=1e3)
    models = Models(lm, PolicyNet(lm), None, None, None)
    optimizer = torch.optim.AdamW(models.policy.parameters(), lr=0.1)
    accelerator = Accelerator(cpu=True)

    def update(verdict, nan: bool = False) -> tuple[dict, float]:
        tree.verdicts[2] = verdict
        sample = ADVANTAGES["rloo"](tree, config.advantage)
        if nan:
            sample = PolicySample(
                tree, {i: a * math.nan for i, a in sample.advantages.items()}, sample.weights, []
            )
        before = copy.deepcopy(lm.state_dict())
        batch = prepare([sample], models, config, "cpu")
        stats, _ = update_once([batch], [], models, [optimizer], config, accelerator)
        return stats, moved(lm.state_dict(), before)

    stats, distance = update(WRONG)
    assert distance > 0 and not stats.get("skipped") and not stats.get("empty")
    for verdict in (CORRECT, ERROR):
        assert update(verdict) == ({"empty": 1}, 0.0)
    stats, distance = update(WRONG, nan=True)
    assert stats["skipped"] == 1 and distance == 0


def updates(reward: RewardConfig, count: int):
    """A critic after `count` updates on one right and one wrong chain whose PRM scores are low, and the chains."""
    lm = small_lm("qwen2")
    tree = make_tree([1, 2], (0, 2, [3, 4], [1]), (0, 2, [5, 6], [1]), verdicts={1: CORRECT, 2: WRONG})
    for i, node in enumerate(tree.nodes[1:], start=1):
        for name in ("logprobs", "logprobs_full"):
            object.__setattr__(tree.nodes[i], name, (-1.0,) * len(node.token_ids))
    tree.scores["prm"] = {0: [0.5], 1: [0.9], 2: [0.1]}
    advantage = AdvantageConfig(method="ppo", lam=1.0, reward=reward)
    config = PolicyGradientStage(advantage=advantage, sampler_limit=1e3)
    models = Models(lm, PolicyNet(lm), ScoreNet(copy.deepcopy(lm)), None, None)
    optimizers = [
        torch.optim.SGD(models.policy.parameters(), lr=0.0), torch.optim.Adam(models.critic.parameters(), lr=0.01),
    ]  # fmt: skip
    bounds, accelerator = return_range(reward), Accelerator(cpu=True)
    for _ in range(count):
        score_states(models.critic, [tree], "token_value", 64, bounds)
        sample = ADVANTAGES["ppo"](tree, advantage)
        batch = prepare([sample], models, config, "cpu")
        update_once([batch], [], models, optimizers, config, accelerator)
    score_states(models.critic, [tree], "token_value", 64, bounds)
    return tree, sample


@pytest.mark.parametrize(
    ("reward", "right", "wrong"),
    [
        # the min form of one step: score - 1
        (RewardConfig(outcome_weight=2.0, prm_weight=1.0), 2 - 0.1, -0.9),
        (RewardConfig(outcome_weight=2.0, format_weight=0.5), 2.0, 0.0),
        # a sum has no bounds, and the head is linear
        (RewardConfig(outcome_weight=1.0, prm_weight=3.0, prm_form="sum"), 1 + 2.7, 0.3),
    ],
)
def test_the_critic_can_say_what_the_reward_pays(reward, right, wrong):
    tree, sample = updates(reward, 150)
    assert {(t.node, t.offset): t.value for t in sample.targets}[1, 1] == pytest.approx(right)
    values = tree.scores["token_value"]
    # after the first token of each chain the return is certain, before it the mean of the two
    assert [values[1][0], values[2][0]] == pytest.approx([right, wrong], abs=0.08)
    assert values[0][0] == pytest.approx((right + wrong) / 2, abs=0.08)


def test_ranges_of_returns():
    assert return_range(RewardConfig()) == (0, 1)  # a probability, as a PRM gives it
    assert return_range(RewardConfig(outcome_weight=1.5, prm_weight=0.2)) == pytest.approx((-0.2, 1.5))
    assert return_range(RewardConfig(prm_weight=0.5, prm_form="progress")) == pytest.approx((-0.5, 1.5))
    assert return_range(RewardConfig(orm_weight=0.4, length_weight=0.1)) == pytest.approx((-0.3, 1.2))
    assert return_range(RewardConfig(prm_weight=1, prm_form="sum")) is None
    assert return_range(RewardConfig(prm_weight=1, prm_form="small_verifiers:has")) is None


def test_rates_of_a_schedule():
    net = torch.nn.Linear(1, 1)

    def rates(make, count: int) -> list[float]:
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        schedule, found = make(optimizer), []
        for _ in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    config = OptimizerConfig(schedule="linear", warmup=0.5, floor=0.1)
    assert rates(lambda o: by_steps(o, config, 4), 4) == pytest.approx([0.5, 1.0, 0.55, 0.1])
    assert rates(lambda o: by_steps(o, config, 1), 1) == pytest.approx([0.1])
    spent = iter([0.0, 0.25, 0.75])
    assert rates(lambda o: by_share(o, config, lambda: next(spent)), 2) == pytest.approx([0.02, 0.5])


def test_what_is_trained_is_the_policy_at_its_temperature():
    """Weights between trainer and sampler are 1, and log-probabilities those that sampled."""
    lm = small_lm("qwen2")
    engine = LocalEngine(lm, [0], 4, 32)
    trees = [Tree.of_prompt(Problem(f"p{i}", "", "math", {}), [1, 2, i + 3]) for i in range(4)]
    growth = Growth(lambda ids, *_: [len(ids) - 1], 8, Sampling(1.7))
    grow(trees, engine, fan(3), growth)
    for tree in trees:
        tree.verdicts.update({1: CORRECT, 2: WRONG, 3: WRONG})
    config = PolicyGradientStage(
        advantage=AdvantageConfig(method="rloo"), temperature=1.7, sampler_limit=1e-6, minibatches=1
    )
    models = Models(lm, PolicyNet(lm), None, PolicyNet(copy.deepcopy(lm)), None)
    batch = prepare([ADVANTAGES["rloo"](t, config.advantage) for t in trees], models, config, "cpu")
    full = torch.tensor([x for t in trees for n in t.nodes[1:] for x in n.logprobs_full])
    assert (full - batch.sampler_N).abs().max() > 0.1
    assert (batch.ref_N - batch.sampler_N).abs().max() < 1e-4
    stats, gaps = update_once(
        [batch], [], models, [torch.optim.SGD(lm.parameters(), lr=0.1)], config, Accelerator(cpu=True)
    )
    assert torch.cat(gaps).abs().max() < 1e-4 and stats["stepped"]


def test_the_kl_of_a_round_is_that_of_its_updates():
    """Also with one update: against what sampled, and by hand over the whole batch."""
    lm = small_lm("qwen2")
    engine = LocalEngine(lm, [0], 4, 32)
    trees = [Tree.of_prompt(Problem(f"p{i}", "", "math", {}), [1, 2, i + 3]) for i in range(4)]
    grow(trees, engine, fan(3), Growth(lambda ids, *_: [len(ids) - 1], 8))
    for tree in trees:
        tree.verdicts.update({1: CORRECT, 2: WRONG, 3: WRONG})
    config = PolicyGradientStage(advantage=AdvantageConfig(method="rloo"), minibatches=1)
    models = Models(lm, PolicyNet(lm), None, None, None)
    batch = prepare([ADVANTAGES["rloo"](t, config.advantage) for t in trees], models, config, "cpu")
    accelerator = Accelerator(cpu=True)
    assert kl_moved([[], [batch]], models, config, accelerator) == pytest.approx(0, abs=1e-6)
    update_once([batch], [], models, [torch.optim.SGD(lm.parameters(), lr=1.0)], config, accelerator)
    found = kl_moved([[], [batch]], models, config, accelerator)
    k3, mass = 0.0, 0.0
    for tree in trees:
        for node in tree.nodes[1:]:
            ids = [*tree.nodes[0].token_ids, *node.token_ids]
            now = torch.tensor(sequence_logprobs(lm, [ids])[0][2:])
            delta = now - torch.tensor(node.logprobs)
            k3 += float((delta.exp() - 1 - delta).sum()) / 3
            mass += len(node.token_ids) / 3
    assert found == pytest.approx(k3 / mass, rel=1e-3) and found > 1e-3
    assert kl_moved([[]], models, config, accelerator) == 0


def float16(monkeypatch, scale: float) -> Accelerator:
    """An accelerator that scales its loss as in float16; the scaler is torch's own, on the CPU."""
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return accelerator


def test_a_loss_scale_that_is_too_large_comes_down(monkeypatch):
    """The first steps of both networks overflow and are not taken; the scale is halved until they are."""
    plain = Accelerator(cpu=True)

    def run(accelerator, count: int) -> tuple[list, list[torch.Tensor]]:
        torch.manual_seed(0)
        nets = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
        optimizers = [accelerator.prepare(torch.optim.SGD(net.parameters(), lr=0.1)) for net in nets]
        took = []
        for _ in range(count):
            for net in nets:
                accelerator.backward(net(torch.tensor([[3.0, 4.0]])).sum())
            took.append(
                [took for _, took in clip_and_step(nets, optimizers, [1.0, 2.0], [True, True], accelerator)]
            )
        return took, [p.detach().clone() for net in nets for p in net.parameters()]

    scaled = float16(monkeypatch, 2.0**127)  # times 4 is past the largest float32
    took, weights = run(scaled, 6)
    assert took == [[False, False]] * 2 + [[True, True]] * 4
    assert scaled.scaler.get_scale() == 2.0**125
    monkeypatch.undo()
    _, expected = run(plain, 4)
    for a, b in zip(weights, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_sampler_gap():
    # ratios 1, 2 and 1/2: k3 is 0, 1 - log 2 and log 2 - 1/2
    gap = sampler_gap([torch.tensor([0.0, math.log(2)]), torch.tensor([-math.log(2)])], Accelerator(cpu=True))
    assert gap.mean_k3 == pytest.approx(0.5 / 3)
    assert gap.p999 == pytest.approx(math.log(2), rel=1e-6)
    assert gap.effective == pytest.approx(3.5**2 / (3 * 5.25))
    check_gap(gap, 0.2)
    for value, limit in ((gap, 0.1), (gap._replace(mean_k3=math.nan), 0.1)):
        with pytest.raises(UserError, match="sampler and trainer disagree"):
            check_gap(value, limit)


def test_room():
    config = small_lm("qwen2").config  # 256 positions
    check_room(config, 256)
    with pytest.raises(UserError, match="256 positions"):
        check_room(config, 257)


def test_which_trees_are_used():
    tree = make_tree([1], *[(0, 1, [5], [0])] * 4, verdicts={1: CORRECT, 2: WRONG, 3: WRONG, 4: WRONG})
    assert is_usable(tree, PolicyGradientStage())
    assert is_usable(tree, PolicyGradientStage(keep_between=(0.2, 0.8)))
    assert not is_usable(tree, PolicyGradientStage(keep_between=(0.3, 0.8)))
    tree.verdicts = dict.fromkeys(range(1, 5), WRONG)
    assert not is_usable(tree, PolicyGradientStage())
    assert is_usable(tree, PolicyGradientStage(drop_uniform=False))
    paid = PolicyGradientStage.model_validate({"advantage": {"reward": {"partial_weight": 0.5}}})
    assert not is_usable(tree, paid)  # wrong alike
    tree.verdicts[2] = Verdict("incorrect", "wrong", 0.5)
    assert is_usable(tree, paid) and not is_usable(tree, PolicyGradientStage())
    tree.verdicts = dict.fromkeys(range(1, 5), ERROR)
    assert not is_usable(tree, PolicyGradientStage(drop_uniform=False))


def test_labels_of_the_policys_own_trees():
    tree = make_tree(
        [1], (0, 1, [5, 6, 7], [0, 1, 2]), (1, 1, [8], [0]), (1, 1, [9], [0]), (0, 1, [4], [0]),
        verdicts={1: CORRECT, 2: CORRECT, 3: WRONG, 4: ERROR},
    )  # fmt: skip
    found = labelled(tree)
    assert found is not None
    # the ends of 2 and 3, which were drawn inside 1, are counted where they were drawn from
    assert dict(zip(found.states, found.labels, strict=True)) == {(1, 1): 0.5, (1, 3): 1}
