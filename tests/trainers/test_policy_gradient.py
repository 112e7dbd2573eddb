"""The on-policy loop on a very small model: every method, exact resume, gates, alarms, and bad input by name."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from small_models import save_small_qwen, small_lm

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.ledger import Ledger
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.registry import UserError
from reasoner.signals.advantages import ADVANTAGES
from reasoner.trainers import policy_gradient
from reasoner.trainers.alarms import AlarmConfig, alarms
from reasoner.trainers.gates import check_liveness
from reasoner.trainers.loop import Session
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Position, draw
from reasoner.trainers.policy_gradient import train_policy
from reasoner.tree import Problem

TEXTS = ["one and two are three\n", "three and four are seven\n"] * 20
QUICK = {
    "rounds": 2, "problems_per_round": 4, "max_tokens": 6, "minibatches": 2, "save_every": 1,
    "tree": {"num_roots": 3, "where": "every_step", "num_points": 1, "num_children": 2},
    "optimizer": {"lr": 0.01, "warmup": 0.0}, "critic_optimizer": {"lr": 0.01, "warmup": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)


@pytest.fixture(scope="module")
def prm(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "prm"
    ScoreNet(load_model(str(folder))).save(load_tokenizer(str(folder)), path)
    return path


def problems(verifier: str = "small_verifiers:has", reference: dict | None = None) -> list[Problem]:
    reference = {"text": "e"} if reference is None else reference
    return [Problem(f"p{i}", f"number {i}", verifier, reference) for i in range(6)]


def train(
    folder, out, options=None, of=None, log=None, checkpoints=None, ledger=None, prompt=PromptConfig(), **paths
):  # fmt: skip
    """Final weights and the metrics of every round."""
    rows: list[dict] = []
    session = Session(
        out,
        ledger or Ledger(),
        lambda metrics, step: (rows.append(dict(metrics)), log and log(step)),
        checkpoints=checkpoints,
    )
    config = validate(PolicyGradientStage, QUICK | (options or {}), "test")
    prompting = Prompting(load_tokenizer(str(folder)), prompt)
    with session.ledger.stage("ppo"):
        train_policy(str(folder), prompting, of or problems(), config, session, **paths)
    return load_model(str(out / "model")).state_dict(), rows


def moved(a, b) -> float:
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"advantage": {"method": m}, "curriculum": {} if m == "shrunk" else None}
            for m in sorted(ADVANTAGES)
        ),
        {"loss": "gspo", "advantage": {"method": "grpo", "normalise": "sequences"}},
        {"loss": "cispo", "advantage": {"method": "dr_grpo", "normalise": "constant"}},
        {"kl_weight": 0.1, "kl_estimator": "k2", "entropy_weight": 0.01, "epochs": 2, "max_resamples": 1},
    ],
    ids=lambda o: "-".join([o["advantage"]["method"] if "advantage" in o else "kl", o.get("loss", "")]),
)
def test_every_method_moves_the_policy(folder, tmp_path, options):
    weights, rows = train(folder, tmp_path, options)
    assert moved(weights, load_model(str(folder)).state_dict()) > 1e-3
    assert all(math.isfinite(x) for row in rows for x in row.values())
    assert all(row["ppo/kl_sampler"] < 1e-6 and row["ppo/sampler_effective"] > 0.999 for row in rows)
    assert rows[0]["ppo/skipped"] == 0 and rows[0]["ppo/kept"] > 0


def test_many_small_batches_are_one_large_one(folder, tmp_path):
    """Trees are split too where a batch is smaller than they are; gradients are compared in policy/test_split."""
    one, _ = train(folder, tmp_path / "one", {"tokens_per_batch": 1 << 14})
    many, _ = train(folder, tmp_path / "many", {"tokens_per_batch": 1})
    # AdamW divides by a gradient's own size, which magnifies rounding
    assert moved(one, many) < 3e-4 < moved(one, load_model(str(folder)).state_dict()) / 3


def test_a_run_stops_after_the_round_that_spends_its_tokens(folder, tmp_path):
    spent: list[float] = []
    ledger = Ledger()
    train(folder, tmp_path, {"rounds": 50, "generated_tokens": 400},
          log=lambda step: spent.append(ledger.total("decoded")), ledger=ledger)  # fmt: skip
    assert spent[-2] < 400 <= spent[-1] and len(spent) > 2


def test_rounds_that_end_before_the_tokens_are_told(folder, tmp_path, caplog):
    train(folder, tmp_path, {"rounds": 1, "generated_tokens": 10**6})
    assert "all 1 rounds are done" in caplog.text and "raise rounds" in caplog.text


@pytest.mark.parametrize(
    "length", [{"rounds": 4}, {"rounds": 50, "generated_tokens": 500}], ids=lambda length: "-".join(length)
)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(folder, prm, tmp_path, length):
    """Critic, refreshed and implicit PRM, self-imitation, dynamic sampling, the rate's place, what was seen of each set."""
    options = length | {
        "save_every": 2, "imitate_self": True, "ptx_weight": 0.1, "ptx_batch": 2, "max_resamples": 1,
        "prm_refresh": {"every": 1}, "advantage": {"reward": {"prm_weight": 0.1}},
        "implicit_prm": {"beta": 1.0, "optimizer": {"lr": 0.01}},
    }  # fmt: skip
    paths: dict = {
        "prm_path": str(prm),
        "critic_path": str(prm),
        "sets": {f"p{i}": "ab"[i % 2] for i in range(6)},
    }
    whole, rows = train(folder, tmp_path / "whole", options, **paths)

    def cut(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "cut", options, log=cut, checkpoints=tmp_path / "kept", **paths)
    again, late = train(folder, tmp_path / "cut", options, checkpoints=tmp_path / "kept", **paths)
    for row in (*rows, *late):
        row.pop("ppo/verdict_wait", None)  # wall time
    assert sum(r["drawn"] for r in rows[-1]["mixture"]) == sum(row.get("ppo/drawn", 0) for row in rows)
    assert late and late == rows[2:]
    assert moved(whole, again) == 0
    for net in ("critic", "prm"):
        a, b = (load_model(str(tmp_path / run / net)).state_dict() for run in ("whole", "cut"))
        assert moved(a, b) == 0 and moved(a, load_model(str(prm)).state_dict()) > 0
    a, b = (load_model(str(tmp_path / run / "implicit_prm")).state_dict() for run in ("whole", "cut"))
    reference = load_model(str(tmp_path / "cut" / "implicit_prm" / "reference")).state_dict()
    assert (
        moved(a, b) == 0 == moved(reference, load_model(str(folder)).state_dict()) and moved(a, reference) > 0
    )
    losses = [row["ppo/implicit_loss"] for row in rows[:-1]]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and len(set(losses)) == len(losses)


def test_an_alarm_goes_back_to_the_older_checkpoint(folder, tmp_path):
    """The rate rises from round to round until the last moves the policy too far."""
    rising = {"rounds": 3, "epochs": 2, "patience": 9, "optimizer": {"lr": 0.02, "warmup": 1.0}}
    _, free = train(folder, tmp_path / "free", rising)
    kl = [row["ppo/kl_step"] for row in free]
    limit = math.sqrt(max(kl[:2]) * kl[2])
    assert max(kl[:2]) < limit < kl[2]
    kept = tmp_path / "kept"

    def weights(number: int) -> list[torch.Tensor]:
        return torch.load(kept / f"{number:05d}" / "shared.pt", weights_only=True)["weights"][0]

    before: list[torch.Tensor] = []
    options = rising | {"alarms": {"action": "rollback", "max_kl": limit}}
    _, rows = train(
        folder, tmp_path / "back", options, log=lambda step: before.extend(weights(1) if step == 3 else ()), checkpoints=kept
    )  # fmt: skip
    assert [row.get("ppo/alarm_kl_jumped") for row in rows] == [None, None, 1.0]
    assert before and all(torch.equal(a, b) for a, b in zip(weights(3), before, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(2), before, strict=True))
    options["alarms"] |= {"max_rollbacks": 0}
    with pytest.raises(UserError, match="the last checkpoint stays"):
        train(folder, tmp_path / "stop", options, checkpoints=tmp_path / "last")
    assert sorted(p.name for p in (tmp_path / "last").iterdir()) == ["00001", "00002"]


@pytest.mark.parametrize(
    ("options", "of", "part"),
    [
        ({}, problems(reference={"text": ""}), "nothing could be learned in 2 rounds"),
        (
            {"drop_uniform": False, "advantage": {"method": "rloo"}},
            problems(reference={"text": ""}),
            "nothing could be learned in 2 rounds",
        ),
        ({"alarms": {"action": "stop", "max_kl": 1e-12}, "epochs": 2, "patience": 8}, None, "kl_jumped"),
        ({"optimizer": {"lr": 1e20, "warmup": 0.0}}, None, "expected"),
        ({"max_tokens": 2000}, None, "positions"),
        ({"advantage": {"reward": {"prm_weight": 1.0}}}, None, "there is no prm"),
        ({"advantage": {"method": "grppo"}}, None, "grpo"),
        ({"loss": "ppo_clp"}, None, "ppo_clip"),
    ],
)
def test_bad_input_stops_by_name(folder, tmp_path, options, of, part):
    with pytest.raises(UserError, match=part):
        train(folder, tmp_path, {"patience": 2, "problems_per_round": 1, "rounds": 8} | options, of)


def test_errors_of_the_checker_teach_nothing(folder, tmp_path):
    """A checker that cannot answer at all is no reward of 0: the run stops, and says so."""
    with pytest.raises(UserError, match="failed twice on 12 of 12 responses"):
        train(folder, tmp_path, {"patience": 2}, problems("small_verifiers:broken", {}))


def test_a_reward_model_with_another_tokenizer_is_refused(folder, tmp_path):
    other = save_small_qwen(tmp_path / "other", ["zzz yyy xxx\n"] * 9, vocab_size=270)
    with pytest.raises(UserError, match="another tokenizer"):
        train(folder, tmp_path, orm_path=str(other))


def test_a_problem_that_comes_twice_draws_two_trees(folder, tmp_path):
    """Fewer problems than a round takes, and one that is in the list twice."""
    prompting = Prompting(load_tokenizer(str(folder)), PromptConfig())
    config = validate(PolicyGradientStage, QUICK | {"problems_per_round": 8}, "test")
    engine = LocalEngine(load_model(str(folder)), [prompting.eos_id], 8, max_context=64)
    of = [*problems()[:2], problems()[0]]
    drawn = draw(of, Position(), 0, engine, prompting, config, 0, Accelerator(cpu=True))
    assert [t.problem.id for t in drawn.trees] == ["p0", "p1", "p0", "p0", "p1", "p0", "p0", "p1"]
    assert [t.occurrence for t in drawn.trees] == [0, 0, 1, 2, 1, 3, 4, 2]
    shapes = [tuple(n.token_ids for n in t.nodes) for t in drawn.trees]
    assert len(set(shapes)) == len(shapes)
    again = draw(of, Position(), 0, engine, prompting, config, 0, Accelerator(cpu=True))
    assert [tuple(n.token_ids for n in t.nodes) for t in again.trees] == shapes


@pytest.mark.parametrize("method", sorted(ADVANTAGES))
def test_advantages_are_scaled_where_the_method_is_defined_so(folder, tmp_path, method):
    """What the default does is what `whiten` set to the method's own definition does, and not the other."""
    options = {"rounds": 1, "advantage": {"method": method}, "curriculum": {} if method == "shrunk" else None}
    plain, _ = train(folder, tmp_path / "plain", options)
    same, _ = train(folder, tmp_path / "same", options | {"whiten": method in ("ppo", "step_ppo")})
    other, _ = train(folder, tmp_path / "other", options | {"whiten": method not in ("ppo", "step_ppo")})
    assert moved(plain, same) == 0 < moved(plain, other)


@pytest.mark.parametrize("schedule", ["rounds", "tokens"])
def test_the_first_update_moves_the_policy(folder, tmp_path, schedule):
    """With a warm-up too: no update has rate 0."""
    length = {"rounds": 1} if schedule == "rounds" else {"rounds": 1, "generated_tokens": 10**4}
    one_update = {"minibatches": 1, "optimizer": {"lr": 0.01, "warmup": 0.5}}
    weights, rows = train(folder, tmp_path, length | one_update)
    assert moved(weights, load_model(str(folder)).state_dict()) > 1e-5
    assert rows[0]["ppo/kl_step"] > 0


def test_an_alarm_for_a_jump_with_one_update_a_round(folder, tmp_path):
    options = {"rounds": 1, "minibatches": 1, "optimizer": {"lr": 0.05, "warmup": 0.0, "floor": 1.0}}
    _, rows = train(folder, tmp_path, options | {"alarms": {"max_kl": 1e-3}})
    assert rows[0]["ppo/alarm_kl_jumped"] == 1 and rows[0]["ppo/kl_step"] > 1e-3


def test_liveness():
    lm = small_lm("qwen2")
    parameters = list(lm.parameters())
    before = copy.deepcopy(lm.state_dict())
    engine = LocalEngine(lm, [0], 2, 32)
    check_liveness(parameters, engine, [1, 2, 3])
    assert moved(lm.state_dict(), before) == 0
    stale = LocalEngine(copy.deepcopy(lm), [0], 2, 32)
    with pytest.raises(UserError, match="does not change what the sampler would say"):
        check_liveness(parameters, stale, [1, 2, 3])


def rounds(count: int, **last: float) -> list[dict[str, float]]:
    first = {"prm": 0.5, "reward": 0.4, "num_steps": 4.0, "length": 20.0, "kl_step": 0.01}
    return [first] * count + [first | last] * count


def test_alarms():
    config = AlarmConfig(window=3)
    assert alarms(rounds(3), config) == {}
    assert alarms(rounds(3, prm=0.7, reward=0.5), config) == {}  # both rise: that is learning
    assert set(alarms(rounds(3, prm=0.7), config)) == {"prm_hacked"}
    assert set(alarms(rounds(3, prm=0.7, reward=0.3), config)) == {"prm_hacked"}
    summed = [r | {"prm_sum": total} for r, total in zip(rounds(3), [2.0] * 3 + [2.6] * 3, strict=True)]
    assert set(alarms(summed, config)) == {"prm_hacked"}
    assert "sum per chain rose from 2.000 to 2.600" in alarms(summed, config)["prm_hacked"]
    assert alarms([r | {"prm_sum": min(2.4, r["prm_sum"])} for r in summed], config) == {}
    assert alarms([*summed[:3], *(r | {"reward": 0.5} for r in summed[3:])], config) == {}
    assert set(alarms(rounds(3, num_steps=1.0), config)) == {"steps_fell"}
    assert set(alarms(rounds(3, length=50.0), config)) == {"length_jumped"}
    assert set(alarms(rounds(1, kl_step=math.nan), config)) == {"kl_jumped"}
    assert alarms(rounds(2, prm=0.9), config) == {}  # too early to say
    without = [{k: v for k, v in r.items() if k != "prm"} for r in rounds(3)]
    assert alarms(without, config) == {}


def test_training_has_the_memory_that_drawing_took(folder, tmp_path, monkeypatch):
    held: list[tuple[int, ...]] = []
    release, learn = LocalEngine.release, policy_gradient.learn

    def released(engine):
        held.append((engine.cache.nbytes, engine.outputs.nbytes, engine.prefixes.num_bytes))
        release(engine)

    def learned(drawn, round, loop):
        engine = loop.engine
        held.append((engine.cache.nbytes, engine.outputs.nbytes, engine.prefixes.num_bytes))
        assert engine.decoder is None
        return learn(drawn, round, loop)

    monkeypatch.setattr(LocalEngine, "release", released)
    monkeypatch.setattr(policy_gradient, "learn", learned)
    train(folder, tmp_path, {"rounds": 1})
    assert held[-2][2] > 0 and held[-1] == (0, 0, 0)  # cache and outputs went back when no row was left
