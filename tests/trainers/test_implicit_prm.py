"""Implicit process rewards: closed forms of a table of bigrams, what is learned from verdicts alone, advantages by hand."""

import math
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree, save_small_qwen, small_lm

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.economics.policy_memory import EngineMemory, policy_memory
from reasoner.ledger import Ledger
from reasoner.losses import step_bce
from reasoner.policy.adapters import LoRA, as_it_starts, load_for_head, load_merged
from reasoner.policy.heads import HEADS, Implicit, ScoreNet
from reasoner.policy.labelled import from_outcomes
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.policy.models import load_tokenizer
from reasoner.records import OutcomeLabel
from reasoner.scoring.prm import score_steps
from reasoner.scoring.reward_models import load_reward_model
from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.group import rloo
from reasoner.signals.implicit import token_rewards, with_implicit_rewards
from reasoner.trainers.loop import Session, make_optimizer
from reasoner.trainers.policy_batch import score_states
from reasoner.trainers.policy_config import ImplicitPRM, PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy
from reasoner.trainers.prm_refresh import by_verdict, refresh
from reasoner.trainers.reward_model import RewardModelStage, read, train_reward_model
from reasoner.tree import ROOT, Problem, Tree

CPU = Accelerator(cpu=True)
WIDTH = 32  # of small_lm


def bigrams(table: dict[int, list[float]], width: int = WIDTH):
    """A model whose next token hangs on the last one alone, with these probabilities; uniform after other tokens."""
    lm = small_lm("qwen2", vocab_size=4)
    with torch.no_grad():
        for p in lm.base_model.layers.parameters():
            p.zero_()
        lm.base_model.embed_tokens.weight.copy_(torch.eye(4, width))
        lm.lm_head.weight.zero_()
        for token, chances in table.items():
            # the last norm makes the one-hot vector as long as the root of the width
            lm.lm_head.weight[:, token] = torch.tensor(chances).log() / math.sqrt(width)
    return lm


def chain(*tokens: int, verdict=CORRECT) -> Tree:
    return make_tree([1], (0, 1, list(tokens), [len(tokens) - 1]), verdicts={1: verdict})


def log_ratios(net: ScoreNet, ids: list[int]) -> list[float]:
    """Of each token but the first, by a plain pass of both models."""
    now, then = (sequence_logprobs(lm, [ids])[0] for lm in (net.lm, net.head.reference))
    return [a - b for a, b in zip(now, then, strict=True)]


def test_rewards_and_gradient_of_a_table_of_bigrams():
    head = Implicit(bigrams({}))
    net = ScoreNet(bigrams({1: [1 / 8, 1 / 8, 1 / 2, 1 / 4], 2: [1 / 16, 1 / 16, 1 / 8, 3 / 4]}), head)
    tree = chain(2, 3)
    score_states(net, [tree], "implicit", 100, None)
    # beta 0.05; both models know 1 -> 2 (1/2 against 1/4) and 2 -> 3 (3/4 against 1/4)
    assert tree.scores["implicit"][ROOT] == [0.0]
    assert token_rewards(tree, 1) == pytest.approx([0.05 * math.log(2), 0.05 * math.log(3)], abs=1e-5)
    data = by_verdict(tree)
    assert data is not None and (data.states, data.labels) == ([(1, 2)], [1.0])
    step_bce(read(net, [data], "cpu"), torch.tensor(data.labels)).sum().backward()
    # d/dz of the cross-entropy is sigmoid(z) - 1 with z = 0.05 log 6, and of z by the logits 0.05 · (one-hot - p)
    pull = 0.05 * (6**0.05 / (1 + 6**0.05) - 1) * math.sqrt(WIDTH)
    of_logits = {1: [-1 / 8, -1 / 8, 1 / 2, -1 / 4], 2: [-1 / 16, -1 / 16, -1 / 8, 1 / 4]}
    gradient = net.lm.lm_head.weight.grad
    for token, direction in of_logits.items():
        assert gradient[:, token].tolist() == pytest.approx([pull * d for d in direction], abs=1e-5)
    assert gradient[:, [0, 3]].abs().max() == 0
    assert all(p.grad is None for p in head.reference.parameters())


def test_rewards_add_up_to_the_log_ratio_on_every_path_of_a_tree():
    net = ScoreNet(small_lm("qwen2", seed=1), Implicit(small_lm("qwen2"), beta=0.3))
    tree = branching_tree()
    score_states(net, [tree], "implicit", 100, None)
    seen = set()
    for leaf in tree.leaves():
        expected = log_ratios(net, tree.token_ids(leaf))[2:]  # without those of the prompt's own three tokens
        assert token_rewards(tree, leaf) == pytest.approx([0.3 * x for x in expected], abs=1e-4)
        seen.add(round(sum(expected), 3))
    assert len(seen) == len(tree.leaves()) == 5


def test_what_is_learned_of_a_tree_is_its_verdicts():
    tree = branching_tree()
    data = by_verdict(tree)
    assert data is not None and data.states == [(1, 6), (2, 3), (4, 3), (6, 2)]  # node 5 is an error of ours
    assert data.labels == [1.0, 0.0, 1.0, 0.0]
    tree.given = 1
    assert by_verdict(tree) is None and by_verdict(chain(2, verdict=ERROR)) is None


def test_verdicts_alone_teach_which_token_is_to_blame():
    """Chains are right unless they hold token 5: it gets the least reward of all, in chains that were not learned from."""
    rng = random.Random(0)

    def drawn(count: int) -> list[Tree]:
        rows = [[rng.randrange(1, 10) for _ in range(5)] for _ in range(count)]
        return [
            make_tree([1], (0, 1, ids, [4]), verdicts={1: WRONG if 5 in ids else CORRECT}) for ids in rows
        ]

    lm = small_lm("qwen2", vocab_size=12)
    net = ScoreNet(lm, Implicit(as_it_starts(lm), beta=0.5))
    config = validate(ImplicitPRM, {"optimizer": {"lr": 3e-3}}, "test")
    optimizer = make_optimizer(net, config.optimizer)
    session = Session(None, Ledger(), lambda *_: None)  # pyright: ignore[reportArgumentType]
    with session.ledger.stage("ppo"):
        losses = [
            refresh(net, optimizer, drawn(32), config, 4096, session, CPU, by_verdict, "implicit_prm")
            for _ in range(60)
        ]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and sum(losses[-5:]) / 5 < 0.45
    held = drawn(60)
    score_states(net, held, "implicit", 4096, None)
    sums = {status: [] for status in ("correct", "incorrect")}
    blamed = 0
    for tree in held:
        rewards = token_rewards(tree, 1)
        status = tree.verdicts[1].status
        sums[status].append(rewards.sum())
        blamed += status == "incorrect" and tree.nodes[1].token_ids[int(rewards.argmin())] == 5
    assert np.mean(sums["correct"]) > np.mean(sums["incorrect"]) + 1
    assert blamed > 0.8 * len(sums["incorrect"]) > 10
    assert session.ledger.total("trained") == 60 * 32 * 6


def test_advantages_of_three_chains_by_hand():
    tree = make_tree(
        [1], (0, 1, [5, 6], [1]), (0, 1, [7], [0]), (0, 1, [8, 9], [1]), (0, 1, [4], [0]),
        verdicts={1: CORRECT, 2: WRONG, 3: WRONG, 4: ERROR},
    )  # fmt: skip
    tree.scores["implicit"] = {ROOT: [0.0], 1: [0.5, 0.4], 2: [-0.2], 3: [0.1, 0.6], 4: [9.0]}
    config = AdvantageConfig(method="rloo")
    found = with_implicit_rewards(rloo(tree, config), 2.0, config)
    # rewards .5 -.1 | -.2 | .1 .5, means .2, -.2, .3: the others' are .05, .25 and 0; outcomes 1, -.5 and -.5
    assert found.advantages[1].tolist() == pytest.approx([1 + 2 * 0.3, 1 - 2 * 0.15])
    assert found.advantages[2].tolist() == pytest.approx([-0.5 - 2 * 0.45])
    assert found.advantages[3].tolist() == pytest.approx([-0.5 + 2 * 0.6, -0.5 + 2 * 0.5])
    assert found.weights[4].sum() == 0
    alone = make_tree([1], (0, 1, [5, 6], [1]), verdicts={1: CORRECT})
    alone.scores["implicit"] = {ROOT: [0.0], 1: [0.5, 0.4]}
    assert with_implicit_rewards(rloo(alone, config), 2.0, config).advantages[1].tolist() == [0.0, 0.0]


def test_one_draw_and_cut_weights_are_refused():
    for key, value in (("shard", {}), ("tree", {"num_roots": 1, "num_points": 0})):
        options = {"implicit_prm": {}, "drop_uniform": False, key: value}
        with pytest.raises(ConfigError, match="got implicit_prm with"):
            validate(PolicyGradientStage, options, "test")
    with pytest.raises(ConfigError, match="got reads: implicit with shard"):
        validate(RewardModelStage, {"reads": "implicit", "shard": {}}, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = ["one and two are three\n", "three and four are seven\n"] * 20
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", texts, vocab_size=280)


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["whole", "lora"])
def test_the_rewards_move_the_policy_and_the_model_scores_steps_afterwards(folder, tmp_path, lora):
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    problems = [Problem(f"p{i}", f"number {i}", "small_verifiers:has", {"text": "e"}) for i in range(6)]
    options = {
        "rounds": 2, "problems_per_round": 4, "max_tokens": 6, "minibatches": 1, "lora": lora,
        "tree": {"num_roots": 4, "num_points": 0}, "optimizer": {"lr": 0.01, "warmup": 0.0},
        "advantage": {"method": "rloo"},
    }  # fmt: skip

    def trained(out, more: dict) -> dict:
        session = Session(out, Ledger(), lambda *_: None)
        with session.ledger.stage("ppo"):
            config = validate(PolicyGradientStage, options | more, "test")
            train_policy(str(folder), prompting, problems, config, session)
        counts = session.ledger.to_dict()["counts"]["ppo"]
        assert ("implicit_prm" in counts) == bool(more)
        if more:
            assert counts["implicit_prm"]["scored"] > counts["implicit_prm"]["trained"] > 0
        return load_merged(str(out / "model")).state_dict()

    plain = trained(tmp_path / "plain", {})
    with_rewards = trained(tmp_path / "prime", {"implicit_prm": {"beta": 1.0, "optimizer": {"lr": 0.01}}})
    assert max((plain[k] - with_rewards[k]).abs().max().item() for k in plain) > 1e-4
    net = load_reward_model(str(tmp_path / "prime" / "implicit_prm"))
    assert isinstance(net, ScoreNet) and isinstance(net.head, Implicit)
    assert net.head.beta.item() == 1.0
    then, start = net.head.reference.state_dict(), load_merged(str(folder)).state_dict()
    assert all(torch.allclose(then[k], start[k], atol=1e-6) for k in start)
    tree = branching_tree()
    score_steps(net, [tree], "prm")
    for leaf in tree.leaves():
        sums = np.cumsum(log_ratios(net, tree.token_ids(leaf))[2:])
        ends = [len(tree.completion_ids(e.node, e.index + 1)) for e in tree.step_ends(leaf)]
        expected = [1 / (1 + math.exp(-sums[e - 1])) for e in ends]
        assert tree.path_scores("prm", leaf) == pytest.approx(expected, abs=1e-4)
        assert max(abs(p - 0.5) for p in expected) > 1e-3


@pytest.mark.parametrize("lora", [None, LoRA(r=4, alpha=8)], ids=["whole", "lora"])
def test_an_outcome_model_may_read_implicit_rewards(folder, tmp_path, lora):
    rng = random.Random(0)
    rows = [[rng.randrange(3, 9) for _ in range(4)] for _ in range(48)]
    records = [OutcomeLabel(f"p{i // 4}", "", "", 5 not in ids, [1, 2], ids) for i, ids in enumerate(rows)]
    options = {"reads": "implicit", "batch_size": 8, "optimizer": {"lr": 0.005}, "lora": lora}
    config = RewardModelStage.model_validate(options)
    session = Session(tmp_path, Ledger(), lambda *_: None)
    with session.ledger.stage("orm"):
        train_reward_model(str(folder), from_outcomes(records, 1000), config, session, "orm")
    net = load_reward_model(str(tmp_path / "model"))
    assert isinstance(net, ScoreNet) and isinstance(net.head, Implicit)
    assert net.head.beta.item() == pytest.approx(0.05)
    ids = [1, 2, *rows[0]]
    assert max(map(abs, log_ratios(net, ids)[1:])) > 1e-3
    fresh = load_for_head(str(folder), lora)
    assert log_ratios(ScoreNet(fresh, HEADS["implicit"](fresh)), ids) == pytest.approx([0.0] * 5, abs=1e-6)


def test_the_plan_knows_the_model_and_its_reference():
    config = small_lm("qwen2").config
    engine = EngineMemory(0.0, 0.0, 0.0, 0.0)
    plain, more = (
        policy_memory(config, 64, 64, engine, critic=False, frozen_models=frozen, implicit=bool(frozen))
        for frozen in ([], ["ref"])
    )
    size = 4 * sum(p.numel() for p in small_lm("qwen2").parameters())
    assert more.weights - plain.weights == pytest.approx(2 * size)
    assert more.optimizer - plain.optimizer == pytest.approx(2 * size)
    assert more.gradients == plain.gradients
