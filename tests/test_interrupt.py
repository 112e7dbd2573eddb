"""Signals sent to real runs: a save at the end of the step, a line that says how to go on, an exit code, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasoner.store import is_done
from reasoner.trainers.checkpoint import latest_step
from tests import warm

ROOT = Path(__file__).parent.parent
PPO = ROOT / "configs" / "smoke" / "ppo.yaml"
LONG = ["stages.1.rounds=500", "stages.1.save_every=100000"]


def start(out: Path, *overrides: str):
    """A run under way in a process of its own, whose words go to the file that `said` reads."""
    streams = [out.with_suffix(".out"), out.with_suffix(".err")]
    return warm.start("run", PPO, f"out={out}", *LONG, *overrides, cwd=ROOT, streams=streams)


def said(out: Path) -> str:
    return out.with_suffix(".err").read_text()


def wait_until(true, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def has_trained(out: Path) -> bool:
    lines = out / "stages/ppo/metrics.jsonl"
    return lines.is_file() and "ppo/loss" in lines.read_text()


def children_of(pid: int) -> list[int]:
    """Every process below one, by the kernel's account."""
    below = []
    for path in Path("/proc").glob("[0-9]*/task/*/children"):
        if int(path.parts[2]) in (pid, *below):
            below += [int(child) for child in path.read_text().split()]
    return below


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run for each signal, all started at once."""
    folder = tmp_path_factory.mktemp("stopped")
    processes = {number: (folder / number.name, start(folder / number.name)) for number in CODES}
    yield processes
    for _, process in processes.values():
        process.kill()
        process.join()


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_stopped_run_saves_says_how_to_go_on_and_leaves_nothing(started, number, code):
    out, process = started[number]
    wait_until(lambda: has_trained(out) or process.exitcode is not None)
    below = children_of(process.pid)
    assert latest_step(out / "stages/ppo/checkpoints") == 0  # the next save would be far away
    os.kill(process.pid, number)
    process.join(120)
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    words = said(out)
    assert process.exitcode == code, words
    assert "stopping at the end of this step" in words and "Traceback" not in words
    last = words.rstrip().splitlines()[-1]
    assert last == f"reasoner: stopped by {name}; the same command goes on where it was"
    saved = latest_step(out / "stages/ppo/checkpoints")
    assert saved >= 1 and not (out / ".lock").exists() and not is_done(out / "stages/ppo")
    wait_until(lambda: not any(map(runs, below)), 20)  # they end by themselves once their owner is gone
    if number == signal.SIGTERM:  # more rounds may be fewer, too: the rest is done at once
        again = start(out, f"stages.1.rounds={saved + 1}")
        again.join(240)
        assert again.exitcode == 0, said(out)
        assert is_done(out / "stages/ppo")
        losses = [x for x in (out / "metrics.jsonl").read_text().splitlines() if "ppo/loss" in x]
        assert len(losses) == saved + 1


def test_a_second_ctrl_c_ends_at_once_without_a_traceback(tmp_path):
    out = tmp_path / "run"
    process = start(
        out, "stages.1.problems_per_round=2000", "stages.1.max_tokens=200"
    )  # a step that takes minutes
    try:
        wait_until(lambda: is_done(out / "stages/base") and (out / "stages/ppo/metrics.jsonl").exists())
        time.sleep(3)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
    finally:
        process.kill()
    assert time.monotonic() - began < 20
    assert process.exitcode == 130, said(out)
    assert "Ctrl-C again ends at once" in said(out) and "Traceback" not in said(out)
    with subprocess.Popen([sys.executable, "-c", "from reasoner.folder import claimed; import sys, pathlib\n"
                           "with claimed(pathlib.Path(sys.argv[1])): pass", str(out)], cwd=ROOT) as free:  # fmt: skip
        assert free.wait(timeout=60) == 0  # the next start finds the folder free


BOUND = """
import time
from reasoner import interrupt
interrupt.GRACE_S = 1.0
interrupt.listen()
try:
    with interrupt.going_on(), interrupt.deferring():
        print("ready", flush=True)
        {work}
except interrupt.Stopped as stop:
    print("unwound", stop.number, flush=True)
    {then}
"""


@pytest.mark.parametrize(
    ("work", "then", "words", "code"),
    [
        ("time.sleep(60)", "pass", "unwound 15", 0),  # a step that does not end: Stopped is raised in it
        ("time.sleep(60)", "time.sleep(60)", "unwound 15", 75),  # and where that is of no use, the end
    ],
)
def test_the_wait_for_a_step_is_bounded(work, then, words, code):
    program = BOUND.format(work=work, then=then)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.terminate()
    said, _ = process.communicate(timeout=50)
    assert words in said and process.returncode == code
    assert 0.9 < time.monotonic() - began < 20


def test_what_the_caller_ignores_stays_ignored():
    program = "import os, signal\nfrom reasoner import interrupt\ninterrupt.listen()\nos.kill(os.getpid(), signal.SIGHUP)"
    done = subprocess.run(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", program], cwd=ROOT, timeout=60
    )
    assert done.returncode == 0
