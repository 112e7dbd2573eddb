"""Rounds far from usual: what is one, and what skipping, lower rates and going back leave behind, also over a kill."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from small_models import save_small_qwen
from test_policy_gradient import TEXTS, moved, train

from reasoner.losses import ppo_clip
from reasoner.registry import UserError
from reasoner.report.history import spikes as told_of
from reasoner.trainers.policy_draw import Found, Position, Round
from reasoner.trainers.replay import Kept
from reasoner.trainers.spikes import SpikeConfig, bounds, leave_out, note, sift, spikes
from reasoner.tree import Node, Problem, Tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)


NORMS = [1.0, 1.1, 0.9, 1.05, 0.95, 1.2, 0.8, 1.0]  # median 1.0, median deviation 0.075


def seen(name: str, values) -> list[dict[str, float]]:
    return [{name: x} for x in values]


def test_what_a_spike_is():
    config = SpikeConfig(deviations=20)
    low, usual, high = bounds("grad_norm", seen("grad_norm", NORMS), config)
    assert (low, usual) == (-math.inf, 1.0) and high == pytest.approx(1.0 + 20 * 1.4826 * 0.075)
    assert bounds("grad_norm", seen("grad_norm", NORMS[:7]), config)[2] == math.inf  # too few to tell
    assert bounds("grad_norm", seen("grad_norm", [2.0] * 8), config)[2] == 4.0  # twice what never moved
    assert bounds("reward", seen("reward", [0.6] * 8), config) == (pytest.approx(0.3), 0.6, math.inf)
    assert bounds("length", seen("length", [10.0] * 8), config) == (5.0, 10.0, 15.0)
    known = seen("grad_norm", NORMS)
    assert spikes({"grad_norm": 3.1}, known, config) == {}
    assert spikes({"grad_norm": 3.3}, known, config) == {"grad_norm": "grad_norm 3.3 where 1 is usual"}
    assert set(spikes({"grad_norm": math.nan, "loss": 9.0}, known, config)) == {"grad_norm"}


def test_a_spike_alone_is_not_usual_and_a_new_level_is_after_a_while():
    at, config = Position(), SpikeConfig(window=8, after=4)
    of_round = {"loss": 0.0, "kl_step": 0.0, "entropy": 1.0, "length": 10.0, "reward": 0.5, "grad_norm": 1.0}
    assert not any(note(of_round, at, config) for _ in range(8))
    assert set(note(of_round | {"length": 40.0}, at, config)) == {"length"}
    assert bounds("length", at.spikes["seen"], config) == (5.0, 10.0, 15.0)
    rings = [bool(note(of_round | {"length": 20.0}, at, config)) for _ in range(12)]
    assert rings[0] and not rings[-1]
    no_update = of_round | {"grad_norm": 0.0, "loss": 9.0}
    assert not note(no_update | {"length": 20.0}, at, config)  # what no update came to says nothing
    assert "loss" not in at.spikes["seen"][-1]


def drawn(ids: str, length: int = 4) -> Round:
    """A round with a chain of so many tokens for each problem."""
    trees = [Tree.of_prompt(Problem(i, i, "", {}), [1]) for i in ids]
    for tree in trees:
        tree.add(Node(0, 1, (2,) * length, entropy=(1.0,) * length))
    return Round([Found(i, t, Counter()) for i, t in enumerate(trees)], list(enumerate(trees)))


@pytest.mark.parametrize(("on_spike", "length", "kept"), [("skip", 9, 0), ("skip", 4, 2), ("warn", 9, 2)])
def test_trees_of_a_spike_are_not_learned_from(on_spike, length, kept):
    at, config = Position(), SpikeConfig(on_spike=on_spike, after=4)
    at.spikes["seen"] = [{"length": 4.0, "entropy": 1.0, "reward": 0.0}] * 4
    round = drawn("ab", length)
    sift(round, at, config, Accelerator(cpu=True))
    assert len(round.usable) == kept


def test_problems_that_are_left_out_teach_nothing():
    at, accelerator = Position(), Accelerator(cpu=True)
    assert leave_out(drawn("db"), 5, at) == ["b", "d"] and leave_out(drawn("bc"), 5, at) == ["c"]
    after = drawn("abcde")
    at.buffer = [Kept(tree, 0, 1.0) for tree in after.trees]
    sift(after, at, SpikeConfig(), accelerator)
    assert [(i, t.problem.id) for i, t in after.usable] == [(0, "a"), (4, "e")]
    assert [kept.tree.problem.id for kept in at.buffer] == ["a", "e"]  # nor from what was kept of them
    with pytest.raises(UserError, match="left out all 5 problems"):
        leave_out(drawn("ae"), 5, at)


ROUND = SimpleNamespace(number=0, sudden=-1)


def sudden(logprobs_N, old_N, b, config):
    """PPO's loss, in one round a thousand times as large."""
    terms = ppo_clip(logprobs_N, old_N, b.advantages_N, config.clip_low, config.clip_high)
    return terms._replace(loss_N=terms.loss_N * (1000 if ROUND.number == ROUND.sudden else 1))


def run(
    folder, out, on_spike: str, sudden: int = 5, cut: int = 0, rounds: int = 8, save_every: int = 2, **more
):
    """A run with a sudden gradient after so many rounds; with `cut` it is stopped after that round."""

    def log(step: int) -> None:
        ROUND.number = step
        if step == cut:
            raise KeyboardInterrupt

    options = {
        "rounds": rounds, "minibatches": 1, "save_every": save_every, "loss": "test_spikes:sudden", "patience": 99,
        "drop_uniform": False, "problems_per_round": 2, "optimizer": {"lr": 1e-3, "warmup": 0.0, "schedule": "constant"},
        "spikes": {"on_spike": on_spike, "after": 4, "window": 5, "deviations": 30} | more,
    }  # fmt: skip
    ROUND.sudden = sudden
    return train(folder, out, options, log=log, checkpoints=out / "kept")


def policy_weights(out, number: int) -> list[torch.Tensor]:
    return torch.load(out / "kept" / f"{number:05d}" / "shared.pt", weights_only=True)["weights"][0]


def began_at(found: int):
    ROUND.number = found


def test_going_back_undoes_the_round_and_leaves_its_problems_out(folder, tmp_path):
    began_at(0)
    whole, rows = run(folder, tmp_path / "whole", "go_back", rounds=9)
    spiked = rows[5]
    assert [("ppo/spike" in row) for row in rows] == [False] * 5 + [True, False, False, False]
    assert spiked["ppo/spike_grad_norm"] == 1.0 and "where" in spiked["ppo/spike"]
    assert spiked["ppo/left_out"] == ["p4", "p5"]  # the sixth pair of six problems, two a round
    assert spiked["ppo/spike_answer"] == "back to the weights of round 4; 2 problems left out from here on"
    assert [row["ppo/kept"] for row in rows[6:]] == [
        2,
        2,
        0,
    ]  # the third pair comes again, and is not learned from
    with pytest.raises(KeyboardInterrupt):
        began_at(0)
        run(folder, tmp_path / "cut", "go_back", cut=7, rounds=9)
    began_at(6)
    again, late = run(folder, tmp_path / "cut", "go_back", rounds=9)
    assert len(late) == 3 and moved(whole, again) == 0
    lines = told_of([{"stage": "ppo", "step": i + 1, **row} for i, row in enumerate(rows)])
    assert lines[0].startswith("ppo, round 6: grad_norm") and "p4, p5" in lines[0]
    assert lines[1] == "ppo: 3 rounds without a spike after the last one"


def test_going_back_has_a_limit(folder, tmp_path):
    began_at(0)
    with pytest.raises(UserError, match="after going back 0 times"):
        run(folder, tmp_path, "go_back", max_go_backs=0)


def test_a_skipped_update_moves_nothing(folder, tmp_path):
    for on_spike, stays in (("skip", True), ("warn", False)):
        out = tmp_path / on_spike
        began_at(0)
        _, rows = run(folder, out, on_spike, sudden=6, rounds=7, save_every=1)
        assert rows[6]["ppo/spike_grad_norm"] == 1.0 and rows[6]["ppo/kept"] == 2
        pairs = zip(policy_weights(out, 6), policy_weights(out, 7), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == stays


def test_lower_rates_stay_low_over_a_kill(folder, tmp_path):
    began_at(0)
    whole, _ = run(folder, tmp_path / "whole", "lower_rate", lower_by=0.25)
    schedules = torch.load(tmp_path / "whole/kept/00008/shared.pt", weights_only=True)["schedules"]
    assert schedules[0]["base_lrs"] == schedules[0]["_last_lr"] == [0.25e-3]
    with pytest.raises(KeyboardInterrupt):
        began_at(0)
        run(folder, tmp_path / "cut", "lower_rate", lower_by=0.25, cut=7)
    began_at(6)
    again, _ = run(folder, tmp_path / "cut", "lower_rate", lower_by=0.25)
    free, _ = run(folder, tmp_path / "free", "warn", sudden=99)
    assert moved(whole, again) == 0 and moved(whole, free) > 0
