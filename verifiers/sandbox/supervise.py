"""Watching children from the slot: one deadline over pipes and pidfd, then SIGKILL and reaping.

What ended a child is told by evidence: our own kill is recorded, a kill for want of memory is counted by the
control group, CPU time is the kernel's; a SIGKILL that none of these explains came from outside and is nobody's
answer. A child says that its walls stand before it runs anything of a candidate's: what fails before is ours.

Never waits for a pipe or a process alone: a child that closes its output and spins, or one that
exits while its output is still in the pipe, is seen by the same poll.
"""

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field

from verifiers.sandbox.limits import NOT_PLAIN

_TICK_S = 0.05
STARVED_FACTOR = 6.0
READY = b"R"  # what a child writes to its result pipe when its walls stand


@dataclass
class Watched:
    """One child and what it has written. pipes: descriptor → (name, cap)."""

    pid: int
    pidfd: int
    limits: dict
    pipes: dict[int, tuple[str, int]]
    written: dict[str, bytearray] = field(default_factory=dict)
    ending: str = ""
    status: int = 0
    cpu_s: float = 0.0
    peak_kb: int = 0
    started: float = 0.0
    wall_s: float = 0.0
    stopped: bool = False  # by us

    @property
    def ready(self) -> bool:
        """Did its walls come up? Once written the mark cannot be taken back."""
        return self.written["result"][:1] == READY

    @property
    def was_killed(self) -> bool:
        """By SIGKILL, and not by us."""
        return not self.stopped and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    def cpu_now(self) -> float:
        """CPU seconds of all threads of the child, from the kernel's clock of that process."""
        return time.clock_gettime((~self.pid << 3) | 2)


def watch(children: list[Watched], proc: int) -> None:
    """Read what the children write until all have ended or one breaks a limit; then none is alive."""
    poller = select.poll()
    readers: dict[int, Watched] = {}
    for child in children:
        child.started = time.monotonic()
        for fd, (name, _) in child.pipes.items():
            child.written.setdefault(name, bytearray())
            readers[fd] = child
            poller.register(fd, select.POLLIN)
        readers[child.pidfd] = child
        poller.register(child.pidfd, select.POLLIN)
    alive = list(children)
    try:
        while alive:
            for fd, _ in poller.poll(_wait_ms(alive)):
                child = readers[fd]
                if fd == child.pidfd:
                    _drain(child, poller)
                    _reap(child)
                    poller.unregister(fd)
                    alive.remove(child)
                    if child.was_killed:
                        return  # the other one would wait for it
                elif fd in child.pipes:
                    _take(child, fd, poller)
            broken = [child for child in alive if child.ending or _over_time(child, proc)]
            if broken:
                return
    finally:
        for child in alive:
            _kill(child)


def wait_for_reply(child: Watched, back: int, cpu_before: float, proc: int) -> str:
    """Wait until a long-lived child writes to `back`: "done", or why it has to be killed."""
    poller = select.poll()
    poller.register(back, select.POLLIN)
    poller.register(child.pidfd, select.POLLIN)
    limits = child.limits
    while True:
        now = time.monotonic() - child.started
        left = min(limits["cpu_s"], limits["wall_s"]) - now
        events = dict(poller.poll(1000 * left if left > 0 else 10))
        if events.get(back, 0) & select.POLLIN:
            return "done"
        if events:
            return "crashed"
        wall = time.monotonic() - child.started
        if child.cpu_now() - cpu_before >= limits["cpu_s"]:
            return "time_limit"
        if wall >= STARVED_FACTOR * limits["wall_s"]:
            # It neither computed nor answered for that long: waiting is nothing that our code does.
            return "starved"


def _wait_ms(alive: list[Watched]) -> float:
    now = time.monotonic()
    left = min(min(c.limits["wall_s"], c.limits["cpu_s"]) - (now - c.started) for c in alive)
    return 1000 * max(left, 0.005) if left > 0 else 1000 * _TICK_S / 5


def _take(child: Watched, fd: int, poller) -> None:
    name, cap = child.pipes[fd]
    kept = child.written[name]
    part = os.read(fd, 65536)
    if not part:
        _close(child, fd, poller)
        return
    kept += part
    if len(kept) > cap:
        del kept[cap:]
        child.ending = child.ending or "output_limit"


def _close(child: Watched, fd: int, poller) -> None:
    poller.unregister(fd)
    os.close(fd)
    del child.pipes[fd]


def _drain(child: Watched, poller) -> None:
    """What a child that has ended left in its pipes; nobody else can write to them any more."""
    for fd in list(child.pipes):
        os.set_blocking(fd, False)
        try:
            while fd in child.pipes and not child.ending:
                _take(child, fd, poller)
        except BlockingIOError:
            pass
        if fd in child.pipes:
            _close(child, fd, poller)


def _over_time(child: Watched, proc: int) -> bool:
    """Past a limit? Sets the ending. Time spent waiting for a CPU is not the child's."""
    wall = time.monotonic() - child.started
    if wall < min(child.limits["cpu_s"], child.limits["wall_s"]):
        return False
    if child.cpu_now() >= child.limits["cpu_s"]:
        child.ending = "time_limit"
        return True
    if wall < child.limits["wall_s"]:
        return False
    if wall - run_delay(child, proc) >= child.limits["wall_s"]:
        child.ending = "time_limit"
    elif wall > STARVED_FACTOR * child.limits["wall_s"]:
        child.ending = "starved"
    return bool(child.ending)


def run_delay(child: Watched, proc: int) -> float:
    """Seconds in which the child was runnable and did not run; 0 where the kernel does not say."""
    try:
        outside = outside_pid(child.pidfd, proc)
        with open(os.open(f"{outside}/schedstat", os.O_RDONLY, dir_fd=proc)) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0


def outside_pid(pidfd: int, proc: int) -> str:
    """The pid of a child as the /proc from outside numbers it. Raises OSError, StopIteration where it is gone."""
    with open(os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY, dir_fd=proc)) as file:
        return next(line.split()[1] for line in file if line.startswith("Pid:"))


def _kill(child: Watched) -> None:
    child.stopped = True
    with contextlib.suppress(ProcessLookupError):  # it ended by itself between the poll and now
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    _reap(child)


def _reap(child: Watched) -> None:
    _, child.status, usage = os.wait4(child.pid, 0)
    child.wall_s = time.monotonic() - child.started
    child.cpu_s = usage.ru_utime + usage.ru_stime
    child.peak_kb = usage.ru_maxrss
    for fd in (child.pidfd, *child.pipes):
        os.close(fd)
    child.pipes = {}


def ending_of(child: Watched, frame_status: str, ran_out: bool) -> tuple[str, str]:
    """(ending, detail) of a child that is dead: from its frame, or from how the kernel ended it.

    ran_out: did the kernel kill one of the group for want of memory?
    """
    if not child.ready and (child.ending or not child.stopped):
        said = child.written["stderr"].decode("utf-8", "replace").strip()
        return "failed", f"a child's walls could not be put up: {said or child.ending or hex(child.status)}"
    if child.ending:
        return child.ending, ""
    if frame_status in ("done", "exit"):
        return "done", frame_status
    if frame_status == "memory":
        return "memory_limit", "MemoryError"
    if frame_status == "notplain":
        return "crashed", NOT_PLAIN
    if frame_status == "crashed":
        return "crashed", "exception"
    if os.WIFSIGNALED(child.status):
        number = os.WTERMSIG(child.status)
        if number == signal.SIGSYS:
            return "security", "forbidden system call"
        if number in (signal.SIGXCPU, signal.SIGKILL) and child.cpu_s >= child.limits["cpu_s"]:
            return "time_limit", ""
        if number == signal.SIGKILL and ran_out:
            return "memory_limit", "killed by the kernel"
        if child.was_killed:
            return "failed", "a child was killed from outside"
        if number == signal.SIGXFSZ:
            return "crashed", "file too large"
        return "crashed", f"signal {number}"
    return "crashed", f"ended with code {os.waitstatus_to_exitcode(child.status)} and without its frame"
