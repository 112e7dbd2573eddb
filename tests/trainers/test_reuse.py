"""Trees that are learned from again, rollouts from inside a solution, screened trees: by hand, and in the loop."""

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_models import CORRECT, ERROR, WRONG, make_tree, save_small_qwen, small_lm

from reasoner.config import ConfigError, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.data.steps import StepConfig
from reasoner.engine.local import LocalEngine
from reasoner.policy.heads import PolicyNet
from reasoner.policy.logprobs import sequence_logprobs
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.policy.packing import pack
from reasoner.records import PolicySample, SFTExample
from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.signals.advantages import ADVANTAGES
from reasoner.trainers.policy_batch import Models, blank, prepare
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Position, draw, plain_of, position_of
from reasoner.trainers.policy_update import still_effective, update_once
from reasoner.trainers.replay import Kept, Replay, chosen, effective, kept, young
from reasoner.trainers.starts import Inside, Starts, adapt, add, chain_of, own_chain, shown_chains, take
from reasoner.tree import ROOT, Problem, Tree
from tests.trainers.test_policy_gradient import TEXTS, moved, problems, train

ONE = Accelerator(cpu=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)


def sampled(lm, num: int = 3) -> list[Tree]:
    trees = [Tree.of_prompt(Problem(f"p{i}", "", "math", {}), [1, 2, i + 3]) for i in range(num)]
    grow(trees, LocalEngine(lm, [0], 4, 32), fan(3), Growth(lambda ids, *_: [len(ids) - 1], 8))
    for tree in trees:
        tree.verdicts.update({1: CORRECT, 2: WRONG, 3: WRONG})
    return trees


def perturb(lm) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.05 * torch.randn_like(p))


# --- learning again


def sample_of(name: str, advantage: float, verdicts: dict) -> PolicySample:
    tree = make_tree([1], (0, 1, [5, 6], [1]), (0, 1, [7], [0]), verdicts=verdicts, name=name)
    weights = {1: np.array([0.5, 0.5]), 2: np.array([1.0])}
    return PolicySample(tree, {1: np.array([advantage] * 2), 2: np.array([-3 * advantage])}, weights, [])


def test_what_is_kept_and_taken():
    """Mixed trees alone, those with the largest |advantage| first, and of these the newest; none that is too old."""
    mixed = {1: CORRECT, 2: WRONG}
    assert kept(sample_of("p", 1.0, {1: CORRECT, 2: CORRECT}), 0) is None
    assert kept(sample_of("p", 1.0, {1: WRONG, 2: ERROR}), 0) is None
    buffer = [
        kept(sample_of(n, a, mixed), r)
        for n, a, r in (("p", 0.5, 0), ("q", 2, 1), ("r", 0.5, 2), ("s", 1, 3))
    ]
    assert all(k is not None for k in buffer)
    buffer = [k for k in buffer if k is not None]
    assert [k.advantage for k in buffer] == pytest.approx([1, 4, 1, 2])  # (0.5 + 0.5 + 3) / 2 of 0.5
    assert [k.tree.problem.id for _, k in chosen(buffer, 3)] == ["q", "s", "r"]
    assert [place for place, _ in chosen(buffer, 3)] == [0, 1, 2] and chosen(buffer, 0) == []
    assert [k.round for k in young(buffer, 5, Replay(max_age=3))] == [2, 3]
    assert young(buffer, 9, Replay(max_age=3)) == []


def test_effective_sample_sizes():
    """1 under the policy that sampled; by hand under another, of trees and of a round's first micro-batch."""
    lm = small_lm("qwen2")
    trees, policy = sampled(lm), PolicyNet(lm)
    assert effective(trees, policy, 1.0, 24, blank()) == pytest.approx([1] * 3, abs=1e-5)
    config = PolicyGradientStage(advantage={"method": "rloo"}, minibatches=1)
    models = Models(lm, policy, None, None, None)
    batch = prepare([ADVANTAGES["rloo"](t, config.advantage) for t in trees], models, config, "cpu")
    assert still_effective([[batch]], models, config, ONE) == pytest.approx(1, abs=1e-5)
    perturb(lm)
    ratios = []
    for tree in trees:
        of_tree = []
        for node in tree.nodes[1:]:
            now = sequence_logprobs(lm, [[*tree.nodes[0].token_ids, *node.token_ids]])[0][2:]
            of_tree += [math.exp(a - b) for a, b in zip(now, node.logprobs, strict=True)]
        ratios.append(np.array(of_tree))
    by_hand = [r.sum() ** 2 / (len(r) * (r**2).sum()) for r in ratios]
    assert min(by_hand) < 0.9
    assert effective(trees, policy, 1.0, 24, blank()) == pytest.approx(by_hand, rel=1e-3)
    r = np.concatenate(ratios)  # all chains weigh the same
    assert still_effective([[batch]], models, config, ONE) == pytest.approx(
        r.sum() ** 2 / (len(r) * (r**2).sum()), rel=1e-3
    )
    assert still_effective([[]], models, config, ONE) == 1


def test_old_trees_are_clipped_against_what_sampled_them_and_stop_no_run():
    """Where the policy has moved past the clip nothing pulls any more; as fresh ones they would be a broken sampler."""
    lm = small_lm("qwen2")
    trees = sampled(lm)
    config = PolicyGradientStage(
        advantage={"method": "rloo"}, minibatches=1, sampler_limit=1e-4, clip_low=1e-6, clip_high=1e-6
    )
    models = Models(lm, PolicyNet(lm), None, None, None)
    samples = [ADVANTAGES["rloo"](t, config.advantage) for t in trees]
    perturb(lm)
    again, fresh = (prepare(samples, models, config, "cpu", is_again=is_again) for is_again in (True, False))
    assert again.old_N is not None and torch.equal(again.old_N, again.sampler_N)
    sgd = [torch.optim.SGD(lm.parameters(), lr=0.1)]
    with pytest.raises(UserError, match="sampler and trainer disagree"):
        update_once([fresh], [], models, sgd, config, ONE)
    lm.zero_grad()
    stats, gaps = update_once([again], [], models, sgd, config, ONE)
    assert gaps == [] and stats["stepped"] and 0.1 < stats["clipped"] < 0.9  # those that moved as they should


def test_further_passes_end_where_the_policy_has_moved(folder, tmp_path):
    rate = {"epochs": 3, "rounds": 1, "optimizer": {"lr": 0.02, "warmup": 0.0}}
    _, free = train(folder, tmp_path / "free", rate | {"min_effective": 0.01})
    _, held = train(folder, tmp_path / "held", rate | {"min_effective": 0.9999})
    assert free[0]["ppo/epochs"] == 3 and held[0]["ppo/epochs"] == 1


# --- starts inside a solution


def test_a_tree_that_goes_on_from_a_given_beginning():
    """What is given is no prompt and no sample: text and room count it, loss and tokens don't."""
    lm = small_lm("qwen2")
    problem = Problem("p", "", "math", {})
    tree = Tree.of_prompt(problem, [1, 2], given=(7, 8, 9))
    before = []

    def mark(ids, logprobs, so_far):
        before.append(list(so_far))
        return [len(ids) - 1]

    grow([tree], LocalEngine(lm, [], 4, 32), fan(2), Growth(mark, 8))
    assert tree.num_prompt == 2 and tree.completion_ids(0) == [7, 8, 9] and before == [[7, 8, 9]] * 2
    assert [len(n.token_ids) for n in tree.nodes[1:]] == [5, 5] and tree.num_sampled == 10
    assert tree.completion_ids(1) == [7, 8, 9, *tree.nodes[1].token_ids]
    assert tree.token_ids(1)[:5] == [1, 2, 7, 8, 9]
    packed = pack([tree])
    assert len(packed.target_N) == 10  # where loss can fall
    whole = Tree.of_prompt(problem, [1, 2, 7, 8, 9])
    grow([whole], LocalEngine(lm, [], 4, 32), fan(2), Growth(mark, 5))
    assert [n.token_ids for n in whole.nodes] == [n.token_ids for n in tree.nodes]
    assert Tree.of_prompt(problem, [1, 2]).completion_ids(0) == []


def test_which_chains_are_begun_inside_of():
    tree = make_tree([1], (0, 1, [5, 6, 7], [0, 2]), (0, 1, [5, 6], [0, 1]), verdicts={1: WRONG, 2: CORRECT})
    config = Starts(below=0.5)
    assert own_chain(4, tree, 0.5, config) == {"index": 4, "ids": [5, 6], "cuts": [1], "shown": False}
    assert (
        own_chain(4, tree, 0.6, config)
        is own_chain(4, tree, 0.0, config)
        is own_chain(4, tree, None, config)
        is None
    )
    tree.given = 1
    assert own_chain(4, tree, 0.5, config) is None
    assert chain_of(0, [5, 6], [1], shown=False) is None  # one step: nothing is inside
    shown = [SFTExample(f"p{i}", "", "", [1], [5, 6, 7][: i + 1]) for i in range(3)]
    listed = [Problem(f"p{i}", "", "math", {}) for i in (2, 9, 0, 1)]
    found = shown_chains(listed, shown, lambda ids, *_: list(range(len(ids))), 2)
    assert found == [
        {"index": 3, "ids": [5, 6], "cuts": [1], "shown": True}
    ]  # p2 is too long, p0 has one step


def test_how_much_is_given():
    of = [Problem("p0", "", "math", {}, "a"), Problem("p1", "", "math", {}, "b")]
    chain = chain_of(0, [1, 2, 3, 4, 5, 6, 7, 8], [1, 3, 5, 7], shown=False)
    assert chain and chain["cuts"] == [2, 4, 6]

    def given(level: float) -> int:
        return len(take(Inside([chain], {"source a": level, " a": level}), 1, of)[0].given)

    assert [given(x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)] == [2, 2, 4, 6, 6]
    inside, config = Inside(), Starts(kept=2, target=0.5)
    for right in (1.0, 1.0, 0.5):
        adapt(inside, of[0], right, config)
    adapt(inside, of[1], 0.0, config)
    assert inside.levels == pytest.approx({" a": 0.4, " b": 0.55})
    own = [{**chain, "index": i % 2, "ids": [i]} for i in range(3)]
    shown = {**chain, "shown": True}
    add(inside, [shown, own[0], None, own[1]], config)
    add(inside, [own[2]], config)
    assert [c["ids"] for c in inside.chains] == [shown["ids"], [1], [2]]  # the oldest own one is gone
    assert [s.index for s in take(inside, 2, of)] == [0, 1]
    assert inside.chains == [own[2], shown]  # a demonstration comes again
    assert len(take(inside, 9, of)) == 2


# --- in the loop

LEVERS = {
    "curriculum": {"candidates": 2, "uniform": 0.5}, "replay": {"min_effective": 0.05}, "starts": {"share": 0.4, "below": 1.0},
    "screen": 2,
}  # fmt: skip
BY_TWO = PromptConfig(steps=StepConfig(rule="count", size=2))  # steps of two tokens
MORE = {"problems_per_round": 6, "tree": {"num_roots": 4, "num_points": 0}, "advantage": {"method": "grpo"}}


def test_a_screened_tree_is_the_tree_that_it_would_have_been(folder):
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    engine = LocalEngine(load_model(str(folder)), [prompting.eos_id], 8, max_context=64)
    branched = {"num_roots": 4, "where": "every_step", "num_points": 1, "num_children": 1}

    def trees(**options):
        config = validate(
            PolicyGradientStage, {"problems_per_round": 12, "max_tokens": 6, "tree": branched} | options, ""
        )
        return draw(
            problems() + problems("small_verifiers:has", {"text": ""}),
            Position(),
            0,
            engine,
            prompting,
            config,
            0,
            ONE,
        )

    def drawn(tree):
        return [(n.parent, n.offset, n.token_ids, n.step_ends) for n in tree.nodes]

    whole, screened = trees(), trees(screen=2)
    ends = {2: 0, 4: 0}
    for a, b in zip(whole.trees, screened.trees, strict=True):
        first = {a.verdicts[i].status for i in (1, 2)}
        if len(first) == 1:
            assert drawn(b) == drawn(a)[:3] and b.verdicts.keys() == {1, 2}
        else:
            assert drawn(b) == drawn(a) and b.verdicts.keys() == a.verdicts.keys()
        ends[2 if len(first) == 1 else 4] += 1
    assert min(ends.values()) > 0
    assert sum(screened.statuses.values()) == 24  # of the first two of each: the rest is not drawn blindly


def test_a_baseline_reads_what_was_expected_before_the_tree_was_drawn(folder, tmp_path):
    """A round's prediction knows the answers of those before, and not its own; one draw a problem teaches all the same."""
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    engine = LocalEngine(load_model(str(folder)), [prompting.eos_id], 8, max_context=64)
    options = {"problems_per_round": 6, "max_tokens": 6, "curriculum": {"uniform": 1.0}, "drop_uniform": False,
               "tree": {"num_roots": 1, "num_points": 0}, "advantage": {"method": "shrunk"}}  # fmt: skip
    config = validate(PolicyGradientStage, options, "")
    right = problems("small_verifiers:has", {"text": ""})
    at = Position()
    for round, rate in ((0, [0.5, 0.5]), (1, [0.7, 0.95])):
        drawn = draw(right, at, round, engine, prompting, config, 0, ONE)
        for tree in drawn.trees:
            assert rate[0] <= tree.scores["pass_rate"][ROOT][0] <= rate[1]
    _, rows = train(folder, tmp_path, options | {"rounds": 1})
    assert rows[0]["ppo/grad_norm"] > 0
    with pytest.raises(ConfigError, match="shrunk reads the pass rate that a curriculum predicts"):
        validate(PolicyGradientStage, options | {"curriculum": None}, "")


def test_all_of_it_in_the_loop_and_after_a_kill(folder, tmp_path):
    """Counts, queue and buffer are in the checkpoint: the run that was cut off ends as the other, and no tree is too old."""
    options = MORE | LEVERS | {"rounds": 6, "save_every": 2, "imitate_self": True}
    whole, rows = train(folder, tmp_path / "whole", options, prompt=BY_TWO)
    assert sum(row["ppo/replayed"] for row in rows) > 2 and sum(row["ppo/begun_inside"] for row in rows) > 2

    def cut(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "cut", options, log=cut, checkpoints=tmp_path / "kept", prompt=BY_TWO)
    again, late = train(folder, tmp_path / "cut", options, checkpoints=tmp_path / "kept", prompt=BY_TWO)
    for row in (*rows, *late):
        del row["ppo/verdict_wait"]  # wall time
    assert late and late == rows[4:]
    assert moved(whole, again) == 0


def test_a_position_comes_back_from_a_checkpoint(folder, tmp_path):
    lm = small_lm("qwen2")
    at = Position(7, [SFTExample("p", "a", "b", [1], [2])], [{"reward": 0.5}], 9, 1, 2)
    at.history.counts["kind"] = [1.0, 2.0, 3]
    add(at.inside, [chain_of(0, [1, 2, 3], [0, 1, 2], shown=False)], Starts())
    at.inside.levels["kind"] = 0.3
    at.buffer = [Kept(t, 5, 0.25) for t in sampled(lm)]
    torch.save(plain_of(at), tmp_path / "at.pt")
    back = position_of(torch.load(tmp_path / "at.pt", weights_only=True))
    assert (back.cursor, back.own_chains, back.history, back.inside) == (
        7,
        at.own_chains,
        at.history,
        at.inside,
    )
    assert [k.key for k in back.buffer] == [k.key for k in at.buffer]
    for a, b in zip(at.buffer, back.buffer, strict=True):
        assert a.tree.verdicts == b.tree.verdicts
        for x, y in zip(a.tree.nodes, b.tree.nodes, strict=True):
            assert (x.token_ids, x.logprobs, x.step_ends, x.parent) == (
                y.token_ids,
                y.logprobs,
                y.step_ends,
                y.parent,
            )
    assert young(back.buffer, 9, Replay(max_age=4)) and not young(back.buffer, 10, Replay(max_age=4))


def test_demonstrations_are_begun_inside_of_from_the_first_round_on(folder, tmp_path):
    shown = [
        SFTExample("p0", "number 0", "", [1], [5, 6, 7, 8]),
        SFTExample("other", "", "", [1], [5, 6, 7, 8]),
    ]
    options = MORE | {"rounds": 2, "starts": {"share": 0.4, "demonstrations": True}}
    _, rows = train(folder, tmp_path, options, prompt=BY_TWO, demonstrations=shown)
    assert (
        rows[0]["ppo/begun_inside"] == 1
    )  # of the problem that is trained on; afterwards own chains as well


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"screen": 3}, "screen=3 and tree.num_roots=3; expected 2 or more first chains"),
        ({"screen": 1}, "expected 2 or more first chains"),
        ({"replay": {"max_age": 0}}, "max_age"),
        ({"starts": {"share": 1.0}}, "share"),
    ],
)
def test_bad_input_is_named(options, part):
    with pytest.raises((ConfigError, UserError), match=part):
        validate(PolicyGradientStage, {"tree": {"num_roots": 3}} | options, "test")


def test_a_budget_that_the_first_round_spends(folder, tmp_path):
    _, rows = train(folder, tmp_path, MORE | LEVERS | {"rounds": 9, "generated_tokens": 10})
    assert len(rows) == 1 and json.dumps(rows[0])
