"""launch/slurm_ray.sh with stand-ins for Slurm's two programs: Ray on each machine first, then one run on the first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
count = 1 if "--nodes=1" in words else int(os.environ["SLURM_NNODES"])
command = words[words.index("bash"):]
tasks = [subprocess.Popen(command, env=os.environ | dict(SLURM_NODEID=str(i)), start_new_session=True) for i in range(count)]
def tell(number, frame):
    for task in tasks:
        os.killpg(task.pid, number)
signal.signal(signal.SIGUSR1, tell)
signal.signal(signal.SIGTERM, tell)
open(os.environ["SRUNS"], "a").write(str(os.getpid()) + "\\n")
codes = [t.wait() for t in tasks]
sys.exit(max(codes))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$ASKED"; fi
"""
# in the place of Python: Ray's head listens, the others end while it does not, and the run says what it was given
PYTHON = f"""#!{sys.executable}
import os, signal, socket, sys, time
words = sys.argv[1:]
with open(os.environ["SAID"], "a") as said:
    said.write(" ".join([os.environ.get("SLURM_NODEID", "script"), *words]) + "\\n")
if os.environ["RAY_AUTH_MODE"] != "token" or "get-auth-token" in words:
    sys.exit("get-auth-token" not in words)
if "ray.scripts.scripts" in words and "--head" in words:
    server = socket.create_server(("127.0.0.1", int(words[words.index("--port") + 1])))
    time.sleep(60)
elif "ray.scripts.scripts" in words:
    host, port = words[words.index("--address") + 1].split(":")
    socket.create_connection((host, int(port))).close()
    time.sleep(60)
elif os.environ["CODE"] == "75":
    def stop(*_):
        time.sleep(0.3)
        host, port = words[words.index("--ray") + 1].split(":")
        socket.create_connection((host, int(port))).close()  # the cluster is there still
        sys.exit(75)
    signal.signal(signal.SIGUSR1, stop)
    time.sleep(60)
sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture
def environment(tmp_path):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "bin/python"),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "3",
        "SLURM_SUBMIT_DIR": str(tmp_path), "ASKED": str(tmp_path / "asked"), "SAID": str(tmp_path / "said"),
        "SRUNS": str(tmp_path / "sruns"), "CODE": "0",
    }  # fmt: skip


def submit(environment, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", str(ROOT / "launch/slurm_ray.sh"), *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_outside_of_slurm_it_says_how_to_call_it():
    outside = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    job = submit(outside, "x.yaml")
    assert "sbatch launch/slurm_ray.sh CONFIG" in job.communicate()[1] and job.returncode == 2


def test_ray_is_on_each_machine_and_the_run_on_the_first_with_its_address(environment, tmp_path):
    job = submit(environment, "run.yaml", "seed=1")
    told = job.communicate(timeout=60)[1]
    assert job.returncode == 0, told
    address = f"127.0.0.1:{20000 + os.getpid() % 20000}"
    said = (tmp_path / "said").read_text().splitlines()
    assert f"0 -m reasoner run run.yaml seed=1 --ray {address}" in said
    assert said[0] == "script -m ray.scripts.scripts get-auth-token --generate"
    (head,) = [line for line in said if "--head" in line]
    assert head.startswith("0 -m ray.scripts.scripts start --block") and head.endswith(
        f"--num-cpus 3 --head --port {address.split(':')[1]} --include-dashboard false"
    )
    others = [line for line in said if "--address" in line]
    assert all(line.startswith("1 ") and line.endswith(f"--address {address}") for line in others)
    assert not (tmp_path / "asked").exists()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in (tmp_path / "sruns").read_text().split()):
        assert time.monotonic() < deadline, "Ray outlives the job"
        time.sleep(0.05)


def test_told_to_stop_the_run_is_and_the_job_is_queued_again(environment, tmp_path):
    """Slurm's signal meets both steps; Ray does not heed it."""
    job = submit(environment | {"CODE": "75"}, "run.yaml")
    deadline = time.monotonic() + 60
    while not ((tmp_path / "said").exists() and "reasoner run" in (tmp_path / "said").read_text()):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # until the stand-in listens
    for pid in (tmp_path / "sruns").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert job.wait(60) == 75
    assert (tmp_path / "asked").read_text() == f"requeue {os.getpid()}\n"
