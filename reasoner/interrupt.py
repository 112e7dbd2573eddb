"""Signals that stop a program: answered with a save where a trainer can, within a bound; Ctrl-C twice ends it at once.

SIGTERM, SIGUSR1 (what Slurm sends ahead of a time limit) and SIGHUP end with the exit code of "try again", SIGINT with
the shell's.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

GRACE_S = (
    30.0  # in which a trainer may reach the end of its step, and as long again in which all else has to end
)
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
EXIT_CODES = {
    signal.SIGINT: 130,
    signal.SIGTERM: TRY_AGAIN,
    signal.SIGUSR1: TRY_AGAIN,
    signal.SIGHUP: TRY_AGAIN,
}


class Stopped(BaseException):
    """A signal ended the work; no Exception, so that nobody takes it for a failure."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number
        self.words = last_words(number)  # now, before whoever is stopped unwinds


@dataclass
class _State:
    asked: int | None = None  # the first signal
    deferring: int = 0
    is_overdue: bool = False
    goes_on: bool = False
    owner: int = 0


_state = _State()


def listen() -> None:
    """Answer the signals from now on, in the main thread; those that the caller has ignored (nohup) stay so."""
    global _state
    _state = _State(owner=os.getpid())
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


@contextmanager
def going_on() -> Iterator[None]:
    """What runs inside is gone on with by the same command, which whoever stops it is told."""
    _state.goes_on = True
    try:
        yield
    finally:
        _state.goes_on = False


@contextmanager
def deferring() -> Iterator[None]:
    """What runs inside asks `stop_asked` at the end of each of its steps, saves, and raises Stopped itself."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1


def stop_asked() -> int:
    """The signal that has asked this process to stop; 0 for none."""
    return _state.asked or 0


def ask(number: int) -> None:
    """Ask this process to stop as the signal would at the end of a step: for one that is told so by another."""
    if _state.asked is None:
        _state.asked = number


def last_words(number: int) -> str:
    """What to say at the end, and how to go on."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return f"stopped by {name}" + ("; the same command goes on where it was" if _state.goes_on else "")


def _answer(number: int, frame: object) -> None:
    if os.getpid() != _state.owner:  # a forked child has nothing to save
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _state.asked is None:
        _state.asked = number
        threading.Thread(target=_insist, args=(number,), daemon=True).start()
        if not _state.deferring:
            raise Stopped(number)
        again = ", Ctrl-C again ends at once" if number == signal.SIGINT else ""
        _say(f"stopping at the end of this step, in {GRACE_S:.0f} s at the latest{again}")
    elif _state.is_overdue:
        _state.is_overdue = False
        raise Stopped(number)
    elif number == _state.asked:
        _end(number)
    # another signal beside: launchers send several, and the first is being answered


def _insist(number: int) -> None:
    """Raise Stopped where no step has ended in time; end where even that was of no use."""
    pause = threading.Event()
    pause.wait(GRACE_S)
    _state.is_overdue = bool(_state.deferring)
    if _state.is_overdue:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    pause.wait(GRACE_S)
    _end(number)


def _end(number: int) -> None:
    """End here and now, without a traceback."""
    end_now(last_words(number), EXIT_CODES[signal.Signals(number)])


def end_now(words: str, code: int) -> None:
    """Say why and end this process, whatever its threads do; idle sandbox children are ended, busy ones die with us."""
    _say(words)
    pool = sys.modules.get("verifiers.sandbox.pool")
    if pool is not None:
        # in a thread: the one that was interrupted may hold the pool's lock
        cleaning = threading.Thread(target=pool.close_all, daemon=True)
        cleaning.start()
        cleaning.join(2.0)
    os._exit(code)


def _say(text: str) -> None:
    os.write(2, f"reasoner: {text}\n".encode())
