"""Checkpoints: what is saved comes back, damaged ones are passed over, and a killed run ends with the same weights."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reasoner.registry import UserError
from reasoner.store import is_done
from reasoner.trainers.checkpoint import Trained, latest_step, load_checkpoint, regrouped, save_checkpoint
from reasoner.trainers.loop import OptimizerConfig, by_steps, make_optimizer

ROOT = Path(__file__).parent.parent.parent
PPO = ROOT / "configs" / "smoke" / "ppo.yaml"


def training(name: str = "adamw"):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    config = OptimizerConfig(name=name, lr=0.1)
    optimizer = make_optimizer(net, config)
    return net, Trained([optimizer], [by_steps(optimizer, config, 10)])


def step(net, trained: Trained) -> None:
    net(torch.randn(3, 4)).square().sum().backward()
    trained.optimizers[0].step()
    trained.optimizers[0].zero_grad()
    trained.schedules[0].step()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path, name):
    accelerator = Accelerator(cpu=True)
    net, trained = training(name)
    for _ in range(3):
        step(net, trained)
    save_checkpoint(tmp_path, 3, trained, {"cursor": 7, "name": "a"}, "f", accelerator)
    drawn = []
    for _ in range(2):
        step(net, trained)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    other, fresh = training(name)
    restored = load_checkpoint(tmp_path, fresh, "f", accelerator)
    assert restored is not None and restored.step == 3 and restored.loop == {"cursor": 7, "name": "a"}
    for numbers in drawn:
        step(other, fresh)
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == numbers
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    accelerator = Accelerator(cpu=True)
    net, trained = training()
    assert load_checkpoint(tmp_path / "none", trained, "f", accelerator) is None
    for number in (1, 2, 3):
        step(net, trained)
        save_checkpoint(tmp_path, number, trained, {"at": number}, "f", accelerator)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00002", "00003"]
    assert latest_step(tmp_path) == 3
    oldest = load_checkpoint(tmp_path, trained, "f", accelerator, oldest=True)
    assert oldest is not None and oldest.loop == {"at": 2}
    (tmp_path / ".00004.tmp").mkdir()  # a kill in the middle of writing
    with open(tmp_path / "00003" / "shared.pt", "r+b") as file:
        file.write(b"\0" * 8)
    assert latest_step(tmp_path) == 2
    newest = load_checkpoint(tmp_path, trained, "f", accelerator)
    assert newest is not None and newest.step == 2
    save_checkpoint(tmp_path, 4, trained, {}, "f", accelerator)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path, value):
    accelerator = Accelerator(cpu=True)
    net, trained = training()
    save_checkpoint(tmp_path, 1, trained, {}, "f", accelerator)
    with torch.no_grad():
        net[1].weight[0, 3] = value
    with pytest.raises(
        UserError, match=r"after step 2 are no numbers \(1 tensors .*the same command goes on there"
    ):
        save_checkpoint(tmp_path, 2, trained, {}, "f", accelerator)
    assert latest_step(tmp_path) == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["00001"]


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    accelerator = Accelerator(cpu=True)
    _, trained = training()
    save_checkpoint(tmp_path, 1, trained, {}, "one", accelerator)
    with pytest.raises(UserError, match="another config"):
        load_checkpoint(tmp_path, trained, "two", accelerator)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(tmp_path):
    def command(out: Path) -> list[str]:
        options = ["stages.1.save_every=1", "stages.1.rounds=6", "stages.1.imitate_self=true"]
        return [sys.executable, "-m", "reasoner", "train", str(PPO), f"out={out}", *options]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    subprocess.run(command(tmp_path / "whole"), check=True, timeout=900, **quiet)
    out = tmp_path / "killed"
    rng = random.Random(0)
    saved = out / "stages/ppo/checkpoints"
    kills = 0
    for wanted in ("00001", "00003"):
        process = subprocess.Popen(command(out), **quiet)
        while process.poll() is None and not (saved / wanted).is_dir():
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2 and not is_done(out / "stages/ppo")
    subprocess.run(command(out), check=True, timeout=900, **quiet)
    for net in ("model", "critic"):
        files = [run / "models/ppo" / net / "model.safetensors" for run in (tmp_path / "whole", out)]
        assert len({hashlib.sha256(f.read_bytes()).hexdigest() for f in files}) == 1, net
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert len([x for x in lines if "ppo/loss" in x]) == 6


@pytest.mark.parametrize("num", [1, 2, 3])
def test_loops_of_two_processes_go_on_in_others(num):
    """What each had of its own is dealt out once, costs are counted once, the rest is the same on all."""
    loops = [
        {
            "cursor": 8, "own_chains": [{"problem_id": f"{rank}{i}"} for i in range(3 - rank)],
            "ledger": {"counts": {"ppo": {"policy": {"decoded": 10 + rank}}}, "seconds": {"ppo": 2.0}, "processes": {"ppo": 1}},
        }
        for rank in range(2)
    ]  # fmt: skip
    found = [regrouped(loops, rank, num) for rank in range(num)]
    assert all(loop["cursor"] == 8 for loop in found)
    dealt = [chain["problem_id"] for loop in found for chain in loop["own_chains"]]
    assert sorted(dealt) == ["00", "01", "02", "10", "11"]
    assert (
        max(len(loop["own_chains"]) for loop in found) - min(len(loop["own_chains"]) for loop in found) <= 1
    )
    costs = [loop["ledger"]["counts"].get("ppo", {}).get("policy", {}).get("decoded", 0) for loop in found]
    assert costs == [21, *[0] * (num - 1)]
