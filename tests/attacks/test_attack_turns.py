"""Turns for the cores, between threads, processes and runs: shared, given back by who is stopped, and ended in time."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.attacks.test_attack_infrastructure import ROOT
from verifiers.sandbox.turns import Turns


def test_no_room_for_turns_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    turns = Turns(2, str(tmp_path / "file" / "folder"))
    assert turns.take() == -1
    turns.give(-1)
    (tmp_path / "file").unlink()
    assert turns.take() == 0  # room came back


def test_turns_are_shared_between_processes(tmp_path):
    ours = Turns(1, str(tmp_path / "turns"))
    turn = ours.take()
    script = (
        "import sys, time\nfrom verifiers.sandbox.turns import Turns\nt = Turns(1, sys.argv[1])\n"
        "print('waiting', flush=True)\nt.take()\nprint('taken', flush=True)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "turns")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    assert other.poll() is None
    ours.give(turn)
    assert other.stdout.readline() == "taken\n"
    assert other.wait(5) == 0
    other.stdout.close()


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_stopped_process_holds_no_turn(tmp_path):
    """Twice: two runs are stopped with the only turn in hand, and a third one still gets one."""
    script = (
        "import sys, time\nfrom verifiers.sandbox.turns import Turns\nTurns(1, sys.argv[1]).take()\n"
        "print('taken', flush=True)\ntime.sleep(600)"
    )
    folder = str(tmp_path / "turns")
    stopped = []
    try:
        for _ in range(2):
            stopped.append(
                subprocess.Popen([sys.executable, "-c", script, folder], cwd=ROOT, stdout=subprocess.PIPE)
            )
            assert stopped[-1].stdout.readline() == b"taken\n"
            stopped[-1].send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 5
            while _state_of(stopped[-1].pid) != "T":
                assert time.monotonic() < deadline
        ours = Turns(1, folder)
        started = time.monotonic()
        ours.give(ours.take())
        assert time.monotonic() - started < 5
        stopped[-1].kill()
        stopped[-1].wait()
        stopped[0].send_signal(signal.SIGCONT)
        while _state_of(stopped[0].pid) == "T":
            time.sleep(0.01)
        waiting = threading.Thread(target=ours.take, daemon=True)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()  # its owner moves again, so that the turn is taken
    finally:
        for process in stopped:
            process.kill()
            process.wait()
            process.stdout.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_lease_ends(tmp_path):
    late, other = (Turns(1, str(tmp_path / "turns")) for _ in range(2))
    late.take(0.5)
    started = time.monotonic()
    turn = other.take()
    assert 0.4 < time.monotonic() - started < 5
    late.give(0)
    other.give(turn)
    assert late.take() == 0
