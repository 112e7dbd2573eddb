"""--supervise: the same command in a process of its own, started again after a crash or a stall."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reasoner.engine.servers import die_with_parent
from reasoner.interrupt import EXIT_CODES, TRY_AGAIN
from reasoner.registry import UserError
from reasoner.watchdog import STALLED

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0  # before a new start; doubled each time
STEADY_S = 600.0  # a start that lived so long begins the count and the pauses anew
# ends that no new start would change: done, a user's mistake, a stop that was asked for
FINAL = (0, 2, TRY_AGAIN, EXIT_CODES[signal.SIGINT])


def supervise(
    arguments: Sequence[str], restarts: int, pause: float = FIRST_PAUSE_S, environment: Mapping[str, str] = os.environ
) -> int:  # fmt: skip
    """Run `reasoner ARGUMENTS` until it is done, a user is needed, or `restarts` starts in a row failed; its exit code.

    Signals to this process are passed on, and end the matter. The run ends with this process, SIGKILL included.
    """
    if "RANK" in environment:
        raise UserError(
            "--supervise under a launcher would start one process of several again; expected the launcher to start all: "
            "torchrun --max-restarts 5 …"
        )
    child = _Child(command(arguments))
    for number, handler in ((n, child.pass_on) for n in EXIT_CODES):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    failed = 0
    while True:
        began = time.monotonic()
        code = child.run()
        if child.asked.is_set() or code in FINAL:
            return code
        failed = 1 if time.monotonic() - began > STEADY_S else failed + 1
        why = _why(code)
        if failed > restarts:
            _say(f"{why}, {failed} times in a row; expected the run to go on: see what it said")
            return code
        wait = min(LONGEST_PAUSE_S, pause * 2 ** (failed - 1))
        _say(f"{why}; starting it again in {wait:.0f} s, {failed} of at most {restarts} times in a row")
        if child.asked.wait(wait):
            return EXIT_CODES[signal.Signals(child.number)]


def command(arguments: Sequence[str]) -> list[str]:
    """What starts this program again as it was started, with other arguments."""
    script = Path(sys.argv[0])
    itself = [str(script)] if script.is_file() and script.name != "__main__.py" else ["-m", "reasoner"]
    return [sys.executable, *itself, *arguments]


def without_supervision(arguments: Sequence[str]) -> list[str]:
    """The arguments but for --supervise and --restarts N."""
    kept, is_number = [], False
    for argument in arguments:
        if not is_number and argument != "--supervise" and not argument.startswith("--restarts"):
            kept.append(argument)
        is_number = argument == "--restarts"
    return kept


class _Child:
    """The run's process, one after the other; in a group of its own, so that a signal reaches it once."""

    def __init__(self, words: list[str]):
        self.words = words
        self.process: subprocess.Popen | None = None
        self.asked = threading.Event()
        self.number = 0

    def run(self) -> int:
        """Start it and wait; its exit code, of one that a signal killed 128 and the signal's number."""
        self.process = subprocess.Popen(self.words, process_group=0, preexec_fn=die_with_parent)
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def pass_on(self, number: int, frame: object) -> None:
        self.number = number
        self.asked.set()
        if self.process is not None:
            self.process.send_signal(number)


def _why(code: int) -> str:
    if code > 128:
        return f"the run was killed by {signal.Signals(code - 128).name}"
    return "the run made no progress" if code == STALLED else f"the run ended with exit code {code}"


def _say(text: str) -> None:
    print(f"reasoner: {text}", file=sys.stderr, flush=True)
