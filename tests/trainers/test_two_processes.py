"""accelerate launch: two real processes make the updates of one."""

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
PPO = ROOT / "configs/smoke/ppo.yaml"


def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train = ["-m", "reasoner", "train", str(PPO)]
    subprocess.run(
        [sys.executable, *train, f"out={one}"], cwd=ROOT, check=True, capture_output=True, timeout=200
    )
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "launch/accelerate/cpu_2proc.yaml",
    ]
    done = subprocess.run(
        [*launch, *train, f"out={two}"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    base = load_file(one / "models/base/model/model.safetensors")
    for net in ("model", "critic"):
        a, b = (load_file(out / f"models/ppo/{net}/model.safetensors") for out in (one, two))
        moved = max((a[k] - base[k]).abs().max().item() for k in a)
        apart = max((a[k] - b[k]).abs().max().item() for k in a)
        # seven problems a round on two processes: unequal shares, five updates
        assert moved > 5e-4
        assert apart < 1e-5, net
