"""Reward models that are interrupted or killed go on to the same weights."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import save_small_qwen

from reasoner.ledger import Ledger
from reasoner.policy.adapters import LoRA
from reasoner.policy.labelled import from_steps
from reasoner.store import is_done
from reasoner.trainers.checkpoint import latest_step
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.reward_model import (
    RewardModelStage,
    train_reward_model,
)
from tests.trainers.test_reward_model import told_by_a_token


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, lora):
    base = save_small_qwen(tmp_path / "base", ["+-"], 300)
    data = from_steps(told_by_a_token(20), 500)
    config = RewardModelStage(
        epochs=2, batch_size=8, holdout=0.2, save_every=4, lora=lora, optimizer=OptimizerConfig(lr=0.01)
    )

    def train(name: str, stop_at: int = 10**6) -> tuple[Session, dict]:
        logged = {}

        def progress(done: int, total: int, note: str) -> None:
            if done == stop_at:
                raise Interrupted

        session = Session(
            tmp_path / name, Ledger(), lambda metrics, step: logged.update({step: metrics}), progress,
            checkpoints=tmp_path / name / "checkpoints",
        )  # fmt: skip
        with session.ledger.stage("prm"):
            train_reward_model(str(base), data, config, session, "prm")
        return session, logged

    whole, told = train("whole")
    with pytest.raises(Interrupted):
        train("cut", stop_at=14)
    assert latest_step(tmp_path / "cut" / "checkpoints") == 12
    resumed, told_again = train("cut")
    files = sorted(p.name for p in (tmp_path / "whole" / "model").glob("*.safetensors"))
    assert "score_head.safetensors" in files and len(files) == 2
    for file in files:
        both = [load_file(tmp_path / name / "model" / file) for name in ("whole", "cut")]
        assert all(torch.equal(both[0][k], both[1][k]) for k in both[0]), file
    assert resumed.ledger.counts == whole.ledger.counts
    assert told_again == {step: metrics for step, metrics in told.items() if step > 12}


@pytest.mark.slow
def test_killed_and_started_again_by_the_same_command_it_ends_with_the_same_weights(tmp_path):
    rng = random.Random(2)
    rows = [
        {"prompt": f"What is {a}+{b}?", "completions": [f"{a}+{b}={a + b + w}", f"So {a + b + w}."], "labels": [not w] * 2}
        for a, b, w in ((rng.randint(1, 50), rng.randint(1, 50), rng.randint(0, 1)) for _ in range(200))
    ]  # fmt: skip
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "prm.yaml"
    config.write_text(yaml.safe_dump({
        "prompt": {"template": "{prompt}\n"},
        "problems": {"demonstrations": [{"name": "labelled", "path": str(labels)}]},
        "stages": [
            {"kind": "init", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1},
            {"kind": "import", "model": "base", "path": str(labels)},
            {"kind": "prm", "model": "base", "labels": "import", "label_kind": "hard", "batch_size": 8, "epochs": 4,
             "save_every": 1, "optimizer": {"lr": 0.01}},
        ],
    }))  # fmt: skip
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": Path(__file__).parent.parent.parent,
    }

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "reasoner", "train", str(config), f"out={out}"]

    subprocess.run(command(tmp_path / "whole"), check=True, timeout=300, **quiet)
    out = tmp_path / "killed"
    saved = out / "stages/prm/checkpoints"
    for wanted in (3, 30):
        process = subprocess.Popen(command(out), **quiet)
        while process.poll() is None and latest_step(saved) < wanted:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before the kill"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not is_done(out / "stages/prm") and latest_step(saved) >= 30
    subprocess.run(command(out), check=True, timeout=300, **quiet)
    for file in ("model.safetensors", "score_head.safetensors"):
        found = [run / "models/prm/model" / file for run in (tmp_path / "whole", out)]
        assert len({hashlib.sha256(f.read_bytes()).hexdigest() for f in found}) == 1, file
    losses = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines() if "prm/loss" in x]
    steps = [row["step"] for row in losses]
    assert steps == sorted(set(steps)) and steps[:3] == [10, 20, 30]
