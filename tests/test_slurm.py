"""launch/slurm.sh with stand-ins for Slurm's two programs: two real processes are told to stop, save, and go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoner.store import is_done
from reasoner.trainers.checkpoint import latest_step

ROOT = Path(__file__).parent.parent
RUN = """
prompt: {template: "{prompt}=\\n"}
problems:
  train:
    - {name: arithmetic, size: 40, families: {chain_sum: {max_terms: 2, max_digits: 1}}}
stages:
  - {kind: init, problems: [train], hidden_size: 32, num_layers: 2, num_heads: 2, num_key_value_heads: 1, intermediate_size: 64}
  - {kind: ppo, model: base, rounds: 400, problems_per_round: 4, max_tokens: 8, save_every: 400, drop_uniform: false}
"""
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
count = int(os.environ["SLURM_NTASKS"])
command = sys.argv[sys.argv.index("bash"):]
places = [dict(SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(count)]
tasks = [subprocess.Popen(command, env=os.environ | place) for place in places]
signal.signal(signal.SIGUSR1, lambda number, frame: [t.send_signal(number) for t in tasks])
open(os.environ["TASKS"], "a").write(" ".join(str(t.pid) for t in tasks) + "\\n")
sys.exit(max(t.wait() for t in tasks))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$ASKED"; fi
"""


@pytest.fixture
def environment(tmp_path):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_SUBMIT_DIR": str(tmp_path), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        "TASKS": str(tmp_path / "tasks"), "ASKED": str(tmp_path / "asked"),
    }  # fmt: skip


def test_outside_of_slurm_it_says_how_to_call_it():
    outside = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sh", "x.yaml"], env=outside, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "sbatch launch/slurm.sh CONFIG" in done.stderr


@pytest.mark.slow
def test_told_to_stop_it_saves_is_queued_again_and_goes_on(environment, tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    checkpoints = tmp_path / "out/stages/ppo/checkpoints"

    def submit(*changes: str) -> subprocess.Popen:
        command = ["bash", str(ROOT / "launch/slurm.sh"), "run.yaml", "out=out", *changes]
        said = (tmp_path / "said").open("a")
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)

    job = submit()
    rounds = tmp_path / "out/stages/ppo/metrics.jsonl"
    until = time.monotonic() + 120
    while not (rounds.exists() and "ppo/loss" in rounds.read_text()) and time.monotonic() < until:
        time.sleep(0.2)
    (pids,) = (tmp_path / "tasks").read_text().splitlines()
    assert len(pids.split()) == 2
    for pid in pids.split():
        os.kill(int(pid), signal.SIGUSR1)
    assert job.wait(120) == 75, (tmp_path / "said").read_text()
    saved = latest_step(checkpoints)
    assert saved and not is_done(checkpoints.parent)
    assert (tmp_path / "asked").read_text() == f"requeue {os.getpid()}\n"
    assert submit(f"stages.1.rounds={saved + 1}").wait(240) == 0, (tmp_path / "said").read_text()
    assert is_done(checkpoints.parent)
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
