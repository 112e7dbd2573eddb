"""Reward-model training: a merged tree gives the loss and gradients of its solutions one by one."""

import math
import random

import pytest
import torch
from safetensors.torch import load_file
from small_models import make_tree, save_small_qwen, small_lm

from reasoner.ledger import Ledger
from reasoner.losses import step_bce
from reasoner.policy.adapters import LoRA
from reasoner.policy.heads import HEADS, LabelTokens, Likelihood, ScoreNet
from reasoner.policy.labelled import Labelled, from_steps
from reasoner.policy.models import load_tokenizer
from reasoner.records import StepLabels
from reasoner.registry import UserError
from reasoner.trainers import reward_model
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.reward_loss import LOSSES, Term, mass, sibling_pairs, weighted_sum
from reasoner.trainers.reward_model import (
    RewardModelStage,
    label_ids,
    quality,
    read,
    score,
    shuffled,
    split,
    train_reward_model,
)


def net_of(kind: str) -> ScoreNet:
    net = ScoreNet(small_lm(kind))
    assert isinstance(net.head, torch.nn.Linear)
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
    merged = weighted_sum(LOSSES["bce"], read(net, trees, "cpu"), trees)
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
    assert sum(together[1]) == pytest.approx(sum(apart[1]))
    assert sum(together[1]) == pytest.approx(sum(y for d in trees for y in d.labels))
    assert sum(together[2]) == sum(apart[2]) == sum(len(d.ends) for d in trees) > 0


def test_labels_at_the_end_weigh_what_they_are_told_to():
    """The loss of all labels is that of the inside ones and, times the weight, of those at the end; zero leaves these out."""
    net, by_weight = net_of("qwen2"), {w: from_steps(records(), 1000, w) for w in (0.0, 1.0, 3.0)}
    loss = LOSSES["bce"]
    sums = {w: weighted_sum(loss, read(net, d, "cpu"), d).item() for w, d in by_weight.items()}
    num_ends = sum(len(d.ends) for d in by_weight[1.0])
    assert 0 < num_ends < sum(len(d.labels) for d in by_weight[1.0])
    inside, at_end = sums[0.0], sums[1.0] - sums[0.0]
    assert at_end > 0 and sums[3.0] == pytest.approx(inside + 3 * at_end, rel=1e-5)
    assert mass(loss, by_weight[3.0]) - mass(loss, by_weight[0.0]) == 3 * num_ends


def test_quality_inside_and_at_the_end():
    logits, labels, at_end = [2.0, -1.0, 0.0, 1.0], [0.5, 0.25, 0.0, 1.0], [False, False, True, True]
    found = quality(logits, labels, at_end)
    assert found["auroc_end"] == 1.0
    assert found["auroc_inside"] == pytest.approx((0.5 * (0.75 + 0.25) + 0.25 * 0.375) / (0.75 * 1.25))
    good = [1 / (1 + math.exp(-x)) for x in logits]
    missed = sum((p - y) ** 2 for p, y in zip(good, labels, strict=True)) / 4
    spread = sum((y - 0.4375) ** 2 for y in labels) / 4
    assert found["brier_skill"] == pytest.approx(1 - missed / spread)
    assert quality([1.0, 2.0], [1.0, 1.0], [False, True]) == {}


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


def labelled(labels: list[float], groups: list[int], states: list[int] | None = None) -> Labelled:
    """Labelled states of which only the label, the group and the identity matter."""
    at = states or list(range(len(labels)))
    return Labelled(make_tree([1]), [(1, i) for i in at], labels, [(0, g) for g in groups], 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # logits 0, 1, -1 against labels 1, 0.25, 0: σ is 0.5, 0.7310586, 0.2689414
        ("bce", 0.6931472 + (0.3132617 + 0.75) + 0.3132617),
        ("hard_bce", 0.6931472 + 0.3132617 + 0.3132617),
        ("mse", 0.25 + 0.4810586**2 + 0.2689414**2),
        # one prefix, three pairs: margins -1, 1, 2 against targets 0.875, 1, 0.625
        ("ranking", ((0.3132617 + 0.875) + 0.3132617 + (0.1269280 + 0.75)) / 3),
    ],
)
def test_losses_by_hand(name, expected):
    data = labelled([1.0, 0.25, 0.0], [0, 0, 0])
    total = weighted_sum(LOSSES[name], torch.tensor([0.0, 1.0, -1.0]), [data])
    assert total.item() == pytest.approx(expected, abs=1e-6)
    assert mass(LOSSES[name], [data]) == (pytest.approx(1) if name == "ranking" else 3)


def test_pairs_are_of_one_prefix_and_two_states():
    data = labelled([1, 0, 1, 1, 0, 0.5], [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 4])
    # the last two labels are of one state, whose mean has nothing to be compared with
    assert sibling_pairs(data) == [Term(0, 1, 1.0, 1.0)]


def test_terms_of_several_trees_find_their_own_logits():
    pair = labelled([0, 1], [0, 0])
    logits = torch.tensor([3.0, 1.0, -2.0, 5.0], requires_grad=True)
    total = weighted_sum(LOSSES["ranking"], logits, [pair, pair])
    expected = torch.nn.functional.softplus(torch.tensor([2.0, -7.0])).sum()
    assert total.item() == pytest.approx(expected.item(), abs=1e-6)
    nothing = weighted_sum(LOSSES["ranking"], logits, [labelled([0, 0], [0, 0])])
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_two_label_tokens_are_a_softmax_over_the_two(kind):
    lm = small_lm(kind)
    trees = from_steps(records(2, 3), 1000)
    logits = read(ScoreNet(lm, LabelTokens(lm, (11, 12))), trees, "cpu")
    at = 0
    for d in trees:
        for node, offset in d.states:
            ids = torch.tensor([d.tree.token_ids(node, offset)])
            both = lm(ids).logits[0, -1, [11, 12]].softmax(-1)
            assert logits[at].sigmoid().item() == pytest.approx(both[0].item(), abs=1e-5)
            at += 1


def test_all_readings_are_saved_and_loaded(tmp_path):
    tokenizer = load_tokenizer(str(save_small_qwen(tmp_path / "base", ["+-"], 300)))
    trees = from_steps(records(2, 3), 1000)
    good_bad = label_ids(["+", "-"], tokenizer)
    assert good_bad is not None
    heads = {**HEADS, "label_tokens": lambda lm: LabelTokens(lm, good_bad)}
    for name, head in heads.items():
        lm = small_lm("qwen2")
        net = ScoreNet(lm, head(lm))
        for number in net.head.parameters():
            torch.nn.init.normal_(number)
        net.save(tokenizer, tmp_path / name)
        again = ScoreNet.load(tmp_path / name).eval()
        assert torch.allclose(read(again, trees, "cpu"), read(net, trees, "cpu"), atol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_likelihood_reads_the_least_and_the_total_log_probability_of_the_completion(kind):
    lm = small_lm(kind)
    net = ScoreNet(lm, Likelihood())
    net.head.load_state_dict({"weight": torch.tensor([[2.0, 0.25]]), "bias": torch.tensor([-1.0])})
    trees = from_steps(records(2, 3), 1000)
    logits = read(net, trees, "cpu")
    at = 0
    for d in trees:
        prompt = len(d.tree.nodes[0].token_ids)
        for node, offset in d.states:
            ids = torch.tensor(d.tree.token_ids(node, offset))
            every = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[prompt - 1 :, 0]
            expected = 2 * every.min() + every.sum() / 4 - 1
            assert logits[at].item() == pytest.approx(expected.item(), abs=1e-4)
            at += 1
    assert at > 10


@pytest.mark.parametrize("texts", [["+"], ["+", "+"], ["no such token", "-"]])
def test_label_tokens_must_be_two_tokens(tmp_path, texts):
    tokenizer = load_tokenizer(str(save_small_qwen(tmp_path, ["+-"], 300)))
    with pytest.raises(UserError, match="one token each"):
        label_ids(texts, tokenizer)


def told_by_a_token(num_problems: int) -> list[StepLabels]:
    """A step is good where its last token is 7 and bad where it is 8."""
    rng = random.Random(1)
    found = []
    for problem in range(num_problems):
        for _ in range(4):
            ids = [rng.choice([7, 8]) for _ in range(6)]
            ends = [1, 3, 5]
            labels = [float(ids[e] == 7) for e in ends]
            found.append(StepLabels(str(problem), "", [""] * 3, labels, [rng.randint(20, 60)], ids, ends))
    return found


@pytest.mark.parametrize("loss", ["bce", "mse", "ranking"])
def test_training_learns_what_tells_good_steps_from_bad(tmp_path, loss):
    base = save_small_qwen(tmp_path / "base", ["+-"], 300)
    ledger, logged = Ledger(), {}
    session = Session(tmp_path / "out", ledger, lambda metrics, step: logged.update(metrics))
    config = RewardModelStage(
        loss=loss, epochs=6, batch_size=16, holdout=0.2, optimizer=OptimizerConfig(lr=0.01)
    )
    with ledger.stage("prm"):
        train_reward_model(str(base), from_steps(told_by_a_token(30), 500), config, session, "prm")
    assert logged["prm/heldout_auroc"] > 0.95
    assert ScoreNet.load(tmp_path / "out" / "model").head.state_dict()["weight"].abs().max() > 0
    assert ledger.counts["prm"]["prm"]["trained"] > 0


@pytest.mark.parametrize("lora", [None, LoRA(r=2)])
def test_recomputed_layers_keep_less_and_learn_the_same(tmp_path, lora, monkeypatch):
    """The tensors kept for the backward pass are fewer, and the weights that come out are the same."""
    base = save_small_qwen(tmp_path / "base", ["+-"], 300)
    data = from_steps(records(), 100)
    found, kept = [], []

    def count(x: torch.Tensor) -> torch.Tensor:
        kept[-1] += x.numel()
        return x

    def counting(*given):
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            return plain(*given)

    plain = reward_model.read
    monkeypatch.setattr(reward_model, "read", counting)
    for recomputes in (False, True):
        kept.append(0)
        config = RewardModelStage(
            lora=lora, gradient_checkpointing=recomputes, holdout=0, batch_size=8, epochs=2,
            optimizer=OptimizerConfig(lr=0.01),
        )  # fmt: skip
        session = Session(tmp_path / str(recomputes))
        with session.ledger.stage("prm"):
            train_reward_model(str(base), data, config, session, "prm")
        found.append(load_file(next((tmp_path / str(recomputes) / "model").glob("*model.safetensors"))))
    assert kept[1] < 0.7 * kept[0]
    assert all((found[0][k] - found[1][k]).abs().max() < 1e-5 for k in found[0])


def test_data_that_cannot_be_learned_is_refused(tmp_path):
    session = Session(tmp_path)
    ones = from_steps([StepLabels("p", "", [""], [1.0], [1], [2], [0])], 100)
    with pytest.raises(UserError, match="one class"):
        train_reward_model("no/model", ones, RewardModelStage(), session, "prm")
    apart = [StepLabels(str(i), "", [""], [float(i)], [i + 1], [2], [0]) for i in range(2)]
    with pytest.raises(UserError, match="no two steps"):
        train_reward_model(
            "no/model", from_steps(apart, 100), RewardModelStage(loss="ranking"), session, "prm"
        )
