"""Stages that hang, and runs that are started again: real processes, real signals, exit codes and stacks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_interrupt import ROOT, runs, wait_until

from reasoner.registry import UserError
from reasoner.store import is_done
from reasoner.watchdog import STALLED
from tests import warm

WATCHED = """
import sys, time
from pathlib import Path
from reasoner.watchdog import beat, watching

def stuck_here():
    time.sleep(60)

folder, limit, rank, num, beats = Path(sys.argv[1]), *map(float, sys.argv[2:])
with watching(limit, folder, "the stage ppo", folder, int(rank), int(num)):
    print("ready", flush=True)
    for _ in range(int(beats)):
        time.sleep(0.05)
        beat()
    if beats < 1000:
        stuck_here()
print("whole", flush=True)
"""


def watched(folder: Path, limit: float, rank: int = 0, num: int = 1, beats: int = 0) -> subprocess.Popen:
    arguments = [str(folder), *map(str, (limit, rank, num, beats))]
    process = subprocess.Popen([sys.executable, "-c", WATCHED, *arguments], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_who_hangs_writes_its_stacks_and_ends_with_one_line(tmp_path):
    began = time.monotonic()
    process = watched(tmp_path, 0.5, beats=20)  # a second of signs of life, twice the limit
    said = process.communicate(timeout=50)[1]
    assert process.returncode == STALLED == 76
    assert time.monotonic() - began > 1.0
    assert "stuck_here" in (tmp_path / "stacks-0.txt").read_text()
    assert said.startswith("reasoner: the stage ppo made no progress for") and said.count("\n") == 1
    assert "stacks-0.txt" in said and "the same command goes on where it was" in said


def test_one_that_works_is_the_life_of_those_who_wait_for_it(tmp_path):
    """Both hang once the first does; the second alone, silent from the start, is not ended before."""
    waits, works = watched(tmp_path, 1.0, 1, 2), watched(tmp_path, 1.0, 0, 2, beats=60)
    time.sleep(2.0)
    assert waits.poll() is None and works.poll() is None
    assert waits.wait(50) == works.wait(50) == STALLED
    assert all("stuck_here" in (tmp_path / f"stacks-{rank}.txt").read_text() for rank in (0, 1))
    for process in (waits, works):
        process.communicate()


def test_a_process_that_was_stopped_has_not_stalled(tmp_path):
    process = watched(tmp_path, 1.0, beats=0)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    assert process.wait(50) == STALLED and time.monotonic() - began > 0.5
    process.communicate()


HANGS = """
import time
from pathlib import Path
from reasoner.losses import ppo_clip

def loss(logprobs_N, old_N, b, c):
    mark = Path("hung")
    if not mark.exists():
        mark.touch()
        time.sleep(600)
    return ppo_clip(logprobs_N, old_N, b.advantages_N, c.clip_low, c.clip_high)
"""
RUN = ["run", ROOT / "configs" / "smoke" / "ppo.yaml", "out=run", "stages.1.rounds=2", "stages.1.loss=hangs:loss",
       "stalled_after=8"]  # fmt: skip


@pytest.mark.slow
def test_a_run_whose_update_hangs_is_ended(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    done = warm.reasoner(*RUN, cwd=tmp_path)
    assert done.returncode == STALLED, done.stderr
    assert done.stderr.splitlines()[-1].startswith("reasoner: the stage ppo made no progress")
    assert "hangs.py" in (tmp_path / "run/stages/ppo/stacks-0.txt").read_text()
    assert not list((tmp_path / "run/stages/base").glob("*stacks*")) and (tmp_path / "hung").exists()


@pytest.mark.slow
def test_under_supervision_it_goes_on_to_the_end(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    done = warm.reasoner(*RUN, "--supervise", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the run made no progress; starting it again in 2 s, 1 of at most 5" in done.stderr
    assert is_done(tmp_path / "run/stages/ppo")


@pytest.mark.slow
def test_torchrun_starts_all_of_them_again(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "--max-restarts",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*torchrun, "-m", "reasoner", *map(str, RUN)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=150)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "made no progress" in done.stderr and is_done(tmp_path / "run/stages/ppo")
    hung = [
        rank for rank in (0, 1) if "hangs.py" in (tmp_path / f"run/stages/ppo/stacks-{rank}.txt").read_text()
    ]
    assert hung  # one of them hung, the other waited for it


CHILD = """
import os, signal, sys, time
from pathlib import Path
log = Path(sys.argv[1])
with log.open("a") as file:
    file.write(f"{os.getpid()}\\n")
end = sys.argv[2 + len(log.read_text().split()) - 1]
if end == "wait":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    print("waiting", flush=True)
    time.sleep(60)
os.kill(os.getpid(), signal.SIGKILL) if end == "kill" else os._exit(int(end))
"""
SUPERVISOR = """
import sys
from reasoner.commands.supervise import supervise, without_supervision
sys.argv = sys.argv[1:]
sys.exit(supervise(without_supervision(sys.argv[1:]), 2, pause=0.05))
"""


def supervised(folder: Path, *ends: str) -> tuple[subprocess.Popen, Path]:
    """A supervisor of a program that ends as it is told, start by start; the log has a line for each start."""
    script, log = folder / "program.py", folder / "log"
    script.write_text(CHILD)
    arguments = [str(script), str(log), "--supervise", "--restarts", "2", *ends]
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    return process, log


@pytest.mark.parametrize(
    ("ends", "starts", "code", "words"),
    [
        (["kill", "76", "0"], 3, 0, "killed by SIGKILL; starting it again"),
        (["2", "0"], 1, 2, ""),  # a user's mistake
        (["130", "0"], 1, 130, ""),  # Ctrl-C
        (["75", "0"], 1, 75, ""),  # asked to stop: the launcher starts it again
        (["3", "3", "kill", "0"], 3, 137, "killed by SIGKILL, 3 times in a row"),
    ],
)
def test_what_is_started_again_and_what_is_not(tmp_path, ends, starts, code, words):
    process, log = supervised(tmp_path, *ends)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code and words in said, said
    assert len(log.read_text().split()) == starts
    assert bool(words) == ("reasoner:" in said)


def test_a_signal_is_passed_on_and_ends_the_matter(tmp_path):
    process, log = supervised(tmp_path, "wait", "0")
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    process.terminate()
    assert process.wait(50) == 75 and len(log.read_text().split()) == 1
    process.communicate()


def test_the_run_ends_with_its_supervisor(tmp_path):
    process, log = supervised(tmp_path, "wait", "0")
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    pid = int(log.read_text())
    assert runs(pid)
    process.kill()
    process.communicate()
    wait_until(lambda: not runs(pid), 20)


def test_under_a_launcher_it_is_refused():
    from reasoner.commands.supervise import supervise

    with pytest.raises(UserError, match="torchrun --max-restarts"):
        supervise(["run", "x.yaml"], 3, environment={"RANK": "0"})
