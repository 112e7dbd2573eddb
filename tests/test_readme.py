"""The README's first recipe as a stranger follows it, from an empty folder: own problems, SFT, PPO, evaluation, chat."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import save_small_qwen

from tests import warm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# A small model learns the format in a minute; nothing else of the commands is changed.
SMALLER = {
    "configs/gsm8k/sft.yaml": ["stages.0.max_steps=80", "stages.0.batch_size=8", "stages.0.lora=null",
                               "stages.0.optimizer={name: muon, lr: 0.02}"],
    "configs/gsm8k/ppo.yaml": ["stages.0.rounds=2", "stages.0.problems_per_round=4", "stages.0.max_tokens=16",
                               "stages.0.drop_uniform=false"],
    "configs/gsm8k/evaluate.yaml": ["stages.0.max_tokens=16", "stages.0.num_samples=2"],
}  # fmt: skip


def recipe() -> list[list[str]]:
    """The commands of the block below "My model, my problems"."""
    text = (ROOT / "README.md").read_text("utf-8").partition("**My model, my problems.**")[2]
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)[:1]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_own_problems_become_a_model_to_talk_with(tmp_path):
    rows = [
        {"prompt": f"{i} + 4", "answer": str(i + 4), "solution": f"#### {i + 4}"} for i in (3, 1, 2, 5, 4, 0)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    texts = [f"Question: {row['prompt']}\nAnswer:\n{row['solution']}" for row in rows]
    save_small_qwen(tmp_path / "MODEL", texts * 4, 300)
    commands = recipe()
    assert [words[1] for words in commands] == ["train", "train", "evaluate", "chat"]
    for _, *words in commands[:3]:
        done = warm.reasoner(*words, *SMALLER[words[1]], cwd=tmp_path)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    found = json.loads((tmp_path / "runs/evaluate/metrics.json").read_text())
    greedy = {
        row["when"]: row["value"] for row in found if (row["metric"], row["method"]) == ("pass@1", "greedy")
    }
    assert greedy == {"MODEL": 0.0, "sft": 1.0, "ppo": 1.0}
    talk = [sys.executable, "-m", "reasoner", *commands[3][1:], "--max-context", "64", "--max-tokens", "16"]
    told = subprocess.run(
        talk, cwd=tmp_path, input="3 + 4\n", capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0 and "####" in told.stdout and "tokens drawn" in told.stdout, told.stderr[
        -2000:
    ]
