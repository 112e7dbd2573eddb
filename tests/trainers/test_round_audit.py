"""Bits that are turned while a policy is trained, one fault a test: which are seen, where, and that nothing is saved of them."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from small_models import save_small_qwen
from test_policy_gradient import TEXTS, moved, train

from reasoner.engine.local import LocalEngine
from reasoner.policy.machine import Precision, use
from reasoner.policy.models import load_model, load_tokenizer, save
from reasoner.registry import MachineFault
from reasoner.trainers import policy_gradient, policy_setup
from reasoner.trainers.checkpoint import latest_step
from reasoner.trainers.round_audit import NEAR, NEAR_COARSE, RoundAudit, checksum

LEVELS = ("light", "full")
FAULTS = {  # and the level that sees it
    "a trained weight, while trees are drawn": "light",
    "a trained weight, before it is saved": "light",
    "the sampler's weights, where they count": "light",
    "the sampler's weights, a last bit": "full",
    "keys and values of the sampler": "full",
    "a gradient": "full",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_qwen(tmp_path_factory.mktemp("small") / "model", TEXTS, vocab_size=280)


def turn(tensor: torch.Tensor, bit: int, at: int = 7) -> None:
    """One bit of one element, in place: 30 is the exponent's highest, 0 the least of the mantissa."""
    words = tensor.data.view(-1).view(torch.int32)
    words[at] ^= 1 << bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.float64])
def test_any_one_bit_changes_the_sum(dtype):
    tensors = [torch.arange(6).to(dtype), torch.ones(3).to(dtype)]
    whole = checksum(tensors)
    assert checksum(tensors[::-1]) != whole == checksum(t.clone() for t in tensors)
    for tensor in tensors:
        raw = tensor.view(torch.uint8)
        for i in range(len(raw)):
            for bit in range(8):
                raw[i] ^= 1 << bit
                assert checksum(tensors) != whole, (i, bit)
                raw[i] ^= 1 << bit
    assert checksum(tensors) == whole


def weight_of(loop_engine: LocalEngine) -> torch.Tensor:
    return dict(loop_engine.model.named_parameters())["model.layers.1.mlp.up_proj.weight"]


def inject(fault: str, monkeypatch) -> None:
    """In the third round, once."""
    rounds = SimpleNamespace(number=-1, is_done=False, engine=None)

    def once() -> bool:
        is_now = rounds.number == 2 and not rounds.is_done
        rounds.is_done |= is_now
        return is_now

    load, draw, backward = LocalEngine.load_weights, policy_setup.draw, Accelerator.backward
    note, decode = policy_gradient.note, LocalEngine._decode

    def loaded(engine, version, *more):
        load(engine, version, *more)
        rounds.number, rounds.engine = version, engine
        if "where they count" in fault and once():  # a copy that the trainer does not have
            own = weight_of(engine)
            engine.model = engine.given = copy.deepcopy(engine.model)
            turn(weight_of(engine), 30)
            assert own is not weight_of(engine)

    def drawn(problems, at, round, engine, *more):
        if "last bit" in fault and rounds.number == 2:
            engine.model = engine.given = copy.deepcopy(engine.model)
        found = draw(problems, at, round, engine, *more)
        if "trained weight, while" in fault and once():
            turn(weight_of(engine), 0)
        return found

    def decoded(engine):
        if "keys and values" in fault and engine.rows and once():
            for part in engine.cache.parts_L2RKSD:
                part[:, :, : len(engine.rows), :, 0] *= -2
        if "last bit" in fault and once():
            turn(weight_of(engine), 0)
        decode(engine)

    def passed_back(accelerator, loss, **more):
        backward(accelerator, loss, **more)
        if fault == "a gradient" and once():
            turn(weight_of(rounds.engine).grad, 3)

    def noted(metrics, at, config):
        if "before it is saved" in fault and once():
            monkeypatch.setattr(RoundAudit, "after_updates", _then_turned(RoundAudit.after_updates))
        return note(metrics, at, config)

    monkeypatch.setattr(LocalEngine, "load_weights", loaded)
    monkeypatch.setattr(policy_setup, "draw", drawn)
    monkeypatch.setattr(LocalEngine, "_decode", decoded)
    monkeypatch.setattr(Accelerator, "backward", passed_back)
    monkeypatch.setattr(policy_gradient, "note", noted)


def _then_turned(after_updates):
    def turned(audit):
        after_updates(audit)
        turn(audit.weights[3], 0)

    return turned


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_turned_bit_is_seen_at_its_level_and_never_saved(folder, tmp_path, monkeypatch, fault, level):
    options = {"rounds": 3, "save_every": 1, "minibatches": 1, "audit": level, "drop_uniform": False}
    inject(fault, monkeypatch)
    is_seen = level == "full" or FAULTS[fault] == "light"
    if not is_seen:
        train(folder, tmp_path, options, checkpoints=tmp_path / "kept")
        return
    with pytest.raises(MachineFault, match=r"on .*, cpu|suspect"):
        train(folder, tmp_path, options, checkpoints=tmp_path / "kept")
    assert latest_step(tmp_path / "kept") == 2 and not (tmp_path / "model").exists()
    monkeypatch.undo()
    again, _ = train(folder, tmp_path, options, checkpoints=tmp_path / "kept")
    whole, _ = train(folder, tmp_path / "whole", options)
    assert moved(again, whole) == 0


def test_no_level_changes_what_is_learned(folder, tmp_path):
    off, rows = train(folder, tmp_path / "off", {"audit": "off"})
    for level in LEVELS:
        weights, others = train(folder, tmp_path / level, {"audit": level})
        assert moved(off, weights) == 0
        for row in (*rows, *others):
            row.pop("ppo/verdict_wait", None)
        assert rows == others and all(map(math.isfinite, rows[0].values()))


def test_training_in_halves_is_no_fault_of_the_machine(folder, tmp_path, monkeypatch):
    model = load_model(str(folder))
    model.model.norm.weight.data *= 20  # roundings show in its log-probabilities
    save(model, load_tokenizer(str(folder)), tmp_path / "loud")
    furthest = []
    said = RoundAudit._policy_says

    def kept(audit, ids):
        trained = said(audit, ids)
        furthest.append(max(abs(a - b) for a, b in zip(audit.said, trained, strict=True)))
        return trained

    monkeypatch.setattr(RoundAudit, "_policy_says", kept)
    AcceleratorState._reset_state()
    try:
        use(Precision(training="bfloat16", inference="auto"))
        train(tmp_path / "loud", tmp_path / "run", {"rounds": 1, "audit": "full"})
    finally:
        AcceleratorState._reset_state()
    assert NEAR < max(furthest) < NEAR_COARSE  # the sampler is in float32, the training pass in halves


def test_the_process_that_differs_is_named(monkeypatch):
    sums = [(0, "a", 5), (1, "b", 6), (2, "a", 5)]
    monkeypatch.setattr("reasoner.trainers.round_audit.from_everyone", lambda own: sums)
    accelerator = SimpleNamespace(num_processes=3, process_index=0, device=torch.device("cpu"))
    audit = RoundAudit("light", [torch.ones(1)], None, None, [], False, accelerator, 0)  # type: ignore[arg-type]
    with pytest.raises(MachineFault, match="suspect: process 1 on b; the last"):
        audit.after_updates()
    sums.pop()
    with pytest.raises(MachineFault, match="process 0 on a, process 1 on b"):
        audit.after_updates()
    sums[1] = sums[0]
    audit.after_updates()
