"""The README's first recipe and the transcript, typed in an empty folder: own problems, SFT, PPO, evaluation, chat."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import save_small_qwen

from tests import warm

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "**My model, my problems.**", "reasoner/TRANSCRIPT.md": ""}  # from where on
# A small model learns the format in a minute; nothing else of the commands is changed.
SMALLER = {
    "configs/gsm8k/sft.yaml": ["stages.0.max_steps=80", "stages.0.batch_size=8", "stages.0.lora=null",
                               "stages.0.optimizer={name: muon, lr: 0.02}"],
    "configs/gsm8k/ppo.yaml": ["stages.0.rounds=2", "stages.0.problems_per_round=4", "stages.0.max_tokens=16",
                               "stages.0.drop_uniform=false"],
    "configs/gsm8k/evaluate.yaml": ["stages.0.max_tokens=16", "stages.0.num_samples=2"],
}  # fmt: skip


def commands_of(page: str) -> list[list[str]]:
    """The commands of our program in a page: the words behind its name."""
    text = (
        (ROOT / page).read_text("utf-8").partition(PAGES[page])[2]
        if PAGES[page]
        else (ROOT / page).read_text("utf-8")
    )
    shown = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in (shown[:1] if PAGES[page] else shown) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("reasoner ")]
    assert [words[1] for words in commands] == ["train", "train", "evaluate", "chat"]
    return [words[1:] for words in commands]


def typed(
    commands: list[list[str]], folder: Path, question: str, smaller: dict[str, list[str]], chat: list[str]
) -> str:
    """Run them in a folder, one after the other; what the chat said."""
    for words in commands[:3]:
        done = warm.reasoner(*words, *smaller.get(words[1], []), cwd=folder, timeout=900)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    told = subprocess.run(
        [sys.executable, "-m", "reasoner", *commands[3], *chat],
        cwd=folder, input=f"{question}\n", capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0 and "tokens drawn" in told.stdout, told.stderr[-2000:]
    return told.stdout


def greedy_of(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "runs/evaluate/metrics.json").read_text())
    return {
        row["when"]: row["value"] for row in found if (row["metric"], row["method"]) == ("pass@1", "greedy")
    }


def save_rows(folder: Path) -> list[dict]:
    rows = [
        {"prompt": f"{i} + 4", "answer": str(i + 4), "solution": f"#### {i + 4}"} for i in (3, 1, 2, 5, 4, 0)
    ]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    return rows


def transcript_problems(folder: Path) -> list[dict]:
    """What the transcript's own script writes."""
    (script,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "reasoner/TRANSCRIPT.md").read_text("utf-8"), flags=re.DOTALL
    )
    (folder / "problems.py").write_text(script)
    subprocess.run([sys.executable, "problems.py"], cwd=folder, check=True)
    return [json.loads(line) for line in (folder / "my.jsonl").read_text().splitlines()]


def test_the_script_of_the_transcript_keeps_a_fifth_apart(tmp_path):
    rows = transcript_problems(tmp_path)
    others = [json.loads(line) for line in (tmp_path / "other.jsonl").read_text().splitlines()]
    assert (len(rows), len(others)) == (80, 20)
    assert {row["prompt"] for row in rows} & {row["prompt"] for row in others} == set()
    first = others[0]
    assert (first["answer"], first["solution"]) == ("5", "2 + 3 = 5\n#### 5")


@pytest.mark.slow
def test_own_problems_become_a_model_to_talk_with(tmp_path):
    rows = save_rows(tmp_path)
    texts = [f"Question: {row['prompt']}\nAnswer:\n{row['solution']}" for row in rows]
    save_small_qwen(tmp_path / "MODEL", texts * 4, 300)
    said = typed(
        commands_of("README.md"), tmp_path, "3 + 4", SMALLER, ["--max-context", "64", "--max-tokens", "16"]
    )
    assert "####" in said
    assert greedy_of(tmp_path) == {"MODEL": 0.0, "sft": 1.0, "ppo": 1.0}


@pytest.mark.slow
def test_the_transcript_runs_on_a_small_model(tmp_path):
    rows = transcript_problems(tmp_path)
    texts = [f"Question: {row['prompt']}\nAnswer:\n{row['solution']}" for row in rows]
    save_small_qwen(tmp_path / "MODEL", texts, 400)
    smaller = {"configs/gsm8k/sft.yaml": SMALLER["configs/gsm8k/sft.yaml"],
               "configs/gsm8k/ppo.yaml": ["stages.0.drop_uniform=false"]}  # fmt: skip
    typed(
        commands_of("reasoner/TRANSCRIPT.md"), tmp_path, rows[0]["prompt"], smaller, ["--max-context", "96"]
    )
    assert set(greedy_of(tmp_path)) == {"MODEL", "sft", "ppo"}


@pytest.mark.real
def test_the_transcript_runs_as_it_stands(tmp_path, real_model):
    rows = transcript_problems(tmp_path)
    (tmp_path / "MODEL").symlink_to(real_model)
    typed(commands_of("reasoner/TRANSCRIPT.md"), tmp_path, rows[0]["prompt"], {}, [])
    greedy = greedy_of(tmp_path)
    assert greedy["ppo"] > greedy["MODEL"]
