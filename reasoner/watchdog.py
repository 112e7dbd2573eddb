"""A watchdog over a stage: where nothing moves for too long, the stacks of all threads are written down and it ends.

Whoever does a piece of work calls `beat`. Of several processes each has its own watchdog, and a sign of life of any is
one of all: they wait for each other. It counts its own pauses and no clock, so that a stopped process (Ctrl-Z, a machine
that sleeps) or a clock that jumps is no stall. A thread that waits for the lock of the interpreter cannot watch: who
holds that for ever is not found.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reasoner import interrupt

STALLED = 76  # exit code, beside interrupt.TRY_AGAIN
LONGEST_PAUSE_S = 5.0  # between two looks

_beats = 0


def beat() -> None:
    """A sign of life: some work was done."""
    global _beats
    _beats += 1


def beats() -> int:
    """How many signs of life there were in this process."""
    return _beats


@contextmanager
def watching(
    limit: float | None, folder: Path, what: str, signs: Path, rank: int = 0, num: int = 1
) -> Iterator[None]:
    """End this process with the code STALLED where neither it nor another of `num` has beaten for `limit` seconds.

    All stacks go to `folder`/stacks-RANK.txt, behind those of earlier stalls. Several processes write their signs of life
    to files in `signs`, which come and go. None: no watchdog.
    """
    if limit is None:
        yield
        return
    stop = threading.Event()
    arguments = (stop, limit, folder, what, signs, rank, num)
    thread = threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True)
    beat()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _sign(signs, rank).unlink(missing_ok=True)


def _watch(
    stop: threading.Event, limit: float, folder: Path, what: str, signs: Path, rank: int, num: int
) -> None:
    pause = min(LONGEST_PAUSE_S, limit / 10)
    others = [_sign(signs, other) for other in range(num) if other != rank]
    silent, last, told = 0.0, None, None
    while not stop.wait(pause):
        if others and told != _beats:
            told = _beats
            _tell(_sign(signs, rank), told)
        seen = (_beats, *map(_heard, others))
        silent = 0.0 if seen != last else silent + pause
        last = seen
        if silent >= limit:
            _end(folder / f"stacks-{rank}.txt", what, silent, 2 * pause if others else 0.0)


def _end(path: Path, what: str, silent: float, wait: float) -> None:
    words = f"{what} made no progress for {silent:.0f} s"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')}: {words}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        where = f"what each thread was at is in {path}"
    except OSError as problem:
        where = f"{path} could not be written ({problem.strerror})"
    # the others find the same at nearly the same time; their launcher ends them once this one has
    time.sleep(wait)
    interrupt.end_now(
        f"{words}; {where}; the same command goes on where it was; stalled_after= gives it longer", STALLED
    )


def _sign(signs: Path, rank: int) -> Path:
    return signs / f".alive-{rank}"


def _tell(path: Path, number: int) -> None:
    with suppress(OSError):  # a full disk is said by those who have something to lose
        path.write_text(str(number), encoding="utf-8")


def _heard(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
